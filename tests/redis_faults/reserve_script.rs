//! The script for Reserves (src/store/redis/script/reserve.lua): what it costs, and what it leaves to the full script.

use std::sync::Arc;

use tollgate::{
    domain::{Tokens, UtcDay},
    ledger::Reserve,
    store::{
        Batch, Decision, Operation, Outcome, Recording, RefusalReason, Store as _, StoreError,
        redis::RedisStore,
    },
};

use super::refusals::{LEAST_RIGHTS, url_of_user};
use crate::support::{
    clock::Clock,
    proxy::{Fault, Proxy},
    redis::RedisServer,
    world::{NOON, ReserveExt as _, new_reserve, policy, redis_store, redis_store_at, request_id},
};

/// A batch of one Reserve of a token without an id.
fn batch(org: &str, model: &str, recording: Recording) -> Batch {
    batch_of(new_reserve(1).org(org).model(model), recording)
}

/// A batch of one Reserve.
fn batch_of(call: Reserve, recording: Recording) -> Batch {
    let policy = policy("keep_open");
    let day = UtcDay::parse("2026-11-22").unwrap();
    let assessor = policy.assessor(&call.org, day);
    let operation = Operation::Reserve {
        request_id: call.request_id,
        eligibility: assessor.eligibility(&call.fields),
        fields: call.fields,
        is_listed: true,
        recording,
        has_run: false,
    };
    let terms = assessor.terms();
    Batch {
        org: call.org,
        day,
        terms,
        operations: vec![operation],
    }
}

/// What the pool counts after a batch that was decided.
fn used(decided: &Decision) -> u64 {
    let Decision::Outcomes { outcomes, .. } = decided else {
        panic!("{decided:?}");
    };
    match &outcomes[..] {
        [
            Outcome::Reserved {
                pool: Some(pool), ..
            },
        ] => pool.used.get(),
        other => panic!("{other:?}"),
    }
}

/// How often Redis ran each of these commands while batches were decided.
async fn commands<const COUNT: usize>(
    redis: &RedisServer,
    store: &RedisStore,
    batch: Batch,
    names: [&str; COUNT],
) -> [u64; COUNT] {
    let before = names.map(|name| redis.calls_of(name));
    store.decide(&[batch]).await.pop().unwrap().unwrap();
    let mut counts = names.map(|name| redis.calls_of(name));
    for (count, before) in counts.iter_mut().zip(before) {
        *count -= before;
    }
    counts
}

/// All that a Reserve may need.
const COMMANDS: [&str; 8] = [
    "evalsha", "time", "get", "set", "hmget", "hset", "expireat", "eval",
];

const ONCE: Recording = Recording::Record;

#[tokio::test]
async fn a_reserve_in_a_known_row_takes_one_call_of_five_commands() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    // The first one of the day has a new pool and a new row, and Redis gets both scripts.
    commands(&redis, &store, batch("acme", "gpt-4o", ONCE), COMMANDS).await;
    for _ in 0..2 {
        let counts = commands(&redis, &store, batch("acme", "gpt-4o", ONCE), COMMANDS).await;
        assert_eq!(counts, [1, 1, 1, 1, 1, 1, 0, 0], "{COMMANDS:?}");
    }
    // Another replica has no component in the pool, and needs none for what it does not count there.
    let other = redis_store(&redis);
    let dry_run = || batch("acme", "gpt-4o", Recording::DryRun);
    commands(&redis, &other, dry_run(), ["eval"]).await;
    assert_eq!(commands(&redis, &other, dry_run(), ["evalsha"]).await, [1]);
    // A new row is for the full script, unless nothing is written.
    let dry_run = batch("acme", "o1", Recording::DryRun);
    assert_eq!(commands(&redis, &store, dry_run, ["evalsha"]).await, [1]);
    let new_row = batch("acme", "o1", ONCE);
    assert_eq!(commands(&redis, &store, new_row, ["evalsha"]).await, [2]);
}

const REQUESTS: &str = "tollgate:{acme}:requests:2026-11-22";

