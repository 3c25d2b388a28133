//! docs/CONTRACT.md, "Keys in Redis": their names, and when they expire.

use chrono::DateTime;

use super::external_usage::set;
use crate::support::world::{ReserveExt as _, World, new_reserve, policy};

fn expires_at(world: &World, key: &str) -> String {
    let seconds = world.redis.as_ref().unwrap().integer(&["EXPIRETIME", key]);
    DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339()
}

#[tokio::test]
async fn keys_have_their_names_and_expire_when_the_contract_says() {
    let world = World::redis(policy("keep_open"));
    world.reserve(new_reserve(5).id("r")).await;
    world.reserve(new_reserve(5).model("gpt-4o-mini")).await;
    world.settle("r", 7).await;
    set(&world, 3).await;
    let mut keys = world.redis.as_ref().unwrap().strings(&["KEYS", "*"]);
    keys.sort();
    let expiries: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), expires_at(&world, key)))
        .collect();
    let midnight = "2026-11-23T00:00:00+00:00".to_owned();
    assert_eq!(
        expiries,
        [
            (
                "tollgate:{acme}:audit:2026-11-22",
                "2026-12-28T00:00:00+00:00".to_owned()
            ),
            ("tollgate:{acme}:pool:large:2026-11-22", midnight.clone()),
            ("tollgate:{acme}:pool:mini:2026-11-22", midnight),
            (
                "tollgate:{acme}:requests:2026-11-22",
                "2026-11-24T00:00:00+00:00".to_owned()
            ),
            (
                "tollgate:{acme}:usage:2026-11-22",
                "2026-12-28T00:00:00+00:00".to_owned()
            ),
        ]
    );
}

#[tokio::test]
async fn late_writes_expire_with_their_own_day() {
    let world = World::redis(policy("keep_open"));
    world.reserve(new_reserve(5).id("r")).await;
    world.clock.set("2026-11-23T00:00:01Z");
    world.settle("r", 7).await;
    let mut keys = world.redis.as_ref().unwrap().strings(&["KEYS", "*"]);
    keys.sort();
    assert_eq!(
        keys,
        [
            "tollgate:{acme}:requests:2026-11-22",
            "tollgate:{acme}:usage:2026-11-22"
        ]
    );
    assert_eq!(expires_at(&world, &keys[0]), "2026-11-24T00:00:00+00:00");
    assert_eq!(expires_at(&world, &keys[1]), "2026-12-28T00:00:00+00:00");
}
