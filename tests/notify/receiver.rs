//! A receiver of notifications, on a loopback socket.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

/// Longer than anything takes, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// How it answers a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Status(u16),
    /// 503, with `Retry-After`.
    RetryAfter(&'static str),
    Redirect(u16),
    Slow(Duration),
    /// It never answers.
    Hang,
    /// It closes the connection instead of an answer.
    Close,
    /// 200, and a body without end.
    EndlessBody,
    /// A head without end.
    EndlessHead,
}

/// What it received.
#[derive(Debug, Clone)]
pub struct ReceivedPost {
    pub head: String,
    pub body: Value,
    pub at: Instant,
}

#[derive(Default)]
struct ReceiverState {
    received: Vec<ReceivedPost>,
    /// The answers to the next requests.
    next: VecDeque<Answer>,
    /// The answer to each further one.
    then: Option<Answer>,
    /// What it wrote of a body without end.
    written: usize,
}

pub struct Receiver {
    pub addr: String,
    state: Arc<Mutex<ReceiverState>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// One that answers so, the last answer to all further requests.
    pub async fn start(answers: &[Answer]) -> Self {
        Self::start_at("127.0.0.1:0", answers).await
    }

    pub async fn start_at(addr: &str, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (then, next) = answers.split_last().unwrap();
        let state = Arc::new(Mutex::new(ReceiverState {
            next: next.iter().copied().collect(),
            then: Some(*then),
            ..ReceiverState::default()
        }));
        let addr = listener.local_addr().unwrap().to_string();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { addr, state, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/s3cret?key=s3cret", self.addr)
    }

    pub fn received(&self) -> Vec<ReceivedPost> {
        self.state.lock().unwrap().received.clone()
    }

    pub fn written(&self) -> usize {
        self.state.lock().unwrap().written
    }

    /// Waits until it has received so many.
    pub async fn wait_for(&self, count: usize) -> Vec<ReceivedPost> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            assert!(Instant::now() < deadline, "{received:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a request: its head, and its body by `content-length`.
async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                return (
                    text[..head.len()].to_owned(),
                    serde_json::from_str(body).unwrap(),
                );
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "{text}");
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<ReceiverState>>) {
    let (head, body) = read(&mut stream).await;
    let answer = {
        let mut state = state.lock().unwrap();
        let at = Instant::now();
        state.received.push(ReceivedPost { head, body, at });
        let next = state.next.pop_front();
        next.or(state.then).unwrap()
    };
    let head = match answer {
        Answer::Status(code) => format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\n\r\nok"),
        Answer::RetryAfter(seconds) => {
            format!("HTTP/1.1 503 X\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n")
        }
        Answer::Redirect(code) => {
            format!("HTTP/1.1 {code} X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
        }
        Answer::Slow(delay) => {
            sleep(delay).await;
            "HTTP/1.1 204 X\r\n\r\n".to_owned()
        }
        Answer::Hang => std::future::pending().await,
        Answer::Close => return,
        Answer::EndlessBody => "HTTP/1.1 200 X\r\n\r\n".to_owned(),
        Answer::EndlessHead => "HTTP/1.1 200 X\r\n".to_owned(),
    };
    let _ = stream.write_all(head.as_bytes()).await;
    let part = match answer {
        Answer::EndlessBody => "x".repeat(64 << 10),
        Answer::EndlessHead => format!("x-more: {}\r\n", "x".repeat(8 << 10)),
        _ => return,
    };
    while stream.write_all(part.as_bytes()).await.is_ok() {
        state.lock().unwrap().written += part.len();
    }
}
