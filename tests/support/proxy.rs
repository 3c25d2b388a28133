//! A TCP proxy in front of Redis that injects network faults into script calls.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream as BlockingStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The fate of a script call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// It never arrives, and the connection is cut.
    Cut,
    /// It is executed, its reply is dropped, and the connection is cut. If it is declined, this befalls the next call.
    DropReply,
    /// The connection is cut, and the call arrives when the test says so.
    Hold,
    /// It arrives this much later, even if nobody waits for it. Later calls on the connection wait behind it.
    Delay(Duration),
}

type Plan = Box<dyn FnMut() -> Fault + Send>;

#[derive(Default)]
struct Shared {
    plan: Mutex<Option<Plan>>,
    held: Mutex<Vec<Vec<u8>>>,
    /// While set, no packet passes in either direction. Packets are retransmitted afterwards.
    drops_packets: watch::Sender<bool>,
    /// The number of calls in flight.
    in_flight: AtomicUsize,
    /// The fate of the next call, whatever the plan says.
    next: Mutex<Option<Fault>>,
}

pub struct Proxy {
    port: u16,
    target: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a local port, without faults at first.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let shared = Arc::new(Shared::default());
        let plan = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, Arc::clone(&plan)));
            }
        });
        Self {
            port: own_port,
            target,
            shared,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the network drops all packets. They are retransmitted later, and arrive.
    pub fn drop_packets(&self, drops_packets: bool) {
        self.shared.drops_packets.send_replace(drops_packets);
    }

    /// Waits until every call that was sent has arrived.
    pub async fn wait_until_all_arrived(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.shared.in_flight.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a call does not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sets the fate of each further call.
    pub fn plan(&self, plan: impl FnMut() -> Fault + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Some(Box::new(plan));
    }

    /// Sets the fate of the next call only.
    pub fn once(&self, fault: Fault) {
        let mut fault = Some(fault);
        self.plan(move || fault.take().unwrap_or(Fault::Pass));
    }

    /// Removes all faults, and drops held calls.
    pub fn reset(&self) {
        *self.shared.plan.lock().unwrap() = None;
        *self.shared.next.lock().unwrap() = None;
        self.shared.held.lock().unwrap().clear();
    }

    /// Delivers the first held call, and waits until it is executed. Returns whether it was declined.
    pub fn deliver_held(&self) -> bool {
        let call = self.shared.held.lock().unwrap().remove(0);
        let mut redis = BlockingStream::connect(self.target).unwrap();
        redis.write_all(&call).unwrap();
        let mut reply = [0; 64 * 1024];
        let length = redis.read(&mut reply).unwrap();
        assert!(length > 0);
        is_declined(&reply[..length])
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn fault(&self, request: &[u8]) -> Fault {
        let is_call = request.windows(4).any(|word| word == b"EVAL");
        let mut plan = self.plan.lock().unwrap();
        match plan.as_mut() {
            Some(plan) if is_call => self.next.lock().unwrap().take().unwrap_or_else(plan),
            _ => Fault::Pass,
        }
    }

    /// Waits until packets pass.
    async fn pass(&self) {
        let mut drops_packets = self.drops_packets.subscribe();
        // The sender lives as long as this.
        let _ = drops_packets.wait_for(|drops_packets| !drops_packets).await;
    }

    /// Delivers a request to Redis after its delay.
    async fn deliver(
        &self,
        redis: &mut TcpStream,
        request: &[u8],
        after: Duration,
    ) -> io::Result<()> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(after).await;
        self.pass().await;
        let sent = redis.write_all(request).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        sent
    }
}

/// Whether this is the reply of reserve.lua to a call that it leaves to the full script.
fn is_declined(reply: &[u8]) -> bool {
    reply.windows(8).any(|word| word == b"declined")
}

/// Forwards a connection until either side or a fault ends it.
async fn carry(mut client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    let Ok(mut redis) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), redis.set_nodelay(true));
    let (mut sent, mut replied) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let carried = tokio::select! {
            read = client.read(&mut sent) => {
                let Some(request) = read.ok().map(|length| &sent[..length]) else {
                    return;
                };
                match shared.fault(request) {
                    _ if request.is_empty() => return,
                    Fault::Pass => shared.deliver(&mut redis, request, Duration::ZERO).await,
                    Fault::Delay(after) => shared.deliver(&mut redis, request, after).await,
                    Fault::Cut => return,
                    Fault::Hold => return shared.held.lock().unwrap().push(request.to_vec()),
                    Fault::DropReply => {
                        let _ = redis.write_all(request).await;
                        let length = redis.read(&mut replied).await.unwrap_or_default();
                        if !is_declined(&replied[..length]) {
                            return;
                        }
                        // It decided nothing: the fault is for the call that does.
                        *shared.next.lock().unwrap() = Some(Fault::DropReply);
                        client.write_all(&replied[..length]).await
                    }
                }
            }
            read = redis.read(&mut replied) => match read {
                Ok(length) if length > 0 => {
                    shared.pass().await;
                    client.write_all(&replied[..length]).await
                }
                _ => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}
