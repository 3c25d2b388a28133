//! Gateways that reserve, settle and release through any replica, and write down what they are told.

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

use super::history::{Answer, Call, History, Request, What};
use crate::support::{
    calls::{Client, ask, said, settled_as},
    dice::Dice,
};

pub const CALLERS: u64 = 24;

/// The most that a request reserves.
pub const MOST_TOKENS: u64 = 400;

/// Between two requests of a caller: so the machine has time for what is to be tested.
const PACE: Duration = Duration::from_millis(15);

/// Between two tries of a call.
const BEFORE_A_RETRY: Duration = Duration::from_millis(10);

/// No fault keeps a caller waiting for as long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the callers go about it.
#[derive(Debug, Clone)]
pub struct Habits {
    /// The first is hot: seven of ten requests are its.
    pub orgs: Vec<String>,
    /// What every fourth call has.
    pub deadline: Option<Duration>,
    /// Asks again what is known: not where it may have been forgotten, and would count anew.
    pub asks_again: bool,
}

/// Calls through replicas.
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

    /// Makes one call, and writes it down.
    pub async fn call(
        &mut self,
        request: &Arc<Request>,
        what: What,
        replica: usize,
        deadline: Option<Duration>,
    ) -> &Answer {
        let replica = replica % self.replicas.len();
        let begun = Instant::now();
        let answer = answer(&self.replicas[replica], request, what, deadline).await;
        self.history.push(Call {
            request: Arc::clone(request),
            what,
            replica,
            begun,
            ended: Instant::now(),
            deadline,
            answer,
        });
        &self.history[self.history.len() - 1].answer
    }

    /// Makes a call; where it has an id, again and again, each time through the next replica, until it is
    /// answered. Tells how.
    pub async fn call_until_answered(
        &mut self,
        request: &Arc<Request>,
        what: What,
        first: usize,
        deadline: Option<Duration>,
    ) -> Answer {
        let begun = Instant::now();
        for replica in first.. {
            let answer = self.call(request, what, replica, deadline).await.clone();
            let again = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
            match &answer {
                Answer::Failed { code, .. } if request.has_id && again.contains(code) => {}
                _ => return answer,
            }
            assert!(begun.elapsed() < PATIENCE, "{request:?}: {answer:?}");
            tokio::time::sleep(BEFORE_A_RETRY).await;
        }
        unreachable!("there is always a next replica")
    }
}

async fn answer(
    client: &Client,
    request: &Request,
    what: What,
    deadline: Option<Duration>,
) -> Answer {
    let mut client = client.clone();
    let (org, id) = (request.org.clone(), request.name.clone());
    let answered = match what {
        What::Reserve => {
            let asked = ReserveRequest {
                org,
                ..ask(request.tokens, if request.has_id { &id } else { "" })
            };
            let answer = client.reserve(within(asked, deadline)).await;
            answer.map(|answer| Answer::Verdict {
                said: said(answer.get_ref()),
                replayed: answer.get_ref().replayed,
            })
        }
        What::Settle(tokens) => {
            let asked = SettleRequest {
                org,
                request_id: id,
                tokens,
            };
            let answer = client.settle(within(asked, deadline)).await;
            answer.map(|answer| Answer::Verdict {
                said: settled_as(answer.get_ref()),
                replayed: answer.get_ref().replayed,
            })
        }
        What::Release => {
            let asked = ReleaseRequest {
                org,
                request_id: id,
            };
            let answer = client.release(within(asked, deadline)).await;
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
    pub fn over(replicas: &[Client], habits: &Habits) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller {
                number,
                dice: Dice(number),
                gateway: Gateway::over(replicas),
                habits: habits.clone(),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
            };
            callers.spawn(caller.call_on());
        }
        Self {
            stop,
            answered,
            callers,
        }
    }

    /// Waits until so many more calls were answered.
    pub async fn wait_for(&self, more: u64) {
        let patience = Instant::now() + PATIENCE;
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < patience, "the callers do not get on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the callers end what they are about, and gives all that was asked and told.
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
    dice: Dice,
    gateway: Gateway,
    habits: Habits,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Caller {
    async fn call_on(mut self) -> Vec<Call> {
        let mut at = 0;
        while !self.stop.load(Ordering::Relaxed) {
            self.serve_a_request(at).await;
            at += 1;
            tokio::time::sleep(PACE).await;
        }
        self.gateway.history
    }

    async fn serve_a_request(&mut self, at: u64) {
        let others = self.habits.orgs.len() as u64 - 1;
        let org = match self.dice.below(10) {
            0..3 if others > 0 => 1 + self.dice.below(others) as usize,
            _ => 0,
        };
        let request = Arc::new(Request {
            org: self.habits.orgs[org].clone(),
            name: format!("{} {at}", self.number),
            has_id: self.dice.below(10) < 6,
            tokens: 1 + self.dice.below(MOST_TOKENS),
        });
        let answer = self.ask(&request, What::Reserve).await;
        if !request.has_id || matches!(answer, Answer::Failed { .. }) {
            return;
        }
        match self.dice.below(10) {
            0..3 => {
                let settle = What::Settle(self.dice.below(2 * request.tokens));
                self.ask(&request, settle).await;
                if self.habits.asks_again && self.dice.below(4) == 0 {
                    self.ask(&request, settle).await;
                }
            }
            3..5 => {
                self.ask(&request, What::Release).await;
            }
            5..7 if self.habits.asks_again => {
                self.ask(&request, What::Reserve).await;
            }
            _ => {}
        }
    }

    async fn ask(&mut self, request: &Arc<Request>, what: What) -> Answer {
        let deadline = self.habits.deadline.filter(|_| self.dice.below(4) == 0);
        let first = self.dice.below(self.gateway.replicas.len() as u64) as usize;
        let asked = self
            .gateway
            .call_until_answered(request, what, first, deadline);
        let answer = asked.await;
        if !matches!(answer, Answer::Failed { .. }) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}
