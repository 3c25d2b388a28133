//! docs/DURABILITY.md, "When Redis forgets" and "Lost answers": random sequences of calls and faults over replicas on
//! one Redis. Each answer must be the model's, and what a single replica acknowledged as free never exceeds the
//! allowance.
//!
//! `TOLLGATE_SIMULATIONS` sets their number; otherwise `TOLLGATE_LONG` runs more. `TOLLGATE_SEED` replays one, and
//! prints its steps; with a number it is the first of as many.

mod model;

use std::sync::Arc;

use redis::{Value, cmd};
use tokio::task::JoinSet;
use tollgate::{
    domain::{BilledReason, ExternalSource, PoolName, Refusal, Tokens, Verdict},
    ledger::{Ledger, LedgerConfig, LedgerError, SetExternalUsage, Settle},
    store::{PoolBalance, StoreError},
};

use self::model::{ALLOWANCE, Answer, Call, Model, Operation, Process, RedisState, SHARE};
use crate::support::{
    clock::Clock,
    proxy::{Fault, Proxy},
    random::Random,
    redis::RedisServer,
    seeds,
    world::{
        NOON, ReserveExt as _, new_reserve, new_settle, org_id, policy_text, redis_store_at,
        request_id, small_policy,
    },
};

const SIMULATIONS: u64 = 300;
const LONG_SIMULATIONS: u64 = 100_000;
/// Each has its own Redis.
const CONCURRENT_SIMULATIONS: usize = 4;
const REPLICAS: u64 = 3;
const MAX_STEPS: u64 = 40;
const IDS: u64 = 8;

#[derive(Debug)]
enum Step {
    Call(usize, Operation, Fault),
    /// A held call arrives.
    Arrive,
    /// Saves the state to which a later loss reverts.
    Save,
    FallBack,
    Flush,
    /// A replica ends, and a new process replaces it.
    Replace(usize),
    NextDay,
    /// The clock jumps within the day.
    Jump(i64),
    Quota(usize),
}

fn step(random: &mut Random, replicas: u64, settles: bool) -> Step {
    let replica = random.below(replicas) as usize;
    let fault = match random.below(10) {
        0 => Fault::Cut,
        1 => Fault::DropReply,
        2 => Fault::Hold,
        _ => Fault::Pass,
    };
    let id = random.below(IDS);
    let tokens = 1 + random.below(300) as i64;
    match random.below(100) {
        0..50 => {
            let id = (random.below(2) == 0).then_some(id);
            // The same id mostly has the same tokens.
            let tokens = id.map_or(tokens, |id| 40 * (id as i64 + 1) + i64::from(tokens > 290));
            // The same id has the same project.
            let operation = Operation::Reserve {
                id,
                tokens,
                in_share: id.map_or(tokens % 2 == 0, |id| id % 2 == 0),
            };
            Step::Call(replica, operation, fault)
        }
        50..60 if settles => {
            let outside = random.below(4) == 0;
            Step::Call(
                replica,
                Operation::Settle {
                    id,
                    tokens,
                    outside,
                },
                fault,
            )
        }
        60..66 if settles => Step::Call(replica, Operation::Release { id }, fault),
        66..69 => {
            let tokens = 100 * random.below(8) as i64;
            Step::Call(replica, Operation::SetExternal { tokens }, fault)
        }
        69..76 => Step::Arrive,
        76..81 => Step::Save,
        81..84 => Step::FallBack,
        84..87 => Step::Flush,
        87..90 if replicas > 1 => Step::Replace(replica),
        90..92 => Step::NextDay,
        92..95 => Step::Jump([-5, -1, 1, 5][random.below(4) as usize]),
        _ => Step::Quota(replica),
    }
}

/// A key of Redis: its name, its value from DUMP, and its expiry.
type Key = (Vec<u8>, Vec<u8>, i64);

