//! New versions come, and no caller notices: replicas that are restarted one after the other behind a load
//! balancer, what a connection is told at the end, and how callers try again.

mod envoy;
mod frames;
mod goaway;
mod load;
mod retries;

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use self::{
    envoy::Envoy,
    load::{Load, LoadStats, ORGANIZATIONS},
};
use crate::support::{
    calls::{TextFile, large_of, policy_file_of},
    clock::Clock,
    is_long,
    redis::RedisServer,
    tollgate::Tollgate,
    world::NOON,
};

const REPLICAS: u8 = 3;
const ROUNDS: usize = 2;

/// The service's defaults, which the drain and the end are held to.
const DRAIN_DELAY: Duration = Duration::from_secs(2);
const GRACE_PERIOD: Duration = Duration::from_secs(25);

/// Only a busy machine needs as much; how long a call takes is not what is tested here.
const LONG_TIMEOUTS: &str =
    "call_timeout = \"20s\"\n[redis]\nconnect_timeout = \"10s\"\nresponse_timeout = \"10s\"\n";

/// A replica that comes back at its address after each restart.
struct Replica<'a> {
    running: Tollgate,
    clock: &'a Clock,
    args: Vec<String>,
}

impl<'a> Replica<'a> {
    /// One on an address of the loopback network that nothing else uses: so nobody takes the port in the moment
    /// in which the replica is away.
    fn start(host: u8, clock: &'a Clock, args: &[&str]) -> Self {
        let listen = format!("127.0.0.{host}:0");
        let running = Tollgate::start_at(clock, &[&["--listen", &listen], args].concat());
        Self {
            running,
            clock,
            args: args.iter().map(ToString::to_string).collect(),
        }
    }

    fn addr(&self) -> &str {
        &self.running.addr
    }

    /// Starts it anew at its address; the process before has ended, or is killed.
    fn start_again(&mut self) {
        let addr = self.running.addr.clone();
        if !self.running.has_ended() {
            self.running.signal(Signal::SIGKILL);
            self.running.wait(GRACE_PERIOD);
        }
        let args = self.args.iter().map(String::as_str);
        let args: Vec<&str> = ["--listen", &addr].into_iter().chain(args).collect();
        self.running = Tollgate::start_at(self.clock, &args);
    }

    /// SIGTERM to the end, which is a good one and comes within the grace period.
    fn stop(&mut self) {
        let begun = Instant::now();
        self.running.signal(Signal::SIGTERM);
        let ended = self.running.wait(GRACE_PERIOD);
        assert_eq!(ended.code(), Some(0), "{:?}", self.running.log());
        assert!(begun.elapsed() < GRACE_PERIOD);
    }
}

/// Twice round, 100,000 calls in the long form. Envoy tries nothing again, so that each failure would be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_three_replicas_behind_envoy_fails_no_call_and_counts_each_once() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let (policy, settings) = (
        policy_file_of(ORGANIZATIONS, 1_000_000_000),
        TextFile::new(LONG_TIMEOUTS),
    );
    let url = redis.url();
    let args = ["--store", &url, "--policy", policy.path()];
    let args = [&args[..], &["--config", settings.path()]].concat();
    let mut replicas: Vec<Replica<'_>> = (0..REPLICAS)
        .map(|at| Replica::start(2 + at, &clock, &args))
        .collect();
    let addrs: Vec<&str> = replicas.iter().map(Replica::addr).collect();
    let envoy = Envoy::start(&addrs);
    for addr in addrs {
        envoy.wait_until_healthy(addr);
    }

    let calls_wanted = if is_long() { 100_000 } else { 2_000 };
    let load = Load::start(&envoy);
    let mut restarts = 0;
    for round in 0.. {
        if round >= ROUNDS && load.unary_calls() >= calls_wanted {
            break;
        }
        for replica in &mut replicas {
            // One that nobody calls would end well in any case.
            envoy.wait_for_calls(replica.addr(), 50);
            let begun = Instant::now();
            replica.stop();
            assert!(begun.elapsed() >= DRAIN_DELAY);
            assert!(!envoy.is_healthy(replica.addr()));
            replica.start_again();
            envoy.wait_until_healthy(replica.addr());
            restarts += 1;
        }
    }
    let calls = load.unary_calls();
    let tallies = load.end().await;
    report(calls, restarts, &tallies);

    let failures: Vec<&String> = tallies.iter().flat_map(|it| &it.failures).collect();
    assert!(failures.is_empty(), "{calls} calls, failed: {failures:#?}");
    let client = envoy.client();
    for org in 0..ORGANIZATIONS {
        let of_org = tallies.iter().filter(|it| it.org == org);
        let (requests, tokens) =
            of_org.fold((0, 0), |sum, it| (sum.0 + it.granted, sum.1 + it.tokens));
        let pool = large_of(&client, &format!("org-{org}")).await;
        assert_eq!((pool.free_requests, pool.used), (requests, tokens));
    }
    // What a stream had not answered was not counted, and so no first answer was ever one given before.
    assert_eq!(tallies.iter().map(|it| it.replayed).sum::<u64>(), 0);
    let streams = tallies.iter().filter(|it| it.reopened > 0);
    assert_eq!(streams.count(), 2, "{tallies:?}");
}

fn report(calls: u64, restarts: u32, tallies: &[LoadStats]) {
    let sum = |of: fn(&LoadStats) -> u64| tallies.iter().map(of).sum::<u64>();
    println!(
        "{calls} unary calls over {restarts} restarts, {} requests granted with those of streams, {} failures; \
         streams were opened again {} times",
        sum(|it| it.granted),
        sum(|it| it.failures.len() as u64),
        sum(|it| it.reopened)
    );
}
