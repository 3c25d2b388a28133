//! HTTP/2 frame by frame: a client library would hide what a connection is told at its end, and would not send
//! what no client may send any more.

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

/// What the other end says, as far as a caller has to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A call's answer, whole.
    Answer(u32, ReserveResponse),
    /// A call has ended otherwise.
    Ended(u32),
    /// No call above this is looked at, for this reason.
    GoAway { last: u32, reason: u32 },
    /// A question whether this end is there, and what it takes to answer it.
    Ping(Vec<u8>),
    /// The connection is closed.
    Closed,
}

/// A connection whose owner answers nothing by itself but the settings.
pub struct Connection {
    tcp: TcpStream,
    /// What came of answers whose ends have not come.
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

    /// Begins a Reserve: its head.
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
            // A literal that no table keeps.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// The rest of it: its message.
    pub async fn finish(&mut self, stream: u32, request: &impl Message) {
        let message = request.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        self.send(DATA, END_STREAM, stream, &body).await;
    }

    /// Both.
    pub async fn call(&mut self, stream: u32, request: &impl Message) {
        self.begin(stream).await;
        self.finish(stream, request).await;
    }

    /// Answers a ping.
    pub async fn answer_ping(&mut self, payload: &[u8]) {
        self.send(PING, ACK, 0, payload).await;
    }

    /// What comes next.
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
                // The head of an answer does not end it, its trailers do.
                HEADERS if flags & END_STREAM == 0 => {}
                HEADERS => return self.answer_of(stream),
                RST_STREAM => return Event::Ended(stream),
                // Windows.
                _ => {}
            }
        }
    }

    fn answer_of(&mut self, stream: u32) -> Event {
        let Some(at) = self.messages.iter().position(|it| it.0 == stream) else {
            return Event::Ended(stream);
        };
        let (_, message) = self.messages.remove(at);
        // Behind whether it is compressed, and its length.
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

    /// Kind, flags, stream and payload; nothing where the connection is closed.
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
