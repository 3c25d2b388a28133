//! Raw HTTP/2 frames: a client library would hide how a connection ends, and would not send invalid frames.

use std::time::Duration;

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tollgate::grpc::proto::ReserveResponse;

use crate::support::floods::PREFACE;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const RESERVE: &str = "/tollgate.v1.QuotaService/Reserve";

/// What a caller observes on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The complete answer to a call.
    Answer(u32, ReserveResponse),
    /// A call ended without an answer.
    Ended(u32),
    /// Calls above this stream id are not processed.
    GoAway { last: u32, reason: u32 },
    /// A ping, with its payload.
    Ping(Vec<u8>),
    /// The connection is closed.
    Closed,
}

/// A connection that answers only SETTINGS by itself.
pub struct Connection {
    tcp: TcpStream,
    /// The messages of answers that have not ended.
    messages: Vec<(u32, Vec<u8>)>,
}

impl Connection {
    pub async fn open(addr: &str) -> Self {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(PREFACE).await.unwrap();
        Self {
            tcp,
            messages: Vec::new(),
        }
    }

    /// Sends the head of a Reserve.
    pub async fn begin(&mut self, stream: u32) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", RESERVE),
            (":authority", "tollgate"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal without indexing.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Sends the message of the call.
    pub async fn finish(&mut self, stream: u32, request: &impl Message) {
        let message = request.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        self.send(DATA, END_STREAM, stream, &body).await;
    }

    /// Sends head and message.
    pub async fn call(&mut self, stream: u32, request: &impl Message) {
        self.begin(stream).await;
        self.finish(stream, request).await;
    }

    pub async fn answer_ping(&mut self, payload: &[u8]) {
        self.send(PING, ACK, 0, payload).await;
    }

    /// The next event.
    pub async fn next_event(&mut self) -> Event {
        loop {
            let Some((kind, flags, stream, payload)) = self.frame().await else {
                return Event::Closed;
            };
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => return Event::Ping(payload),
                GOAWAY => {
                    let number =
                        |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                    let (last, reason) = (number(0) & 0x7fff_ffff, number(4));
                    return Event::GoAway { last, reason };
                }
                DATA => self.messages.push((stream, payload)),
                // The head of an answer does not end it; its trailers do.
                HEADERS if flags & END_STREAM == 0 => {}
                HEADERS => return self.answer_of(stream),
                RST_STREAM => return Event::Ended(stream),
                // Window updates and the like.
                _ => {}
            }
        }
    }

    fn answer_of(&mut self, stream: u32) -> Event {
        let Some(at) = self.messages.iter().position(|it| it.0 == stream) else {
            return Event::Ended(stream);
        };
        let (_, message) = self.messages.remove(at);
        // After the compression flag and the length.
        Event::Answer(stream, ReserveResponse::decode(&message[5..]).unwrap())
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.tcp.write_all(&frame).await.unwrap();
    }

    /// Type, flags, stream and payload; `None` after the connection is closed.
    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 9];
            self.tcp.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.tcp.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            Some((head[3], head[4], stream, payload))
        };
        timeout(WAIT_TIMEOUT, reading)
            .await
            .expect("a frame in time")
    }
}
