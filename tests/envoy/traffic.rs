//! The requests of the load: each has a tag, which says what it is.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use http_body_util::BodyExt as _;
use serde_json::json;

use super::{
    PATH,
    gateway::{GatewayClient, chat, chat_stream},
    provider::TAG_HEADER,
};

pub const CLIENTS: usize = 64;

/// Beyond what the example's Envoy sends to Tollgate.
const TOO_LARGE: usize = 1_200_000;

/// When a client leaves that does not wait for the answer: mostly during its Check.
const LEAVES_AFTER: Duration = Duration::from_millis(20);

/// The tag of a client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    client: usize,
    at: usize,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the provider is to do, as it knows it: mostly "", to answer well.
    Answered(&'static str),
    /// The client leaves soon, mostly during its Check.
    Leaves,
    /// The client leaves in mid-stream.
    LeavesStream,
    Compressed,
    Malformed,
    /// Envoy cuts the body behind its model.
    CutBehindModel,
    /// Envoy cuts the body before its model.
    CutBeforeModel,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.client, self.at)
    }
}

impl FromStr for Tag {
    type Err = std::num::ParseIntError;

    fn from_str(tag: &str) -> Result<Self, Self::Err> {
        let (client, at) = tag.split_once('-').unwrap_or((tag, ""));
        Ok(Self {
            client: client.parse()?,
            at: at.parse()?,
        })
    }
}

impl Tag {
    pub fn is_in(self, phase: &Range<usize>) -> bool {
        phase.contains(&self.at)
    }

    pub fn kind(self) -> Kind {
        if self.client == self.at && self.at.is_multiple_of(8) {
            return match self.at.is_multiple_of(16) {
                true => Kind::CutBehindModel,
                false => Kind::CutBeforeModel,
            };
        }
        match self.at % 40 {
            3 => Kind::Leaves,
            7 => Kind::Answered("no usage"),
            11 => Kind::Compressed,
            13 => Kind::Answered("429"),
            17 => Kind::Malformed,
            19 => Kind::Answered("500"),
            29 => Kind::Answered("cut"),
            33 => Kind::LeavesStream,
            _ => Kind::Answered(""),
        }
    }

    /// The most that Tollgate may reserve for it as FREE.
    pub fn max_reserved(self) -> u64 {
        match self.kind() {
            Kind::Compressed | Kind::Malformed | Kind::CutBeforeModel | Kind::CutBehindModel => 0,
            _ => 600,
        }
    }

    pub fn is_stream(self) -> bool {
        self.at.is_multiple_of(3) || self.kind() == Kind::LeavesStream
    }

    fn body(self) -> String {
        let (tag, used) = (self.to_string(), 60 + (self.at % 50) as u64);
        let then = match self.kind() {
            Kind::Answered(then) => then,
            Kind::LeavesStream => "stall",
            _ => "",
        };
        let mut body = match self.is_stream() {
            true => chat_stream(&tag, used, then),
            false => chat(&tag, used, then),
        };
        let filler = json!("x".repeat(TOO_LARGE));
        match self.kind() {
            Kind::Malformed => body.to_string()[1..].to_owned(),
            Kind::CutBehindModel => {
                body.as_object_mut().unwrap().remove("model");
                body["messages"][0]["content"] = filler;
                format!("{{\"model\":\"gpt-4o\",{}", &body.to_string()[1..])
            }
            Kind::CutBeforeModel => format!("{{\"a\":{filler},{}", &body.to_string()[1..]),
            _ => body.to_string(),
        }
    }

    async fn send(self, client: &mut GatewayClient) {
        let (tag, body) = (self.to_string(), self.body());
        // It may repeat a verdict and an id as often as it likes.
        let mut headers = vec![
            ("x-tollgate-verdict", "free"),
            ("x-request-id", "same"),
            (TAG_HEADER, &tag),
        ];
        if self.kind() == Kind::Compressed {
            headers.push(("content-encoding", "gzip"));
        }
        match self.kind() {
            Kind::Leaves => {
                let answer = client.begin(PATH, &headers, body);
                drop(tokio::time::timeout(LEAVES_AFTER, answer).await);
                client.reconnect().await;
            }
            Kind::LeavesStream => {
                let answer = client.begin(PATH, &headers, body).await.unwrap();
                drop(answer.into_body().frame().await);
                client.reconnect().await;
            }
            _ => {
                let answer = client.post(PATH, &headers, body).await;
                assert!([200, 429, 500, 503].contains(&answer.status), "{answer:?}");
            }
        }
    }
}

/// Sends a client's requests of a phase, one after the other.
pub async fn send_all(mut client: GatewayClient, number: usize, phase: Range<usize>) {
    for at in phase {
        let tag = Tag { client: number, at };
        tag.send(&mut client).await;
    }
}
