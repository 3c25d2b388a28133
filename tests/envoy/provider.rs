//! A stand-in for the provider: it answers as the request wishes, and counts what ran.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

/// A request's tag, instead of that in its `metadata`.
pub const TAG_HEADER: &str = "x-tag";

/// What the provider saw of a request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `shared` or `private`, by the key.
    pub project: String,
    /// The verdict header, which must not arrive.
    pub verdict: Option<String>,
    /// The tokens that it used: 0 if it was refused.
    pub used: u64,
}

/// What it saw, by tag.
type SeenByTag = Arc<Mutex<HashMap<String, Vec<Seen>>>>;

/// What its answers depend on.
#[derive(Clone)]
struct Desk {
    seen: SeenByTag,
    /// Whether streams that wait go on.
    gate: watch::Receiver<bool>,
}

/// One provider, whose two projects have a key each.
pub struct Provider {
    pub addr: String,
    seen: SeenByTag,
    gate: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What a request wishes, in its `metadata`.
struct Wish {
    tag: String,
    used: u64,
    then: String,
    streams: bool,
}

impl Provider {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let seen = SeenByTag::default();
        let (gate, closed) = watch::channel(false);
        let desk = Desk {
            seen: Arc::clone(&seen),
            gate: closed,
        };
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(desk);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            addr,
            seen,
            gate,
            task,
        }
    }

    /// What it saw of the requests with this tag, in their order.
    pub fn seen(&self, tag: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.get(tag).cloned().unwrap_or_default()
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Lets the streams that wait go on.
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// What it saw of all requests, by tag.
    pub fn all(&self) -> HashMap<String, Vec<Seen>> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let Desk { seen, gate } = desk;
    let text = |name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let mut wish = Wish::of(&body);
    // A body that can't be read has its tag in a header.
    wish.tag = text(TAG_HEADER).unwrap_or(wish.tag);
    let project = text("authorization").unwrap_or_default();
    let tries = seen.lock().unwrap().get(&wish.tag).map_or(0, Vec::len);
    let wish = wish.at_try(tries);
    let is_refused = wish.then.parse::<u16>().is_ok_and(|status| status < 500);
    let request = Seen {
        project: project.trim_start_matches("Bearer ").to_owned(),
        verdict: text("x-tollgate-verdict"),
        used: if is_refused { 0 } else { wish.used },
    };
    let mut seen = seen.lock().unwrap();
    seen.entry(wish.tag.clone()).or_default().push(request);
    drop(seen);
    wish.answer(gate)
}

impl Wish {
    fn of(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| {
            body["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            tag: text("tag"),
            used: text("used").parse().unwrap_or_default(),
            then: text("then"),
            streams: body["stream"] == true,
        }
    }

    /// `500 once` fails at the first try, and runs well after it.
    fn at_try(mut self, tries: usize) -> Self {
        if self.then == "500 once" {
            self.then = if tries == 0 { "500" } else { "" }.to_owned();
        }
        self
    }

    fn usage(&self) -> Value {
        let output = self.used / 2;
        json!({ "prompt_tokens": self.used - output, "completion_tokens": output, "total_tokens": self.used })
    }

    fn answer(self, gate: watch::Receiver<bool>) -> Response {
        if let Ok(status) = self.then.parse::<u16>() {
            let error = json!({ "error": { "message": "as wished", "type": "stand_in" } });
            let status = StatusCode::from_u16(status).unwrap();
            return (status, axum::Json(error)).into_response();
        }
        match self.streams {
            true => self.events(gate),
            false => self.json(),
        }
    }

    fn json(self) -> Response {
        let mut answer = json!({
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "yes" }, "finish_reason": "stop" }],
        });
        if self.then != "no usage" {
            answer["usage"] = self.usage();
        }
        axum::Json(answer).into_response()
    }

    /// Some chunks, of which the last has the usage. `cut` ends the connection before it, `slow` takes long, `wait`
    /// waits for the gate, `stall` for ever.
    fn events(self, mut gate: watch::Receiver<bool>) -> Response {
        let delta = json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": { "content": "y" } }] });
        let last =
            json!({ "object": "chat.completion.chunk", "choices": [], "usage": self.usage() });
        let mut events: Vec<_> = (0..3).map(|_| event(&delta)).collect();
        match self.then.as_str() {
            "cut" => events.push(Err(std::io::Error::other("cut as wished"))),
            "no usage" => {}
            _ => events.push(event(&last)),
        }
        if self.then != "cut" {
            events.push(Ok("data: [DONE]\n\n".to_owned()));
        }
        let pause = match self.then.as_str() {
            "slow" => Duration::from_secs(1),
            _ => Duration::ZERO,
        };
        let last = events.split_off(3);
        let rest = async move {
            match self.then.as_str() {
                "wait" => drop(gate.wait_for(|is_open| *is_open).await),
                "stall" => std::future::pending().await,
                _ => {}
            }
            stream::iter(last)
        };
        let events = stream::iter(events).chain(rest.into_stream().flatten());
        let events = events.then(move |event| async move {
            tokio::time::sleep(pause).await;
            event
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream")];
        (headers, Body::from_stream(events)).into_response()
    }
}

fn event(chunk: &Value) -> Result<String, std::io::Error> {
    Ok(format!("data: {chunk}\n\n"))
}