/// A field of the requests of `acme`.
fn requests_field(redis: &RedisServer, field: &str) -> Option<String> {
    redis::from_redis_value(redis.run(&["HGET", REQUESTS, field])).unwrap()
}

/// A batch of one Reserve of `acme` with an id.
pub fn batch_with_id(id: &str) -> Batch {
    batch_of(new_reserve(1).id(id), ONCE)
}

#[tokio::test]
async fn a_reserve_with_an_id_takes_one_call_of_eight_commands() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    // The first one of the day has a new class.
    commands(&redis, &store, batch("acme", "gpt-4o", ONCE), COMMANDS).await;
    commands(&redis, &store, batch_with_id("first"), COMMANDS).await;
    for id in ["a", "b"] {
        let counts = commands(&redis, &store, batch_with_id(id), COMMANDS).await;
        assert_eq!(counts, [1, 1, 1, 1, 3, 2, 0, 0], "{COMMANDS:?}");
    }
    let field = |field: &str| requests_field(&redis, field).unwrap();
    assert_eq!([field("b"), field("\u{2}large")], ["F1:1", "3"]);
    // What is known is for the full script; and so is an id that a batch has twice.
    let known = commands(&redis, &store, batch_with_id("a"), ["evalsha"]).await;
    assert_eq!(known, [2]);
    let mut twice = batch_with_id("c");
    twice.operations.extend(batch_with_id("c").operations);
    let decided = store.decide(&[twice]).await.pop().unwrap().unwrap();
    let Decision::Outcomes { outcomes, .. } = decided.answer else {
        panic!("it is the same day");
    };
    let replayed = outcomes.iter().map(|it| match it {
        Outcome::Reserved { replayed, .. } => *replayed,
        other => panic!("{other:?}"),
    });
    assert_eq!(replayed.collect::<Vec<_>>(), [false, true]);
    assert_eq!(field("\u{2}large"), "4");
}

pub fn reserve_of_other() -> Batch {
    batch_of(new_reserve(5).org("other").id("a"), ONCE)
}

/// The Settle of that Reserve.
pub fn settle_of_other() -> Batch {
    let settle = Operation::Settle {
        request_id: request_id("a"),
        tokens: Tokens::of_settle(3).unwrap(),
        outside_program: false,
    };
    Batch {
        operations: vec![settle],
        ..reserve_of_other()
    }
}

#[tokio::test]
async fn each_batch_of_a_call_goes_to_the_script_that_it_needs() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    for batch in [batch_with_id("first"), reserve_of_other()] {
        store.decide(&[batch]).await;
    }
    let before = ["evalsha", "get"].map(|name| redis.calls_of(name));
    let decided = store.decide(&[settle_of_other(), batch_with_id("b")]).await;
    let [Ok(settled), Ok(reserved)] = &decided[..] else {
        panic!("{decided:?}");
    };
    assert!(
        matches!(
            &settled.answer,
            Decision::Outcomes { outcomes, .. } if matches!(
                &outcomes[..],
                [Outcome::Settled { pool: Some(pool), .. }] if pool.used.get() == 3
            )
        ),
        "{settled:?}"
    );
    assert_eq!(used(&reserved.answer), 2);
    let after = ["evalsha", "get"].map(|name| redis.calls_of(name));
    // No pool is read twice.
    assert_eq!([after[0] - before[0], after[1] - before[1]], [2, 2]);
}

/// The replies to the next call are lost, and `then` happens before the one after it.
fn lose_reply(proxy: &Proxy, mut then: impl FnMut() + Send + 'static) {
    let mut calls = 0;
    proxy.plan(move || {
        calls += 1;
        if calls == 1 {
            return Fault::DropReply;
        }
        then();
        Fault::Pass
    });
}

async fn assert_outcome_unknown(store: &RedisStore, batch: Batch) {
    let decided = store.decide(&[batch]).await;
    assert!(
        matches!(&decided[..], [Err(StoreError::OutcomeUnknown { .. })]),
        "{decided:?}"
    );
}

