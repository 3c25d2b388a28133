//! The load of gateways during a rollout, and its outcome.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tollgate::grpc::proto::{ReserveRequest, ReserveResponse, reserve_stream_response::Answer};
use tonic::Code;

use super::envoy::Envoy;
use crate::support::{
    calls::{Client, new_reserve, verdict_text},
    is_long,
};

/// Connections to the load balancer with unary calls, the callers on each, and connections with a stream. Each
/// connection has its own organization.
const UNARY_CONNECTIONS: usize = 4;
const CALLERS_PER_CONNECTION: usize = 4;
const STREAMS: usize = 2;

/// The number of organizations.
pub const ORGANIZATIONS: usize = UNARY_CONNECTIONS + STREAMS;

/// How many requests of a stream are in flight.
const WINDOW: usize = 16;

/// A running load.
pub struct Load {
    stop: CancellationToken,
    tasks: JoinSet<LoadStats>,
    unary_calls: Arc<AtomicU64>,
}

/// The outcome of one caller's requests, or of all.
#[derive(Debug, Default)]
pub struct LoadStats {
    pub org: usize,
    /// The granted tokens of answered requests; each has its own id.
    pub granted: u64,
    pub tokens: u64,
    /// How many answers were replays.
    pub replayed: u64,
    /// The callers' errors.
    pub failures: Vec<String>,
    /// How often a stopping replica ended a stream, which was then reopened.
    pub reopened: u64,
}

impl Load {
    pub fn start(envoy: &Envoy) -> Self {
        let (stop, unary_calls) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for org in 0..UNARY_CONNECTIONS {
            let connection = envoy.client();
            for caller in 0..CALLERS_PER_CONNECTION {
                let (client, stop) = (connection.clone(), stop.clone());
                let calls = Arc::clone(&unary_calls);
                tasks.spawn(call(client, org, caller, stop, calls));
            }
        }
        for org in UNARY_CONNECTIONS..ORGANIZATIONS {
            tasks.spawn(hold_stream(envoy.client(), org, stop.clone()));
        }
        Self {
            stop,
            tasks,
            unary_calls,
        }
    }

    /// How many unary calls have been answered or have failed.
    pub fn unary_calls(&self) -> u64 {
        self.unary_calls.load(Ordering::Relaxed)
    }

    /// Stops the load, and waits for the last answers.
    pub async fn end(self) -> Vec<LoadStats> {
        self.stop.cancel();
        self.tasks.join_all().await
    }
}

impl LoadStats {
    fn of(org: usize) -> Self {
        Self {
            org,
            ..Self::default()
        }
    }

    fn answered(&mut self, request: &ReserveRequest, answer: &ReserveResponse) {
        assert_eq!(verdict_text(answer), "FREE");
        self.granted += 1;
        self.tokens += request.tokens;
        self.replayed += u64::from(answer.replayed);
    }
}

/// The delay between two requests of a caller, to leave CPU time to the replicas.
fn pause() -> Duration {
    Duration::from_millis(if is_long() { 4 } else { 40 })
}

fn request(org: usize, id: &str, number: u64) -> ReserveRequest {
    ReserveRequest {
        org: format!("org-{org}"),
        ..new_reserve(1 + number % 7, id)
    }
}

async fn call(
    mut client: Client,
    org: usize,
    caller: usize,
    stop: CancellationToken,
    calls: Arc<AtomicU64>,
) -> LoadStats {
    let mut stats = LoadStats::of(org);
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let request = request(org, &format!("{caller}-{number}"), number);
        match client.reserve(request.clone()).await {
            Ok(answer) => stats.answered(&request, answer.get_ref()),
            Err(status) => stats.failures.push(format!("{status:?}")),
        }
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause()).await;
    }
    stats
}

/// Reopens the stream each time that it ends. Unanswered requests are sent again first.
async fn hold_stream(mut client: Client, org: usize, stop: CancellationToken) -> LoadStats {
    let mut stats = LoadStats::of(org);
    let mut numbers = 0..;
    let mut unanswered: VecDeque<ReserveRequest> = VecDeque::new();
    loop {
        let (requests, sent) = mpsc::unbounded_channel();
        let sent = stream::unfold(sent, |mut sent| async { Some((sent.recv().await?, sent)) });
        let mut answers = match client.reserve_stream(sent).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => {
                stats.failures.push(format!("not opened: {status:?}"));
                return stats;
            }
        };
        for request in &unanswered {
            requests.send(request.clone()).unwrap();
        }
        let mut requests = Some(requests);
        let ended = loop {
            while let Some(open) = &requests
                && unanswered.len() < WINDOW
                && !stop.is_cancelled()
            {
                let number = numbers.next().unwrap();
                let request = request(org, &number.to_string(), number);
                // An ended stream accepts no requests; those in `unanswered` are for the next one.
                let _ = open.send(request.clone());
                unanswered.push_back(request);
                tokio::time::sleep(pause() / 4).await;
            }
            if stop.is_cancelled() {
                // Ends the requests.
                requests = None;
            }
            match answers.message().await {
                Ok(Some(answer)) => {
                    let request = unanswered.pop_front().expect("an answer to a request");
                    match answer.answer.unwrap() {
                        Answer::Reserved(reserved) => stats.answered(&request, &reserved),
                        Answer::Error(error) => stats.failures.push(format!("{error:?}")),
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        };
        match ended {
            Ok(()) if unanswered.is_empty() && stop.is_cancelled() => return stats,
            Err(status)
                if status.code() == Code::Unavailable
                    && status.message().contains("was not counted") =>
            {
                stats.reopened += 1;
            }
            ended => {
                stats.failures.push(format!("a stream ended: {ended:?}"));
                return stats;
            }
        }
    }
}
