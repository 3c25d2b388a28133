//! Gateways that reserve, settle and release through any replica, and record the answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tollgate::grpc::proto::{ReleaseRequest, ReserveRequest, SettleRequest};
use tonic::Code;

use super::history::{Answer, Call, CallKind, History, Request};
use crate::support::{
    calls::{Client, new_reserve, settle_verdict_text, verdict_text},
    random::Random,
};

pub const CALLERS: u64 = 24;

/// The largest reservation.
pub const MAX_TOKENS: u64 = 400;

/// Leaves CPU time to the tested processes.
const REQUEST_INTERVAL: Duration = Duration::from_millis(15);

const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Longer than any fault, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// How callers behave.
#[derive(Debug, Clone)]
pub struct TrafficProfile {
    /// The first one is hot: it has seven of ten requests.
    pub orgs: Vec<String>,
    /// The deadline of every fourth call.
    pub deadline: Option<Duration>,
    /// Whether answered calls are repeated. Not if ids may be lost: a repetition would count again.
    pub repeats_calls: bool,
}

/// A caller of several replicas.
#[derive(Clone)]
pub struct Gateway {
    pub replicas: Vec<Client>,
    pub history: Vec<Call>,
}

pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: JoinSet<Vec<Call>>,
}

impl Gateway {
    pub fn over(replicas: &[Client]) -> Self {
        Self {
            replicas: replicas.to_vec(),
            history: Vec::new(),
        }
    }

    /// Makes one call, and records it.
    pub async fn call(
        &mut self,
        request: &Arc<Request>,
        kind: CallKind,
        replica: usize,
        deadline: Option<Duration>,
    ) -> &Answer {
        let replica = replica % self.replicas.len();
        let begun = Instant::now();
        let answer = answer(&self.replicas[replica], request, kind, deadline).await;
        self.history.push(Call {
            request: Arc::clone(request),
            kind,
            replica,
            begun,
            ended: Instant::now(),
            deadline,
            answer,
        });
        &self.history[self.history.len() - 1].answer
    }

    /// Makes a call. If it has an id, retries it, each time through the next replica, until it is answered. Gives the
    /// answer.
    pub async fn call_until_answered(
        &mut self,
        request: &Arc<Request>,
        kind: CallKind,
        first: usize,
        deadline: Option<Duration>,
    ) -> Answer {
        let begun = Instant::now();
        for replica in first.. {
            let answer = self.call(request, kind, replica, deadline).await.clone();
            let again = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
            match &answer {
                Answer::Failed { code, .. } if request.has_id && again.contains(code) => {}
                _ => return answer,
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{request:?}: {answer:?}");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        unreachable!("there is always a next replica")
    }
}

async fn answer(
    client: &Client,
    request: &Request,
    kind: CallKind,
    deadline: Option<Duration>,
) -> Answer {
    let mut client = client.clone();
    let (org, id) = (request.org.clone(), request.name.clone());
    let answered = match kind {
        CallKind::Reserve => {
            let message = ReserveRequest {
                org,
                ..new_reserve(request.tokens, if request.has_id { &id } else { "" })
            };
            let answer = client.reserve(within(message, deadline)).await;
            answer.map(|answer| Answer::Verdict {
                verdict: verdict_text(answer.get_ref()),
                replayed: answer.get_ref().replayed,
            })
        }
        CallKind::Settle(tokens) | CallKind::SettleOutside(tokens) => {
            let message = SettleRequest {
                org,
                request_id: id,
                tokens,
                outside_program: matches!(kind, CallKind::SettleOutside(_)),
            };
            let answer = client.settle(within(message, deadline)).await;
            answer.map(|answer| Answer::Verdict {
                verdict: settle_verdict_text(answer.get_ref()),
                replayed: answer.get_ref().replayed,
            })
        }
        CallKind::Release => {
            let message = ReleaseRequest {
                org,
                request_id: id,
            };
            let answer = client.release(within(message, deadline)).await;
            answer.map(|answer| Answer::Released {
                tokens: answer.get_ref().released_tokens,
                replayed: answer.get_ref().replayed,
            })
        }
    };
    answered.unwrap_or_else(|status| Answer::failed(&status))
}

fn within<T>(message: T, deadline: Option<Duration>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

impl Traffic {
    pub fn over(replicas: &[Client], profile: &TrafficProfile) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller {
                number,
                random: Random(number),
                gateway: Gateway::over(replicas),
                profile: profile.clone(),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
            };
            callers.spawn(caller.call_until_stopped());
        }
        Self {
            stop,
            answered,
            callers,
        }
    }

    /// Waits until so many more calls are answered.
    pub async fn wait_for(&self, more: u64) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "the callers do not get on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the callers finish, and gives all calls and answers.
    pub async fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        while let Some(calls) = self.callers.join_next().await {
            history.calls.extend(calls.unwrap());
        }
        history
    }
}

struct Caller {
    number: u64,
    random: Random,
    gateway: Gateway,
    profile: TrafficProfile,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Caller {
    async fn call_until_stopped(mut self) -> Vec<Call> {
        let mut at = 0;
        while !self.stop.load(Ordering::Relaxed) {
            self.handle_request(at).await;
            at += 1;
            tokio::time::sleep(REQUEST_INTERVAL).await;
        }
        self.gateway.history
    }

    async fn handle_request(&mut self, at: u64) {
        let others = self.profile.orgs.len() as u64 - 1;
        let org = match self.random.below(10) {
            0..3 if others > 0 => 1 + self.random.below(others) as usize,
            _ => 0,
        };
        let request = Arc::new(Request {
            org: self.profile.orgs[org].clone(),
            name: format!("{} {at}", self.number),
            has_id: self.random.below(10) < 6,
            tokens: 1 + self.random.below(MAX_TOKENS),
        });
        let answer = self.call(&request, CallKind::Reserve).await;
        if !request.has_id || matches!(answer, Answer::Failed { .. }) {
            return;
        }
        match self.random.below(10) {
            0..3 => {
                let tokens = self.random.below(2 * request.tokens);
                let settle = match self.random.below(4) {
                    0 => CallKind::SettleOutside(tokens),
                    _ => CallKind::Settle(tokens),
                };
                self.call(&request, settle).await;
                if self.profile.repeats_calls && self.random.below(4) == 0 {
                    self.call(&request, settle).await;
                }
            }
            3..5 => {
                self.call(&request, CallKind::Release).await;
            }
            5..7 if self.profile.repeats_calls => {
                self.call(&request, CallKind::Reserve).await;
            }
            _ => {}
        }
    }

    async fn call(&mut self, request: &Arc<Request>, kind: CallKind) -> Answer {
        let deadline = self.profile.deadline.filter(|_| self.random.below(4) == 0);
        let first = self.random.below(self.gateway.replicas.len() as u64) as usize;
        let answer = self
            .gateway
            .call_until_answered(request, kind, first, deadline);
        let answer = answer.await;
        if !matches!(answer, Answer::Failed { .. }) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}
