//! docs/CONTRACT.md, "The day": a real midnight under traffic, by the clock of a real Redis, while the replicas' clocks
//! are wrong.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::grpc::proto::ReserveResponse;

use crate::support::{
    calls::{Client, TextFile, large, quota, reserve, sum, usage, verdict_text},
    clock::Clock,
    redis::RedisServer,
    tollgate::Tollgate,
    world::small_policy,
};

const BEFORE_MIDNIGHT: &str = "2026-11-22T23:58:00Z";
const MIDNIGHT: &str = "2026-11-23T00:00:00Z";
const DAYS: [&str; 2] = ["2026-11-22", "2026-11-23"];
const ALLOWANCE: u64 = 6_000;
const CALLERS: usize = 12;
const MAX_IDS_PER_CALLER: usize = 400;
/// The duration of the traffic before and after midnight.
const TRAFFIC_MARGIN: TimeDelta = TimeDelta::milliseconds(1_500);
const SKEW: TimeDelta = TimeDelta::seconds(30);

/// A Redis, and replicas whose clocks are ahead of it by these amounts.
struct SkewedReplicas {
    redis: RedisServer,
    clock: Clock,
    replicas: Vec<(Clock, TimeDelta, Tollgate)>,
}

impl SkewedReplicas {
    /// With this midnight guard.
    fn start(skews: &[TimeDelta], guard: &str) -> Self {
        let clock = Clock::at(BEFORE_MIDNIGHT);
        let redis = RedisServer::start_at(&clock);
        let text =
            small_policy("keep_open").replace("large = 1_000", &format!("large = {ALLOWANCE}"));
        let guard = format!("[program]\nmidnight_guard = \"{guard}\"");
        let policy = TextFile::new(&text.replace("[program]", &guard));
        // No call may fail, however slow the machine is.
        let settings =
            TextFile::new("call_timeout = \"10s\"\n[redis]\nresponse_timeout = \"10s\"\n");
        let url = redis.url();
        let args = ["--store", &url, "--policy", policy.path()];
        let args = [&args[..], &["--config", settings.path()]].concat();
        let start = |skew: &TimeDelta| {
            let own = Clock::real();
            own.shift(clock.ahead() + *skew);
            let begun = own.now();
            let replica = Tollgate::start_with(&args, |command| own.preload(command));
            let logged = replica.log().last().unwrap()["timestamp"].clone();
            let logged: DateTime<Utc> = logged.as_str().unwrap().parse().unwrap();
            // This proves that the process uses its own clock.
            assert!(begun <= logged && logged <= own.now(), "{logged}");
            (own, *skew, replica)
        };
        let replicas = skews.iter().map(start).collect();
        Self {
            redis,
            clock,
            replicas,
        }
    }

    /// Sets all clocks, each with its skew.
    fn set(&self, moment: DateTime<Utc>) {
        self.clock.set(&moment.to_rfc3339());
        for (own, skew, _) in &self.replicas {
            own.shift(self.clock.ahead() + *skew);
        }
    }

    fn clients(&self) -> Vec<Client> {
        let clients = self.replicas.iter().map(|(_, _, replica)| replica.client());
        clients.collect()
    }

    /// When a key of `acme` expires.
    fn expires_at(&self, key: &str) -> String {
        let seconds = self
            .redis
            .integer(&["EXPIRETIME", &format!("tollgate:{{acme}}:{key}")]);
        DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339()
    }
}

/// The day of an answer, as an index into [`DAYS`].
fn day_of(answer: &ReserveResponse) -> usize {
    let resets_at = answer.resets_at.unwrap();
    assert_eq!(resets_at.nanos, 0);
    let resets_at = DateTime::from_timestamp(resets_at.seconds, 0).unwrap();
    let ends = ["2026-11-23T00:00:00+00:00", "2026-11-24T00:00:00+00:00"];
    let day = ends.iter().position(|end| *end == resets_at.to_rfc3339());
    day.unwrap_or_else(|| panic!("{resets_at}"))
}

/// The first answer to an id, and its day.
struct FirstAnswer {
    id: String,
    tokens: u64,
    day: usize,
    verdict: String,
}

/// Reserves one id after the other until a while after midnight, each through one replica and immediately again through
/// the next.
async fn caller(
    clients: Vec<Client>,
    number: usize,
    now: tollgate::store::Clock,
) -> Vec<FirstAnswer> {
    let end = MIDNIGHT.parse::<DateTime<Utc>>().unwrap() + TRAFFIC_MARGIN;
    let mut firsts = Vec::new();
    // Spreads the ids over the whole time.
    let mut pace = tokio::time::interval(Duration::from_millis(15));
    while now().wall < end {
        assert!(firsts.len() < MAX_IDS_PER_CALLER, "the clock stands still");
        let at = firsts.len();
        let (id, tokens) = (format!("{number} {at}"), (at as u64 * 37) % 200 + 50);
        let first = reserve(&clients[at % clients.len()], tokens, &id).await;
        let again = reserve(&clients[(at + 1) % clients.len()], tokens, &id).await;
        assert!(!first.replayed && again.replayed, "{first:?} {again:?}");
        assert!(day_of(&first) <= day_of(&again));
        let (day, verdict) = (day_of(&first), verdict_text(&first));
        assert_eq!(verdict, verdict_text(&again));
        firsts.push(FirstAnswer {
            id,
            tokens,
            day,
            verdict,
        });
        pace.tick().await;
    }
    firsts
}