/// One Redis, its replicas, and the model.
struct Simulation {
    clock: Clock,
    redis: RedisServer,
    connection: redis::Connection,
    proxies: Vec<Proxy>,
    replicas: Vec<(Process, Ledger)>,
    processes: Process,
    model: Model,
    /// Calls that have not arrived, each with its replica and day.
    held: Vec<(usize, Call, u64)>,
    day: u64,
    hour: i64,
    steps: u64,
    saved: Option<(RedisState, Vec<Key>)>,
}

impl Simulation {
    async fn new() -> Self {
        let clock = Clock::at(NOON);
        let redis = RedisServer::start_at(&clock);
        let mut proxies = Vec::new();
        for _ in 0..REPLICAS {
            proxies.push(Proxy::to(redis.port).await);
        }
        let mut simulation = Self {
            connection: redis.connection(),
            clock,
            redis,
            proxies,
            replicas: Vec::new(),
            processes: 0,
            model: Model::default(),
            held: Vec::new(),
            day: 0,
            hour: 12,
            steps: 0,
            saved: None,
        };
        // Loads the scripts into Redis, so that each call is one message.
        simulation.begin().await;
        let (_, ledger) = &simulation.replicas[0];
        ledger.reserve(new_reserve(1)).await.unwrap();
        simulation.redis.run(&["FLUSHALL"]);
        ledger.reserve(new_reserve(1).id("id")).await.unwrap();
        simulation
    }

    /// Resets everything.
    async fn begin(&mut self) {
        self.redis.run(&["FLUSHALL"]);
        self.clock.set(NOON);
        (self.model, self.held, self.saved) = (Model::default(), Vec::new(), None);
        (self.day, self.hour) = (0, 12);
        for proxy in &self.proxies {
            proxy.reset();
        }
        self.replicas.clear();
        for replica in 0..REPLICAS as usize {
            let new = self.process(replica).await;
            self.replicas.push(new);
        }
    }

    async fn process(&mut self, replica: usize) -> (Process, Ledger) {
        self.processes += 1;
        let store = Arc::new(redis_store_at(&self.proxies[replica].url()));
        let shares = format!("[orgs.acme.shares]\nshared = {SHARE}\n[orgs.other]");
        let policy = small_policy("keep_open").replace("[orgs.other]", &shares);
        let policy = Arc::new(policy_text(&policy));
        let ledger = Ledger::new(LedgerConfig::new(policy, store));
        // The ledger learns the day.
        ledger.quota(&org_id("acme")).await.unwrap();
        (self.processes, ledger)
    }

    async fn run(&mut self, seed: u64, verbose: bool) -> Result<(), String> {
        self.begin().await;
        let mut random = Random(seed);
        let settles = random.below(2) == 0;
        let replicas = 1 + random.below(REPLICAS);
        for at in 0..random.below(MAX_STEPS) {
            let step = step(&mut random, replicas, settles);
            let (received, wanted) = self.take(&step).await;
            if verbose {
                println!("{at}: {step:?}: {received}");
            }
            if received != wanted {
                return Err(format!("step {at}, {step:?}: {received}, and not {wanted}"));
            }
            let (process, _) = self.replicas[0];
            let (granted, (used, ..)) = (self.model.granted(), self.model.quota_through(process));
            if replicas == 1 && (granted > used || used > ALLOWANCE) {
                return Err(format!(
                    "step {at}, {step:?}: {granted} are granted, and {used} counted"
                ));
            }
        }
        Ok(())
    }

