//! A stand-in for the provider's API of usage and costs: its queries, its lag, and its faults.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};

pub const ADMIN_KEY: &str = "sk-admin-0123456789";
pub const PROJECT_KEY: &str = "sk-proj-0123456789";

/// What ran.
#[derive(Debug, Clone)]
pub struct UsageEvent {
    pub at: DateTime<Utc>,
    pub project: &'static str,
    pub model: &'static str,
    pub tier: &'static str,
    pub is_batch: bool,
    pub tokens: u64,
    /// When the provider shows it.
    pub visible_from: DateTime<Utc>,
}

/// What the answer to one request is instead.
#[derive(Debug, Clone)]
pub enum ApiFault {
    Status(u16),
    /// 429 or 503, with `Retry-After`.
    RetryAfter(u16, &'static str),
    Redirect,
    Hang,
    CutBody,
    /// A page with a cursor that was given before.
    RepeatedCursor,
    /// Every number of tokens as this.
    Tokens(fn(u64) -> Value),
    /// Objects and fields that nobody knows. An unknown tier is an event's.
    Unknown,
    /// Another day's bucket beside those that were asked for.
    OtherDay,
    /// A page of 9 MiB.
    Large,
}

pub struct UsageApiServer {
    /// The address with `/v1`.
    pub base: String,
    state: SharedState,
    task: JoinHandle<()>,
}

type SharedState = Arc<Mutex<ApiState>>;

/// What the API has.
pub struct ReportedUsage {
    pub now: DateTime<Utc>,
    pub events: Vec<UsageEvent>,
}

struct ApiState {
    usage: ReportedUsage,
    /// The admin key that is accepted.
    key: String,
    faults: VecDeque<ApiFault>,
    /// How long each answer takes.
    delay: Duration,
    queries: Vec<String>,
}

/// A query's parameters; those of lists have several values.
pub type Parameters = BTreeMap<String, Vec<String>>;

impl UsageEvent {
    pub fn new(
        at: &str,
        project: &'static str,
        model: &'static str,
        tier: &'static str,
        tokens: u64,
    ) -> Self {
        Self::at(at.parse().unwrap(), project, model, tier, tokens)
    }

    /// The provider shows usage in lumps of ten minutes, and five minutes late: a request is visible 5 to 15 minutes after
    /// it ended.
    pub fn at(
        at: DateTime<Utc>,
        project: &'static str,
        model: &'static str,
        tier: &'static str,
        tokens: u64,
    ) -> Self {
        let lump = at.timestamp() / 600 * 600 + 600;
        let visible_from = DateTime::from_timestamp(lump, 0).unwrap() + TimeDelta::minutes(5);
        Self {
            at,
            project,
            model,
            tier,
            is_batch: false,
            tokens,
            visible_from,
        }
    }

    /// As a correction that the provider makes so much later.
    pub fn late(self, by: TimeDelta) -> Self {
        let visible_from = self.visible_from + by;
        Self {
            visible_from,
            ..self
        }
    }
}

impl UsageApiServer {
    pub async fn start(now: &str, events: Vec<UsageEvent>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(ApiState {
            usage: ReportedUsage {
                now: now.parse().unwrap(),
                events,
            },
            key: ADMIN_KEY.to_owned(),
            faults: VecDeque::new(),
            delay: Duration::ZERO,
            queries: Vec::new(),
        }));
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&state));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, state, task }
    }

    /// The next requests are answered so, one after the other.
    pub fn fail(&self, faults: impl IntoIterator<Item = ApiFault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub fn set_now(&self, now: &str) {
        self.state.lock().unwrap().usage.now = now.parse().unwrap();
    }

    /// How long each answer takes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// From now on only this admin key is accepted.
    pub fn set_key(&self, key: &str) {
        key.clone_into(&mut self.state.lock().unwrap().key);
    }

    /// More that ran.
    pub fn add(&self, event: UsageEvent) {
        self.state.lock().unwrap().usage.events.push(event);
    }

    /// The queries so far.
    pub fn queries(&self) -> Vec<String> {
        self.state.lock().unwrap().queries.clone()
    }
}