/// Per day, as usage sums it up: free tokens, billed tokens, free requests, billed requests.
fn sums(firsts: &[FirstAnswer]) -> BTreeMap<usize, (u64, u64, u64, u64)> {
    let mut sums = BTreeMap::<usize, (u64, u64, u64, u64)>::new();
    for FirstAnswer {
        tokens,
        day,
        verdict,
        ..
    } in firsts
    {
        let sum = sums.entry(*day).or_default();
        if verdict == "FREE" {
            (sum.0, sum.2) = (sum.0 + tokens, sum.2 + 1);
        } else {
            assert_eq!(verdict, "AllowanceExceeded");
            (sum.1, sum.3) = (sum.1 + tokens, sum.3 + 1);
        }
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_midnight_each_request_belongs_to_one_day_whatever_clocks_the_replicas_have() {
    let world = SkewedReplicas::start(&[SKEW, TimeDelta::zero(), -SKEW], "0s");
    let clients = world.clients();
    world.set(MIDNIGHT.parse::<DateTime<Utc>>().unwrap() - TRAFFIC_MARGIN);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(caller(clients.clone(), number, world.clock.function())))
        .collect();
    let mut firsts = Vec::new();
    for caller in callers {
        firsts.append(&mut caller.await.unwrap());
    }

    let sums = sums(&firsts);
    for (day, name) in DAYS.iter().enumerate() {
        let (free, billed, _, _) = sums[&day];
        assert!(free <= ALLOWANCE, "{name}: {free}");
        assert!(
            free > ALLOWANCE - 250 && billed > 0,
            "{name}: {free} {billed}"
        );
        for client in &clients {
            assert_eq!(sum(&usage(client, name).await), sums[&day], "{name}");
        }
    }
    let counted = |sum: &(u64, u64, u64, u64)| sum.2 + sum.3;
    assert_eq!(sums.values().map(counted).sum::<u64>(), firsts.len() as u64);

    // Yesterday's ids replay through each replica, and count nothing.
    for (at, first) in firsts.iter().filter(|first| first.day == 0).enumerate() {
        let again = reserve(&clients[at % clients.len()], first.tokens, &first.id).await;
        assert!(again.replayed);
        assert_eq!(
            (verdict_text(&again), day_of(&again)),
            (first.verdict.clone(), 1)
        );
    }
    for client in &clients {
        assert_eq!(quota(client).await.day, DAYS[1]);
        let pool = large(client).await;
        let counted = (
            pool.used,
            pool.billed_tokens,
            pool.free_requests,
            pool.billed_requests,
        );
        assert_eq!(counted, sums[&1]);
        assert_eq!(sum(&usage(client, DAYS[0]).await), sums[&0]);
    }
}

#[tokio::test]
async fn the_keys_of_a_day_expire_exactly_when_the_contract_says() {
    let world = SkewedReplicas::start(&[SKEW, -SKEW], "10m");
    let clients = world.clients();
    world.set("2026-11-22T23:59:45Z".parse().unwrap());
    for (at, client) in clients.iter().enumerate() {
        reserve(client, 10, &format!("before {at}")).await;
    }
    let expected = |ends: [&str; 3], day: &str| {
        let keys = ["pool:large", "requests", "usage"].map(|key| format!("{key}:{day}"));
        for (key, end) in keys.iter().zip(ends) {
            assert_eq!(
                world.expires_at(key),
                format!("{end}T00:00:00+00:00"),
                "{key}"
            );
        }
    };
    expected(["2026-11-23", "2026-11-24", "2026-12-28"], DAYS[0]);
    // The next day counts the reservations too, and that key lives as long as its day.
    let carried = format!("pool:large:{}", DAYS[1]);
    assert_eq!(world.expires_at(&carried), "2026-11-24T00:00:00+00:00");
    world.set("2026-11-23T00:00:00Z".parse().unwrap());
    for (at, client) in clients.iter().enumerate() {
        // A replay of yesterday's id does not extend an expiry.
        assert!(reserve(client, 10, &format!("before {at}")).await.replayed);
        reserve(client, 10, &format!("after {at}")).await;
    }
    expected(["2026-11-24", "2026-11-25", "2026-12-29"], DAYS[1]);
    let held = world.redis.strings(&["KEYS", "*:2026-11-22"]);
    assert_eq!(held.len(), 2, "{held:?}");
    for (key, end) in [("requests", "2026-11-24"), ("usage", "2026-12-28")] {
        let key = format!("{key}:{}", DAYS[0]);
        assert_eq!(world.expires_at(&key), format!("{end}T00:00:00+00:00"));
    }
}

#[tokio::test]
async fn a_replica_whose_clock_jumps_past_midnight_goes_on_counting_on_the_stores_day() {
    let world = SkewedReplicas::start(&[TimeDelta::zero()], "10m");
    let client = &world.clients()[0];
    let (own, _, _) = &world.replicas[0];
    // Forward and back: each jump invalidates the replica's estimate of the store's clock.
    for (at, jump) in [0, 36, -36, -36, 36].into_iter().enumerate() {
        own.advance(TimeDelta::hours(jump));
        let answer = reserve(client, 10, &format!("id {at}")).await;
        assert_eq!(day_of(&answer), 0);
        assert_eq!(
            (answer.replayed, answer.used),
            (false, 10 * (at as u64 + 1))
        );
        own.advance(TimeDelta::hours(jump));
        assert_eq!(quota(client).await.day, DAYS[0]);
        own.advance(TimeDelta::hours(-jump));
        assert_eq!(usage(client, "").await.len(), 1);
    }
    assert_eq!(sum(&usage(client, DAYS[0]).await), (50, 0, 5, 0));
}