pub async fn is_replayed(store: &RedisStore, batch: Batch) -> bool {
    let decided = store.decide(&[batch]).await.pop().unwrap();
    let Decision::Outcomes { outcomes, .. } = decided.unwrap().answer else {
        panic!("it is another day");
    };
    match outcomes[..] {
        [Outcome::Reserved { replayed, .. }] => replayed,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_whose_reply_was_lost_is_never_answered_as_one_that_did_not_run() {
    let clock = Arc::new(Clock::at(NOON));
    let redis = Arc::new(RedisServer::start_at(&clock));
    let proxy = Proxy::to(redis.port).await;
    let store = redis_store_at(&proxy.url());
    store.decide(&[batch_with_id("first")]).await;
    lose_reply(&proxy, || {});
    assert!(is_replayed(&store, batch_with_id("a")).await);

    let server = Arc::clone(&redis);
    lose_reply(&proxy, move || {
        server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    });
    assert_outcome_unknown(&store, batch_with_id("b")).await;
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    proxy.reset();
    assert!(is_replayed(&store, batch_with_id("b")).await);

    let midnight = Arc::clone(&clock);
    lose_reply(&proxy, move || midnight.set("2026-11-23T00:00:00Z"));
    assert_outcome_unknown(&store, batch_with_id("c")).await;
}

#[tokio::test]
async fn a_reservation_has_its_tokens_as_a_whole_number_however_many() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    store.decide(&[batch_with_id("first")]).await;
    let mut call = new_reserve(1).id("a");
    call.fields.tokens = Tokens::new(1_234_567_890_123_456).unwrap();
    let tokens = call.fields.tokens.get();
    assert!(tokens > 100_000_000_000_000, "{tokens}");
    store.decide(&[batch_of(call, ONCE)]).await;
    let text = requests_field(&redis, "a").unwrap();
    assert_eq!(text, format!("X1:{tokens}"));
}

#[tokio::test]
async fn an_id_of_yesterday_is_known_when_all_else_is_known_too() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let store = redis_store(&redis);
    store.decide(&[batch_with_id("a")]).await;
    clock.set("2026-11-23T12:00:00Z");
    let today = |id: &str| Batch {
        day: UtcDay::parse("2026-11-23").unwrap(),
        ..batch_with_id(id)
    };
    store.decide(&[today("b")]).await;
    let known = commands(&redis, &store, today("c"), ["evalsha"]).await;
    assert_eq!(known, [1]);
    assert!(is_replayed(&store, today("a")).await);
}

#[tokio::test]
async fn a_class_from_before_a_recovery_is_not_used_again() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    store.decide(&[batch_with_id("before")]).await;
    redis.run(&["HSET", REQUESTS, "\u{1}", "1 1"]);
    for id in ["a", "b"] {
        store.decide(&[batch_with_id(id)]).await;
        assert_eq!(requests_field(&redis, id).unwrap(), "F2:1");
    }
    // Now the class is known.
    let known = commands(&redis, &store, batch_with_id("c"), ["evalsha"]).await;
    assert_eq!(known, [1]);
}

#[tokio::test]
async fn foreign_fields_of_requests_are_found_when_all_else_is_known() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    store.decide(&[batch_with_id("first")]).await;
    for (field, foreign) in [("\u{1}", "abc"), ("\u{2}large", "abc"), ("a", "abc")] {
        let before = requests_field(&redis, field);
        redis.run(&["HSET", REQUESTS, field, foreign]);
        let decided = store.decide(&[batch_with_id("a")]).await;
        let [Err(StoreError::Corrupt { reason })] = &decided[..] else {
            panic!("{field:?}: {decided:?}");
        };
        assert!(reason.contains(REQUESTS), "{reason}");
        match before {
            None => redis.run(&["HDEL", REQUESTS, field]),
            Some(before) => redis.run(&["HSET", REQUESTS, field, &before]),
        };
    }
    let decided = store.decide(&[batch_with_id("a")]).await.pop().unwrap();
    assert_eq!(used(&decided.unwrap().answer), 2);
}

