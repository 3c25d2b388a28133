//! A TCP proxy in front of Redis that does to calls of a script what networks do to them.

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

/// What happens to a call of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// It never arrives, and the connection is cut.
    Cut,
    /// It is carried out, its reply is dropped, and the connection is cut.
    DropReply,
    /// The connection is cut, and the call arrives when the test says so.
    Hold,
    /// It arrives so much later, even where nobody waits for it any more; what comes behind it over the
    /// same connection comes behind it.
    Delay(Duration),
}

type Plan = Box<dyn FnMut() -> Fault + Send>;

#[derive(Default)]
struct Shared {
    plan: Mutex<Option<Plan>>,
    held: Mutex<Vec<Vec<u8>>>,
    /// While set, no packet comes through, in either direction: they come afterwards, sent again.
    swallows: watch::Sender<bool>,
    /// How many calls are on their way.
    on_their_way: AtomicUsize,
}

pub struct Proxy {
    port: u16,
    target: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// One in front of a port of this machine, which passes everything at first.
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

    /// Whether the network swallows all packets. What was swallowed is sent again later, and arrives.
    pub fn swallow(&self, swallows: bool) {
        self.shared.swallows.send_replace(swallows);
    }

    /// Waits until every call has arrived that was sent, however late.
    pub async fn wait_until_all_arrived(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.shared.on_their_way.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a call does not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What happens to each call from now on.
    pub fn plan(&self, plan: impl FnMut() -> Fault + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Some(Box::new(plan));
    }

    /// What happens to the next call, and to no other.
    pub fn once(&self, fault: Fault) {
        let mut fault = Some(fault);
        self.plan(move || fault.take().unwrap_or(Fault::Pass));
    }

    /// Passes everything, and lets go of what is held.
    pub fn reset(&self) {
        *self.shared.plan.lock().unwrap() = None;
        self.shared.held.lock().unwrap().clear();
    }

    /// Lets the first call that is held arrive, and waits until it is carried out.
    pub fn deliver_held(&self) {
        let call = self.shared.held.lock().unwrap().remove(0);
        let mut redis = BlockingStream::connect(self.target).unwrap();
        redis.write_all(&call).unwrap();
        assert!(redis.read(&mut [0; 64 * 1024]).unwrap() > 0);
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
            Some(plan) if is_call => plan(),
            _ => Fault::Pass,
        }
    }

    /// Waits while no packet comes through.
    async fn pass(&self) {
        let mut swallows = self.swallows.subscribe();
        // The sender lives as long as this.
        let _ = swallows.wait_for(|swallows| !swallows).await;
    }

    /// Carries a request to Redis, after what keeps it up.
    async fn deliver(
        &self,
        redis: &mut TcpStream,
        request: &[u8],
        after: Duration,
    ) -> io::Result<()> {
        self.on_their_way.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(after).await;
        self.pass().await;
        let sent = redis.write_all(request).await;
        self.on_their_way.fetch_sub(1, Ordering::SeqCst);
        sent
    }
}

/// Carries a connection until either end or a fault ends it.
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
                        let _ = redis.read(&mut replied).await;
                        return;
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
