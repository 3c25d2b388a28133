//! A stand-in for the provider: it answers as the request asks it to, and counts what ran.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri, header},
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

#[derive(Clone)]
struct ProviderState {
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

/// What the provider is to do, by the path and the `metadata` of a request.
struct Behavior {
    path: String,
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
        let state = ProviderState {
            seen: Arc::clone(&seen),
            gate: closed,
        };
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(state);
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

async fn answer(
    State(state): State<ProviderState>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let ProviderState { seen, gate } = state;
    let text = |name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let mut behavior = Behavior::of(uri.path(), &body);
    // A body that can't be read has its tag in a header.
    behavior.tag = text(TAG_HEADER).unwrap_or(behavior.tag);
    let project = text("authorization").unwrap_or_default();
    let tries = seen.lock().unwrap().get(&behavior.tag).map_or(0, Vec::len);
    let behavior = behavior.at_try(tries);
    let is_refused = behavior
        .then
        .parse::<u16>()
        .is_ok_and(|status| status < 500);
    let request = Seen {
        project: project.trim_start_matches("Bearer ").to_owned(),
        verdict: text("x-tollgate-verdict"),
        used: if is_refused { 0 } else { behavior.used },
    };
    let mut seen = seen.lock().unwrap();
    seen.entry(behavior.tag.clone()).or_default().push(request);
    drop(seen);
    behavior.answer(gate)
}

impl Behavior {
    fn of(path: &str, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| {
            body["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            path: path.to_owned(),
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

    fn is_responses(&self) -> bool {
        self.path == "/v1/responses"
    }

    fn usage(&self) -> Value {
        let (output, total) = (self.used / 2, self.used);
        match self.path.as_str() {
            "/v1/responses" => {
                json!({ "input_tokens": total - output, "output_tokens": output, "total_tokens": total })
            }
            "/v1/embeddings" => json!({ "prompt_tokens": total, "total_tokens": total }),
            _ => {
                json!({ "prompt_tokens": total - output, "completion_tokens": output, "total_tokens": total })
            }
        }
    }

    fn answer(self, gate: watch::Receiver<bool>) -> Response {
        if let Ok(status) = self.then.parse::<u16>() {
            let error = json!({ "error": { "message": "asked for", "type": "stand_in" } });
            let status = StatusCode::from_u16(status).unwrap();
            return (status, axum::Json(error)).into_response();
        }
        match self.streams {
            true => self.events(gate),
            false => self.json(),
        }
    }

    fn json(self) -> Response {
        let mut answer = match self.path.as_str() {
            "/v1/responses" => {
                json!({ "object": "response", "status": "completed", "model": "gpt-4o", "output": [] })
            }
            "/v1/embeddings" => {
                json!({ "object": "list", "model": "text-embedding-3-small", "data": [] })
            }
            _ => json!({
                "object": "chat.completion",
                "model": "gpt-4o",
                "choices": [{ "index": 0, "message": { "role": "assistant", "content": "yes" }, "finish_reason": "stop" }],
            }),
        };
        if self.then != "no usage" {
            answer["usage"] = self.usage();
        }
        axum::Json(answer).into_response()
    }

    /// A part of the answer, and the end, which has the usage.
    fn chunks(&self) -> (Value, Value) {
        if self.is_responses() {
            let response =
                json!({ "object": "response", "status": "completed", "usage": self.usage() });
            return (
                json!({ "type": "response.output_text.delta", "delta": "y" }),
                json!({ "type": "response.completed", "response": response }),
            );
        }
        let chunk =
            |choices: Value| json!({ "object": "chat.completion.chunk", "choices": choices });
        let mut last = chunk(json!([]));
        last["usage"] = self.usage();
        (
            chunk(json!([{ "index": 0, "delta": { "content": "y" } }])),
            last,
        )
    }

    /// Some chunks, of which the last has the usage. `cut` ends the connection before it, `slow` takes long, `wait`
    /// waits for the gate, `stall` for ever.
    fn events(self, mut gate: watch::Receiver<bool>) -> Response {
        let (delta, last) = self.chunks();
        let mut events: Vec<_> = (0..3).map(|_| event(&delta)).collect();
        match self.then.as_str() {
            "cut" => events.push(Err(std::io::Error::other("asked for"))),
            "no usage" => {}
            _ => events.push(event(&last)),
        }
        if self.then != "cut" && !self.is_responses() {
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
    let name = chunk["type"].as_str();
    let name = name.map_or(String::new(), |name| format!("event: {name}\n"));
    Ok(format!("{name}data: {chunk}\n\n"))
}