    /// The real answer, and the model's.
    async fn take(&mut self, step: &Step) -> (String, String) {
        self.steps += 1;
        let hours = 24 * self.day + self.hour.unsigned_abs();
        self.model.now = 1_000_000 * hours + self.steps;
        match *step {
            Step::Call(replica, operation, fault) => {
                return self.call(replica, operation, fault).await;
            }
            Step::Arrive if !self.held.is_empty() => {
                let (replica, call, day) = self.held.remove(0);
                let is_declined = self.proxies[replica].deliver_held();
                if day == self.day && !is_declined {
                    self.model.apply_without_reply(call);
                }
            }
            Step::Arrive => {}
            Step::Save => self.saved = Some((self.model.redis.clone(), self.snapshot())),
            Step::FallBack => {
                if let Some((held, keys)) = self.saved.take() {
                    self.put_back(keys);
                    self.model.fall_back(held);
                }
            }
            Step::Flush => {
                self.redis.run(&["FLUSHALL"]);
                self.model.fall_back(RedisState::default());
            }
            Step::Replace(replica) => {
                let new = self.process(replica).await;
                let (old, _) = std::mem::replace(&mut self.replicas[replica], new);
                self.model.end(old);
            }
            Step::NextDay => {
                self.clock.advance(chrono::TimeDelta::days(1));
                (self.day, self.saved) = (self.day + 1, None);
                self.model.next_day();
                for (_, ledger) in &self.replicas {
                    ledger.quota(&org_id("acme")).await.unwrap();
                }
            }
            Step::Jump(hours) => {
                if (2..22).contains(&(self.hour + hours)) {
                    self.hour += hours;
                    self.clock.advance(chrono::TimeDelta::hours(hours));
                }
            }
            Step::Quota(replica) => {
                let (process, ledger) = &self.replicas[replica];
                let quota = ledger.quota(&org_id("acme")).await.unwrap();
                let (balance, _) = &quota.pools[0];
                let (_, share) = &quota.shares[0];
                let received = [balance.used, balance.external, share.used];
                let [used, external, in_share] = received.map(|it| it.get() as i64);
                let received = (used, external, in_share);
                let wanted = self.model.quota_through(*process);
                return (format!("{received:?}"), format!("{wanted:?}"));
            }
        }
        Default::default()
    }

    async fn call(
        &mut self,
        replica: usize,
        operation: Operation,
        fault: Fault,
    ) -> (String, String) {
        self.proxies[replica].once(fault);
        let (process, ledger) = &self.replicas[replica];
        let received = perform(ledger, operation).await;
        let call = self.model.call(*process, operation);
        match fault {
            Fault::DropReply => self.model.apply_without_reply(call),
            Fault::Hold => self.held.push((replica, call, self.day)),
            Fault::Pass | Fault::Cut | Fault::Delay(_) => {}
        }
        // Idempotent calls are retried.
        let again = !matches!(operation, Operation::Reserve { id: None, .. });
        let wanted = match fault {
            Fault::Pass => self.model.apply(call),
            _ if again => {
                let call = self.model.call(*process, operation);
                self.model.apply(call)
            }
            _ => Err("no answer"),
        };
        (format!("{received:?}"), format!("{wanted:?}"))
    }

    fn snapshot(&mut self) -> Vec<Key> {
        let connection = &mut self.connection;
        let keys: Vec<Vec<u8>> = cmd("KEYS").arg("*").query(connection).unwrap();
        let saved = keys.into_iter().map(|key| {
            let dump = cmd("DUMP").arg(&key).query(connection).unwrap();
            let expires_at = cmd("PEXPIRETIME").arg(&key).query(connection).unwrap();
            (key, dump, expires_at)
        });
        saved.collect()
    }

    fn put_back(&mut self, keys: Vec<Key>) {
        self.redis.run(&["FLUSHALL"]);
        for (key, dump, expires_at) in keys {
            let mut restore = cmd("RESTORE");
            restore.arg(key).arg(expires_at).arg(dump).arg("ABSTTL");
            let _: Value = restore.query(&mut self.connection).unwrap();
        }
    }
}