#[tokio::test]
async fn a_right_to_some_keys_only_leaves_no_batch_half_written() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let url = url_of_user(&redis, &LEAST_RIGHTS);
    let store = redis_store_at(&url);
    let batches = ["acme", "other"].map(|org| batch(org, "gpt-4o", ONCE));
    store.decide(&batches).await;
    let before = redis.run(&["DUMP", "tollgate:{other}:pool:large:2026-11-22"]);
    // The pools of both and the rows of one would be written before the rows of the other.
    let rights = ["-hset", "(+hset ~tollgate:{acme}:*)"];
    redis.run(&[&["ACL", "SETUSER", "gate"], &rights[..]].concat());
    for round in 2..4 {
        let decided = store.decide(&batches).await;
        let [Ok(decided), Err(StoreError::Refused { why, reason })] = &decided[..] else {
            panic!("{decided:?}");
        };
        assert_eq!(used(&decided.answer), round);
        assert_eq!(
            (*why, reason.as_str()),
            (RefusalReason::NoRight, "lacks +hset")
        );
    }
    let after = redis.run(&["DUMP", "tollgate:{other}:pool:large:2026-11-22"]);
    assert_eq!(after, before);
    redis.run(&["ACL", "SETUSER", "gate", "+hset"]);
    for decided in store.decide(&batches).await {
        assert!([2, 4].contains(&used(&decided.unwrap().answer)));
    }
}

#[tokio::test]
async fn a_foreign_value_fails_its_own_batch_alone() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    let batches = ["acme", "other"].map(|org| batch(org, "gpt-4o", ONCE));
    store.decide(&batches).await;
    let foreign = [
        (
            "HSET",
            "tollgate:{other}:usage:2026-11-22",
            &["p:gpt-4o", "abc"][..],
        ),
        (
            "SET",
            "tollgate:{other}:pool:large:2026-11-22",
            &["\u{c1}"][..],
        ),
        (
            "RPUSH",
            "tollgate:{other}:pool:large:2026-11-22",
            &["1"][..],
        ),
    ];
    for (round, (command, key, words)) in (2..).zip(foreign) {
        redis.run(&["DEL", key]);
        redis.run(&[&[command, key], words].concat());
        let decided = store.decide(&batches).await;
        let [Ok(decided), Err(StoreError::Corrupt { reason })] = &decided[..] else {
            panic!("{key}: {decided:?}");
        };
        assert_eq!(used(&decided.answer), round);
        assert!(reason.contains(key), "{reason}");
        redis.run(&["DEL", key]);
    }
}

#[tokio::test]
async fn batches_of_one_organization_see_what_those_before_them_counted() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    for round in 0..3 {
        let batches = ["acme", "other", "acme"].map(|org| batch(org, "gpt-4o", ONCE));
        let decided = store.decide(&batches).await;
        let used = decided.into_iter().map(|it| used(&it.unwrap().answer));
        let expected = [2 * round + 1, round + 1, 2 * round + 2];
        assert_eq!(used.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_counter_above_the_largest_amount_is_foreign() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let store = redis_store(&redis);
    let reserve = [batch("acme", "gpt-4o", ONCE)];
    store.decide(&reserve).await;
    let key = "tollgate:{acme}:pool:large:2026-11-22";
    for counter in 4..8 {
        let before = redis.run(&["GET", key]);
        let script = format!(
            "local record = {{ cmsgpack.unpack(redis.call('GET', KEYS[1])) }}
             record[{counter}] = 2 ^ 53
             return redis.call('SET', KEYS[1], cmsgpack.pack(unpack(record)), 'KEEPTTL')"
        );
        redis.run(&["EVAL", &script, "1", key]);
        let decided = store.decide(&reserve).await;
        assert!(
            matches!(&decided[..], [Err(StoreError::Corrupt { .. })]),
            "{counter}: {decided:?}"
        );
        // As it was before: Redis has its bytes.
        let undo = script.replace("= 2 ^ 53", "= 1");
        assert_ne!(redis.run(&["GET", key]), before);
        let of_one = if counter == 4 || counter == 6 {
            &undo
        } else {
            &undo.replace("= 1", "= 0")
        };
        redis.run(&["EVAL", of_one, "1", key]);
        assert_eq!(redis.run(&["GET", key]), before);
    }
}
