//! Batches in Redis: when their keys expire, and the size of a reservation.

use chrono::DateTime;
use tollgate::ledger::Reserve;

use super::NewWorld;
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy, policy_text, small_policy,
};

/// Runs each case over Redis and over Valkey.
macro_rules! over_every_server {
    ($($case:ident),+ $(,)?) => {
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::World::redis).await; })+
        }
        mod valkey {
            $(#[tokio::test] async fn $case() { super::$case(super::World::valkey).await; })+
        }
    };
}

over_every_server!(
    the_keys_that_a_batch_creates_expire_exactly_when_the_contract_says,
    a_batch_that_settles_yesterdays_reservations_leaves_their_expiry_alone,
    reservations_are_found_without_a_search_from_the_first_on_and_each_is_small,
);

/// Project and model of a gateway with long names.
const PROJECT: &str = "proj_0123456789abcdefghijklmnopqrstuvwxyz-0123456789-team-search-production";
const MODEL: &str = "gpt-4o-2024-08-06-with-a-name-that-is-longer-than-most-of-them-are";

/// UUIDs, like those of gateways.
const IDS: u64 = 20_000;
const MAX_BYTES_PER_ID: u64 = 130;

fn expires_at(world: &World, key: &str) -> String {
    let seconds = world.redis.as_ref().unwrap().integer(&["EXPIRETIME", key]);
    DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339()
}

fn keys(world: &World) -> Vec<String> {
    let mut keys = world.redis.as_ref().unwrap().strings(&["KEYS", "*"]);
    keys.sort();
    keys
}

async fn all_succeed(world: &World, calls: Vec<Reserve>) {
    for answer in world.ledger.reserve_all(calls).await {
        answer.unwrap();
    }
}

async fn the_keys_that_a_batch_creates_expire_exactly_when_the_contract_says(new: NewWorld) {
    let world = new(policy("keep_open"));
    let midnight = "2026-11-23T00:00:00+00:00";
    let wanted: Vec<(String, &str)> = ["acme", "other"]
        .into_iter()
        .flat_map(|org| {
            [
                ("pool:large", midnight),
                ("pool:mini", midnight),
                ("requests", "2026-11-24T00:00:00+00:00"),
                ("usage", "2026-12-28T00:00:00+00:00"),
            ]
            .map(|(key, expires)| (format!("tollgate:{{{org}}}:{key}:2026-11-22"), expires))
        })
        .collect();
    let of_both = |round: usize| -> Vec<Reserve> {
        let models = ["gpt-4o", "gpt-4o-mini", "o1", "gpt-5"];
        (0..200)
            .map(|at| {
                let call = new_reserve(1)
                    .org(["acme", "other"][at % 2])
                    .project(&format!("p{}", at % 17))
                    .model(models[at / 2 % 4]);
                match at % 3 {
                    0 => call,
                    _ => call.id(&format!("{round} {at}")),
                }
            })
            .collect()
    };
    // The second batch adds to existing rows, ids and counters. The script is flushed in between.
    for round in 0..2 {
        all_succeed(&world, of_both(round)).await;
        world.settle(&format!("{round} 2"), 5).await;
        world.release(&format!("{round} 4")).await;
        let expiries: Vec<_> = keys(&world)
            .into_iter()
            .map(|key| (key.clone(), expires_at(&world, &key)))
            .collect();
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(key, expires)| (key.clone(), (*expires).to_owned()))
            .collect();
        assert_eq!(expiries, wanted, "round {round}");
        world.redis.as_ref().unwrap().run(&["SCRIPT", "FLUSH"]);
        world.clock.advance(chrono::TimeDelta::hours(5));
    }
}

async fn a_batch_that_settles_yesterdays_reservations_leaves_their_expiry_alone(new: NewWorld) {
    let world = new(policy("keep_open"));
    let of_day = |day: &str| -> Vec<Reserve> {
        (0..50)
            .map(|at| {
                new_reserve(1)
                    .project(&format!("p{at}"))
                    .id(&format!("{day} {at}"))
            })
            .collect()
    };
    all_succeed(&world, of_day("one")).await;
    world.clock.set("2026-11-23T00:00:05Z");
    all_succeed(&world, [of_day("one"), of_day("two")].concat()).await;
    for at in 0..10 {
        world.settle(&format!("one {at}"), 2).await;
        world.release(&format!("one {}", at + 20)).await;
    }
    for (key, expires) in [
        ("pool:large:2026-11-23", "2026-11-24T00:00:00+00:00"),
        ("requests:2026-11-22", "2026-11-24T00:00:00+00:00"),
        ("requests:2026-11-23", "2026-11-25T00:00:00+00:00"),
        ("usage:2026-11-22", "2026-12-28T00:00:00+00:00"),
        ("usage:2026-11-23", "2026-12-29T00:00:00+00:00"),
    ] {
        assert_eq!(
            expires_at(&world, &format!("tollgate:{{acme}}:{key}")),
            expires,
            "{key}"
        );
    }
    assert_eq!(keys(&world).len(), 5, "{:?}", keys(&world));
}

/// Redis stores a small hash as a list, and searches it from the start: a hundred ids would cost more than ten
/// thousand.
async fn reservations_are_found_without_a_search_from_the_first_on_and_each_is_small(
    new: NewWorld,
) {
    let text = small_policy("keep_open").replace("\"o1\"", &format!("\"{MODEL}\""));
    let world = new(policy_text(&text));
    let redis = world.redis.as_ref().unwrap();
    let key = "tollgate:{acme}:requests:2026-11-22";
    let call = |at: u64| {
        let mixed = u128::from(at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let hex = format!("{mixed:032x}");
        let id = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-");
        new_reserve(at % 5_000 + 1)
            .project(PROJECT)
            .model(MODEL)
            .id(&id)
    };
    all_succeed(&world, vec![call(0)]).await;
    let encoding = redis.run(&["OBJECT", "ENCODING", key]);
    let encoding: String = ::redis::from_redis_value(encoding).unwrap();
    assert_eq!(encoding, "hashtable");
    for from in (1..IDS).step_by(1_000) {
        let to = IDS.min(from + 1_000);
        all_succeed(&world, (from..to).map(call).collect()).await;
    }
    let fields = u64::try_from(redis.integer(&["HLEN", key])).unwrap();
    // Besides the ids: the class, its number, the last number, the held tokens, and the number of usage rows.
    assert_eq!(fields, IDS + 5);
    let bytes = redis.integer(&["MEMORY", "USAGE", key, "SAMPLES", "0"]);
    let each = u64::try_from(bytes).unwrap() / IDS;
    assert!(each <= MAX_BYTES_PER_ID, "{each} bytes for an id");
    println!("{each} bytes for an id");
}