impl Drop for UsageApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(state): State<SharedState>, uri: Uri, headers: HeaderMap) -> Response {
    let (fault, admin_key, delay) = {
        let mut state = state.lock().unwrap();
        state.queries.push(uri.to_string());
        (state.faults.pop_front(), state.key.clone(), state.delay)
    };
    sleep(delay).await;
    let bearer = headers
        .get(header::AUTHORIZATION)
        .map(|it| it.to_str().unwrap());
    let key = bearer.and_then(|it| it.strip_prefix("Bearer "));
    // As the provider does, the error repeats the key.
    let refuse = |status: StatusCode| {
        (status, json!({ "error": { "message": key } }).to_string()).into_response()
    };
    match key {
        Some(key) if key == admin_key => {}
        Some(PROJECT_KEY) => return refuse(StatusCode::FORBIDDEN),
        _ => return refuse(StatusCode::UNAUTHORIZED),
    }
    let query = uri.query().unwrap_or_default();
    let page = {
        let usage = &state.lock().unwrap().usage;
        match uri.path() {
            "/v1/organization/usage/completions" => usage.page(query),
            "/v1/organization/costs" => usage.costs(query),
            _ => return StatusCode::NOT_FOUND.into_response(),
        }
    };
    let page = match page {
        Ok(page) => page,
        Err(fault) => return (StatusCode::BAD_REQUEST, fault).into_response(),
    };
    match fault {
        None => page.to_string().into_response(),
        Some(fault) => fault.answer(page).await,
    }
}

/// Both spellings of lists: `group_by=a&group_by=b` and `group_by[]=a&group_by[]=b`.
fn parameters(query: &str) -> Parameters {
    let mut parameters = Parameters::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let name = name.trim_end_matches("[]").to_owned();
        parameters.entry(name).or_default().push(value.into_owned());
    }
    parameters
}

/// A width of buckets: its name, its seconds, and how many are answered by default and at most.
pub type BucketWidth = (&'static str, i64, i64, i64);

const WIDTHS: [BucketWidth; 3] = [
    ("1d", 86_400, 7, 31),
    ("1h", 3_600, 24, 168),
    ("1m", 60, 60, 1_440),
];

/// The values that a result is grouped by, in the order of the dimensions.
type GroupKey = Vec<Option<String>>;

impl ReportedUsage {
    /// The answer to a query of usage.
    pub fn page(&self, query: &str) -> Result<Value, &'static str> {
        self.paged(query, &WIDTHS, Self::results)
    }

    /// The answer to a query: `limit` buckets, from `start_time` to before `end_time`, empty ones too.
    pub fn paged(
        &self,
        query: &str,
        widths: &[BucketWidth],
        results: fn(&Self, i64, i64, &Parameters) -> Vec<Value>,
    ) -> Result<Value, &'static str> {
        let parameters = parameters(query);
        let one = |name: &str| parameters.get(name).map(|values| values[0].as_str());
        let number = |name: &str| {
            one(name)
                .map(|it| it.parse::<i64>().map_err(|_| "not a number"))
                .transpose()
        };
        let start = number("start_time")?.ok_or("start_time is missing")?;
        let name = one("bucket_width").unwrap_or("1d");
        let width = widths.iter().find(|(it, ..)| *it == name);
        let (_, width, default, max) = *width.ok_or("bucket_width")?;
        let limit = number("limit")?.unwrap_or(default);
        if limit < 1 || limit > max {
            return Err("limit");
        }
        let end = number("end_time")?.unwrap_or(self.now.timestamp() + 1);
        // The cursor is opaque: the first bucket in hex.
        let first = match one("page") {
            None => start / width * width,
            Some(cursor) => {
                let hex = cursor.strip_prefix("page_=").ok_or("page")?;
                i64::from_str_radix(hex, 16).map_err(|_| "page")?
            }
        };
        let starts = (0..limit)
            .map(|at| first + at * width)
            .filter(|it| *it < end);
        let data = starts.map(|start| {
            let results = results(self, start, width, &parameters);
            json!({ "object": "bucket", "start_time": start, "end_time": start + width, "results": results })
        });
        let data: Vec<Value> = data.collect();
        let next = first + limit * width;
        let cursor = (next < end).then(|| format!("page_={next:x}"));
        Ok(
            json!({ "object": "page", "data": data, "has_more": cursor.is_some(), "next_page": cursor }),
        )
    }

    /// The events of a bucket that are chosen and visible, by those dimensions by which they are to be grouped.
    pub fn groups(
        &self,
        start: i64,
        width: i64,
        parameters: &Parameters,
        dimensions: impl Fn(&UsageEvent) -> Vec<(&'static str, String)>,
    ) -> BTreeMap<GroupKey, Vec<&UsageEvent>> {
        let none = Vec::new();
        let list = |name: &str| parameters.get(name).unwrap_or(&none);
        let grouped = |name: &str| list("group_by").iter().any(|it| it == name);
        let chosen = |name: &str, value: &str| {
            list(name).is_empty() || list(name).iter().any(|it| it == value)
        };
        let mut groups: BTreeMap<GroupKey, Vec<&UsageEvent>> = BTreeMap::new();
        for event in &self.events {
            let at = event.at.timestamp();
            let is_here = at >= start && at < start + width && event.visible_from <= self.now;
            let is_chosen = chosen("models", event.model)
                && chosen("project_ids", event.project)
                && chosen("batch", &event.is_batch.to_string());
            if is_here && is_chosen {
                let key = dimensions(event).into_iter();
                let key = key.map(|(name, value)| grouped(name).then_some(value));
                groups.entry(key.collect()).or_default().push(event);
            }
        }
        groups
    }

    fn results(&self, start: i64, width: i64, parameters: &Parameters) -> Vec<Value> {
        let groups = self.groups(start, width, parameters, |event| {
            vec![
                ("project_id", event.project.to_owned()),
                ("model", event.model.to_owned()),
                ("service_tier", event.tier.to_owned()),
                ("batch", event.is_batch.to_string()),
            ]
        });
        let results = groups.into_iter().map(|(key, events)| {
            let tokens: u64 = events.iter().map(|event| event.tokens).sum();
            json!({
                "object": "organization.usage.completions.result", "input_tokens": tokens - tokens / 4,
                "output_tokens": tokens / 4, "num_model_requests": events.len(), "input_cached_tokens": tokens / 2,
                "project_id": key[0], "user_id": null, "api_key_id": null, "model": key[1],
                "batch": key[3].as_ref().map(|it| it == "true"), "service_tier": key[2],
            })
        });
        results.collect()
    }
}

