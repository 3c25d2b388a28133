//! The callers, and what they measured.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep_until},
};
use tonic::{Code, transport::Channel};

use super::Bench;
use crate::{
    cli::{connect, table},
    grpc::proto::{ReserveRequest, Verdict, quota_service_client::QuotaServiceClient},
};

/// Latencies are kept in microseconds, to three digits, up to this; a longer one counts as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// What is sent.
pub(super) struct Load {
    clients: Vec<QuotaServiceClient<Channel>>,
    requests: Requests,
    callers: u32,
    every: Option<Duration>,
    duration: Duration,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) latencies: Histogram<u64>,
    /// How many answers said so, by the verdict's name.
    pub(super) verdicts: BTreeMap<String, u64>,
    /// How many calls failed so, by the code's name.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) elapsed: Duration,
}

/// Makes the requests: one after the other, round the organizations.
#[derive(Clone)]
struct Requests {
    org: String,
    orgs: Option<u32>,
    model: String,
    tokens: u64,
    /// The first part of the ids: another one in each run.
    ids: Option<String>,
}

impl Requests {
    fn make(&self, number: u64) -> ReserveRequest {
        let org = match self.orgs {
            None => self.org.clone(),
            Some(orgs) => format!("{}-{}", self.org, number % u64::from(orgs)),
        };
        let ids = self.ids.as_ref();
        ReserveRequest {
            org,
            project: "bench".to_owned(),
            model: self.model.clone(),
            tokens: self.tokens,
            request_id: ids.map(|run| format!("{run}-{number}")).unwrap_or_default(),
            ..ReserveRequest::default()
        }
    }
}

impl Measured {
    fn new() -> Self {
        let most = u64::try_from(MAX_LATENCY.as_micros()).unwrap_or(u64::MAX);
        Self {
            latencies: Histogram::new_with_max(most, 3).expect("the bounds of a histogram"),
            verdicts: BTreeMap::new(),
            errors: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("both have the same bounds");
        for (mine, others) in [
            (&mut self.verdicts, &other.verdicts),
            (&mut self.errors, &other.errors),
        ] {
            for (name, count) in others {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl Load {
    pub(super) fn of(bench: &Bench) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let run = format!("bench-{:x}-{:x}", std::process::id(), started.as_micros());
        let connections = bench.connections.min(bench.callers);
        Self {
            clients: (0..connections)
                .map(|_| connect(&bench.connection))
                .collect(),
            requests: Requests {
                org: bench.org.clone(),
                orgs: bench.orgs,
                model: bench.model.clone(),
                tokens: bench.tokens,
                ids: bench.ids.then_some(run),
            },
            callers: bench.callers,
            every: bench.rate.map(|rate| Duration::from_secs(1) / rate),
            duration: bench.duration,
        }
    }

    /// Sends the load until its time is over, and waits for the answers that are still due.
    pub(super) async fn run(self) -> anyhow::Result<Measured> {
        let started = Instant::now();
        let (next, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for number in 0..self.callers {
            let client = self.clients[number as usize % self.clients.len()].clone();
            callers.spawn(call(Caller {
                client,
                requests: self.requests.clone(),
                next: Arc::clone(&next),
                answered: Arc::clone(&answered),
                every: self.every,
                started,
                ends: started + self.duration,
            }));
        }
        let progress = tokio::spawn(tell_progress(Arc::clone(&answered), started));
        let mut measured = Measured::new();
        while let Some(caller) = callers.join_next().await {
            measured.add(&caller?);
        }
        progress.abort();
        measured.elapsed = started.elapsed();
        let unanswered = measured.verdicts.is_empty();
        let codes = measured.errors.keys();
        if unanswered && codes.eq([&super::super::code_name(Code::Unavailable)]) {
            bail!("UNAVAILABLE: not one call was answered");
        }
        Ok(measured)
    }
}

struct Caller {
    client: QuotaServiceClient<Channel>,
    requests: Requests,
    /// The number of the next request, of all callers.
    next: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    /// Open loop: a request is due every so often.
    every: Option<Duration>,
    started: Instant,
    ends: Instant,
}

/// One caller, from the first request to the last.
async fn call(mut caller: Caller) -> Measured {
    let mut measured = Measured::new();
    loop {
        let number = caller.next.fetch_add(1, Ordering::Relaxed);
        let due = match caller.every {
            None => Instant::now(),
            Some(every) => {
                let since_start = every.as_secs_f64() * number as f64;
                let due = caller.started + Duration::from_secs_f64(since_start);
                sleep_until(due.min(caller.ends)).await;
                due
            }
        };
        if due >= caller.ends {
            return measured;
        }
        let answer = caller.client.reserve(caller.requests.make(number)).await;
        let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        measured.latencies.saturating_record(micros.max(1));
        caller.answered.fetch_add(1, Ordering::Relaxed);
        let (counts, name) = match answer {
            Ok(answer) => (&mut measured.verdicts, verdict_name(answer.get_ref())),
            Err(status) => (&mut measured.errors, super::super::code_name(status.code())),
        };
        *counts.entry(name).or_default() += 1;
    }
}

fn verdict_name(answer: &crate::grpc::proto::ReserveResponse) -> String {
    match answer.verdict() {
        Verdict::Free => "FREE".to_owned(),
        Verdict::Billed | Verdict::Unspecified => table::reason(answer.billed_reason),
    }
}

/// One line on a terminal, renewed every second.
async fn tell_progress(answered: Arc<AtomicU64>, started: Instant) {
    let second = Duration::from_secs(1);
    let mut ticks = interval_at(started + second, second);
    let mut before = 0;
    loop {
        ticks.tick().await;
        let now = answered.load(Ordering::Relaxed);
        let seconds = started.elapsed().as_secs();
        if stderr().is_terminal() {
            // Whether anybody reads it makes no difference.
            let _ = write!(stderr(), "\r{seconds} s: {} answers/s   ", now - before);
        }
        before = now;
    }
}