async fn perform(ledger: &Ledger, operation: Operation) -> Answer {
    let name = |id: u64| format!("id {id}");
    let used = |pool: Option<PoolBalance>| pool.map_or(0, |pool| pool.used.get() as i64);
    match operation {
        Operation::Reserve {
            id,
            tokens,
            in_share,
        } => {
            let project = if in_share { "shared" } else { "p" };
            let call = new_reserve(tokens as u64).project(project);
            let call = match id {
                Some(id) => call.id(&name(id)),
                None => call,
            };
            let answer = ledger.reserve(call).await.map_err(why)?;
            Ok((verdict(answer.verdict), used(answer.pool), answer.replayed))
        }
        Operation::Settle {
            id,
            tokens,
            outside,
        } => {
            let call = Settle {
                outside_program: outside,
                ..new_settle(&name(id), tokens as u64)
            };
            let answer = ledger.settle(call).await.map_err(why)?;
            Ok((verdict(answer.verdict), used(answer.pool), answer.replayed))
        }
        Operation::SetExternal { tokens } => {
            let request = SetExternalUsage {
                org: org_id("acme"),
                pool: PoolName::parse("large").unwrap(),
                source: ExternalSource::Manual,
                tokens: Tokens::new(tokens as u64).unwrap(),
                note: String::new(),
                caller: None,
            };
            let answer = ledger.set_external_usage(request).await.map_err(why)?;
            Ok(("", used(Some(answer.pool)), false))
        }
        Operation::Release { id } => {
            let answer = ledger.release(org_id("acme"), request_id(&name(id)));
            let answer = answer.await.map_err(why)?;
            Ok(("", used(answer.pool), answer.replayed))
        }
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Free => "FREE",
        Verdict::Billed(BilledReason::AllowanceExceeded) => "EXCEEDED",
        Verdict::Billed(BilledReason::DayClosed) => "DAY_CLOSED",
        Verdict::Billed(BilledReason::RanOutsideProgram) => "OUTSIDE",
        Verdict::Billed(BilledReason::ShareExceeded) => "SHARE",
        Verdict::Billed(_) => "BILLED",
    }
}

fn why(error: LedgerError) -> &'static str {
    match error {
        LedgerError::Refused(Refusal::OtherFields { .. }) => "fields",
        LedgerError::Refused(Refusal::Released) => "released",
        LedgerError::Refused(Refusal::Settled) => "settled",
        LedgerError::Refused(Refusal::UnknownRequestId) => "unknown",
        LedgerError::Refused(Refusal::OtherPlace { .. }) => "place",
        LedgerError::Refused(Refusal::OtherAmount { .. }) => "amount",
        LedgerError::Store(StoreError::OutcomeUnknown { .. }) => "no answer",
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_lost_answers_late_calls_rollbacks_and_clock_jumps_each_answer_is_the_models() {
    let (seeds, is_replay) = seeds(SIMULATIONS, LONG_SIMULATIONS);
    let mut running = JoinSet::new();
    for first in 0..CONCURRENT_SIMULATIONS {
        let seeds = seeds.clone().skip(first).step_by(CONCURRENT_SIMULATIONS);
        running.spawn(async move {
            let mut simulation = Simulation::new().await;
            for seed in seeds {
                if let Err(failure) = simulation.run(seed, is_replay).await {
                    panic!("TOLLGATE_SEED={seed} replays it: {failure}");
                }
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_writes_are_not_mistaken_for_lost_ones() {
    let mut simulation = Simulation::new().await;
    simulation.begin().await;
    let reserve = |replica, tokens, fault| {
        let operation = Operation::Reserve {
            id: None,
            tokens,
            in_share: false,
        };
        Step::Call(replica, operation, fault)
    };
    for step in [
        reserve(0, 1, Fault::Pass),
        Step::Save,
        // The other replica learns of this write, and its own is lost.
        reserve(0, 5, Fault::DropReply),
        reserve(1, 10, Fault::Pass),
        Step::FallBack,
        Step::Save,
        reserve(0, 100, Fault::Pass),
        // The replica that knows only the lost write comes first.
        Step::FallBack,
        reserve(1, 1, Fault::Pass),
    ] {
        let (received, wanted) = simulation.take(&step).await;
        assert_eq!(received, wanted, "{step:?}");
    }
    let (received, _) = simulation.take(&reserve(0, 1, Fault::Pass)).await;
    assert_eq!(received, format!("{:?}", Answer::Ok(("FREE", 113, false))));
}
