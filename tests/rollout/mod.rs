//! Rollouts without failures for callers: replicas that restart one after the other behind a load balancer, how their
//! connections end, and how callers retry.

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

/// The service's defaults, which drain and end must meet.
const DRAIN_DELAY: Duration = Duration::from_secs(2);
const GRACE_PERIOD: Duration = Duration::from_secs(25);

/// Timeouts for busy machines: latency is not tested here.
const LONG_TIMEOUTS: &str =
    "call_timeout = \"20s\"\n[redis]\nconnect_timeout = \"10s\"\nresponse_timeout = \"10s\"\n";

/// A replica that restarts at the same address.
struct Replica<'a> {
    running: Tollgate,
    clock: &'a Clock,
    args: Vec<String>,
}

impl<'a> Replica<'a> {
    /// Starts a replica on its own loopback address, so that no other process takes the port during a restart.
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

    /// Starts it again at its address. The previous process has ended, or is killed.
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

    /// Stops it with SIGTERM: it exits with 0 within the grace period.
    fn stop(&mut self) {
        let begun = Instant::now();
        self.running.signal(Signal::SIGTERM);
        let ended = self.running.wait(GRACE_PERIOD);
        assert_eq!(ended.code(), Some(0), "{:?}", self.running.log());
        assert!(begun.elapsed() < GRACE_PERIOD);
    }
}

/// Two rounds; 100,000 calls in the long form. Envoy does not retry, so that each failure would show.
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
            // Without calls, its end would prove nothing.
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
    let stats = load.end().await;
    report(calls, restarts, &stats);

    let failures: Vec<&String> = stats.iter().flat_map(|it| &it.failures).collect();
    assert!(failures.is_empty(), "{calls} calls, failed: {failures:#?}");
    let client = envoy.client();
    for org in 0..ORGANIZATIONS {
        let of_org = stats.iter().filter(|it| it.org == org);
        let (requests, tokens) =
            of_org.fold((0, 0), |sum, it| (sum.0 + it.granted, sum.1 + it.tokens));
        let pool = large_of(&client, &format!("org-{org}")).await;
        assert_eq!((pool.free_requests, pool.used), (requests, tokens));
    }
    // Unanswered requests of a stream were not counted, so no first answer is a replay.
    assert_eq!(stats.iter().map(|it| it.replayed).sum::<u64>(), 0);
    let streams = stats.iter().filter(|it| it.reopened > 0);
    assert_eq!(streams.count(), 2, "{stats:?}");
}

fn report(calls: u64, restarts: u32, stats: &[LoadStats]) {
    let sum = |of: fn(&LoadStats) -> u64| stats.iter().map(of).sum::<u64>();
    println!(
        "{calls} unary calls over {restarts} restarts, {} requests granted with those of streams, {} failures; \
         streams were opened again {} times",
        sum(|it| it.granted),
        sum(|it| it.failures.len() as u64),
        sum(|it| it.reopened)
    );
}