impl ApiFault {
    async fn answer(self, mut page: Value) -> Response {
        match self {
            Self::Status(code) => StatusCode::from_u16(code).unwrap().into_response(),
            Self::RetryAfter(code, seconds) => {
                let status = StatusCode::from_u16(code).unwrap();
                (status, [(header::RETRY_AFTER, seconds)]).into_response()
            }
            Self::Redirect => {
                (StatusCode::FOUND, [(header::LOCATION, "/v1/elsewhere")]).into_response()
            }
            Self::Hang => std::future::pending().await,
            Self::CutBody => {
                let part = Bytes::from(page.to_string().into_bytes()[..20].to_vec());
                let parts = [Ok(part), Err(std::io::Error::other("cut"))];
                Body::from_stream(stream::iter(parts)).into_response()
            }
            Self::RepeatedCursor => {
                page["data"] = json!([]);
                page["has_more"] = json!(true);
                page["next_page"] = json!("page_=65535a00");
                page.to_string().into_response()
            }
            Self::Tokens(form) => {
                let result = &mut page["data"][0]["results"][0];
                result["input_tokens"] = form(result["input_tokens"].as_u64().unwrap());
                page.to_string().into_response()
            }
            Self::Unknown => {
                let bucket = &mut page["data"][0];
                bucket["new_field"] = json!({ "input_tokens": "x" });
                let results = bucket["results"].as_array_mut().unwrap();
                results.push(json!({ "object": "organization.usage.holograms.result", "input_tokens": "many" }));
                let other = json!({ "object": "notice", "start_time": "soon" });
                page["data"].as_array_mut().unwrap().push(other);
                page.to_string().into_response()
            }
            Self::OtherDay => {
                let mut other = page["data"][0].clone();
                for field in ["start_time", "end_time"] {
                    other[field] = json!(other[field].as_i64().unwrap() - 86_400);
                }
                page["data"].as_array_mut().unwrap().push(other);
                page.to_string().into_response()
            }
            Self::Large => {
                page["padding"] = json!("x".repeat(9 << 20));
                page.to_string().into_response()
            }
        }
    }
}
