//! What may have become of each reservation, by Envoy's own log of its requests and by what the provider saw.

use serde_json::{Value, json};
use tollgate::grpc::proto::{ReleaseRequest, ReleaseResponse, Verdict};
use tonic::{Code, Status};

use super::{
    provider::Seen,
    traffic::{Kind, Tag},
};
use crate::support::calls::{Client, TextFile, reserve};

/// What became of a FREE reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Settled,
    Released,
    Held,
}

/// A reservation as Envoy knows it.
#[derive(Debug, Clone)]
pub struct PublishedReservation {
    pub id: String,
    pub tokens: u64,
    pub is_free: bool,
    pub reason: String,
}

/// A request as Envoy logs it.
#[derive(Debug, Clone)]
pub struct LoggedRequest {
    pub tag: String,
    /// None: Envoy has no verdict, or nothing was reserved.
    pub published: Option<PublishedReservation>,
    pub attempts: u64,
    status: u64,
    client_left: bool,
}

/// Envoy's log of its requests, in a file.
pub struct RequestLog(TextFile);

impl RequestLog {
    pub fn new() -> Self {
        Self(TextFile::new(""))
    }

    /// The configuration of an access log that writes it.
    pub fn config(&self) -> Value {
        json!({
            "name": "requests",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.0.path(),
                "log_format": { "json_format": {
                    "tag": "%REQ(x-tag)%",
                    "published": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tollgate)%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "status": "%RESPONSE_CODE%",
                    "flags": "%RESPONSE_FLAGS%",
                } },
            },
        })
    }

    pub fn count(&self) -> usize {
        self.text().lines().count()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.0.path()).unwrap()
    }

    pub fn read(&self) -> Vec<LoggedRequest> {
        let text = self.text();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.map(|line| LoggedRequest::of(&line)).collect()
    }
}

impl LoggedRequest {
    fn of(line: &Value) -> Self {
        let published = &line["published"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let flags = text(&line["flags"]);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let number = |value: &Value| value.as_f64().unwrap_or_default() as u64;
        Self {
            tag: text(&line["tag"]),
            published: published.is_object().then(|| PublishedReservation {
                id: text(&published["id"]),
                tokens: number(&published["tokens"]),
                is_free: published["verdict"] == "free",
                reason: text(&published["billed_reason"]),
            }),
            attempts: number(&line["attempts"]),
            status: number(&line["status"]),
            client_left: flags.split(',').any(|it| ["DC", "DR"].contains(&it)),
        }
    }

    /// What may have become of its FREE reservation (docs/CONTRACT.md, "Envoy").
    pub fn ends(&self, seen: &[Seen]) -> &'static [End] {
        use End::{Held, Released, Settled};
        let tag = self.tag.parse::<Tag>();
        let kind = tag.as_ref().map_or(Kind::Answered(""), |tag| tag.kind());
        let is_stream = tag.is_ok_and(Tag::is_stream);
        match kind {
            _ if self.attempts == 0 => &[Released],
            // Every attempt found no connection: there is no stream to leave either.
            _ if seen.is_empty() && self.status == 503 && !self.client_left => &[Released],
            Kind::LeavesStream => &[Held],
            // It may have left when all of the answer was there.
            _ if self.client_left => &[Held, Settled],
            Kind::Answered("429") => &[Released],
            Kind::Answered("500" | "no usage") => &[Held],
            Kind::Answered("cut") if is_stream => &[Held],
            // What the earlier attempts may have used does not always fit.
            _ if self.attempts > 1 => &[Settled, Held],
            _ => &[Settled],
        }
    }
}

/// Finds out what became of a reservation, by releasing it: what was held still is so no longer.
pub async fn end_of(client: &Client, published: &PublishedReservation) -> End {
    match release(client, &published.id).await {
        Ok(answer) if answer.replayed => End::Released,
        Ok(answer) => {
            assert_eq!(answer.released_tokens, published.tokens);
            End::Held
        }
        Err(status) => {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            End::Settled
        }
    }
}

/// The tokens that are held for attempts before the last one, released like this. None: they were never reserved.
pub async fn held_for_earlier_attempts(client: &Client, request: &LoggedRequest) -> Option<u64> {
    if request.attempts <= 1 {
        return Some(0);
    }
    let published = request.published.as_ref().unwrap();
    let (id, attempts) = (format!("{}:earlier", published.id), request.attempts - 1);
    // Gets the first answer again, if there was one.
    let first = reserve(client, attempts * published.tokens, &id).await;
    let released = release(client, &id).await.unwrap();
    if !first.replayed {
        return None;
    }
    // A BILLED one holds nothing.
    let is_free = first.verdict() == Verdict::Free;
    Some(if is_free { released.released_tokens } else { 0 })
}

/// Releases what remained of the allowance and was reserved, since the earlier attempts did not fit.
pub async fn release_rest(client: &Client, request: &LoggedRequest) {
    let published = request.published.as_ref().unwrap();
    for rest in ["rest", "rest-2", "rest-3"] {
        if request.attempts > 1
            && let Err(status) = release(client, &format!("{}:{rest}", published.id)).await
        {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
        }
    }
}

async fn release(client: &Client, id: &str) -> Result<ReleaseResponse, Status> {
    let request = ReleaseRequest {
        org: "acme".to_owned(),
        request_id: id.to_owned(),
    };
    let answer = client.clone().release(request).await?;
    Ok(answer.into_inner())
}
