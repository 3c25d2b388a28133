//! docs/CONTRACT.md, "Background reconcile": the external usage of several pools, and with many organizations.

use std::time::Duration;

use tokio::time::timeout;
use tollgate::{
    ledger::{Ledger, LedgerConfig},
    store::{Operation, StoreError},
};

use super::{
    FREE,
    background::{Background, EVERY, used, wait},
};
use crate::support::{
    held_store::{HeldCall, HeldCalls, HeldStore},
    usage_api::UsageEvent,
    world::{ReserveExt as _, World, new_reserve, org_id, policy, policy_text, small_policy},
};

fn used_of_mini(tokens: u64) -> UsageEvent {
    UsageEvent {
        model: "gpt-4o-mini",
        ..used(FREE, tokens)
    }
}

/// The task over two pools that are to be raised, by calls to the store that the test ends.
async fn held() -> (Background, HeldCalls) {
    let events = vec![used(FREE, 300), used_of_mini(50)];
    let mut it = Background::memory(events).await.raising();
    let (store, calls) = HeldStore::over(it.world.store.clone(), 1);
    it.world.ledger = Ledger::new(LedgerConfig::new(policy("keep_open").into(), store));
    it.start();
    (it, calls)
}

/// The pools whose external usage a call sets.
fn pools(call: &HeldCall) -> Vec<&str> {
    let operations = call.batches.iter().flat_map(|it| &it.operations);
    let pools = operations.filter_map(|operation| match operation {
        Operation::SetExternalUsage { pool, .. } => Some(pool.as_str()),
        _ => None,
    });
    pools.collect()
}

#[tokio::test]
async fn a_pool_that_can_not_be_raised_holds_up_no_other() {
    let (it, mut calls) = held().await;
    let large = calls.next().await;
    assert_eq!(pools(&large), ["large"]);
    let reason = "a test".to_owned();
    large.fail(StoreError::OutcomeUnknown { reason });
    let mini = calls.next().await;
    assert_eq!(pools(&mini), ["mini"]);
    mini.go();
    drop(calls);
    it.wait_for_external(300).await;
    assert_eq!(it.external_of("mini").await, 50);
}

#[tokio::test]
async fn no_further_pool_is_raised_once_the_last_minute_of_the_day_has_begun() {
    let (it, mut calls) = held().await;
    let large = calls.next().await;
    let last_minute = "2026-11-22T23:59:20Z";
    it.api.set_now(last_minute);
    it.world.clock.set(last_minute);
    large.go();
    it.wait_for_external(300).await;
    let more = timeout(5 * EVERY, calls.any()).await;
    assert!(more.is_err(), "{:?}", more.map(|it| it.is_some()));
    assert_eq!(it.external_of("mini").await, 0);
}

#[tokio::test]
async fn a_replica_that_stops_lowers_each_pool_also_if_another_has_left_the_policy() {
    let mut it = Background::memory(Vec::new()).await.raising();
    it.settings.settle_lag = Duration::from_secs(3);
    it.start();
    tokio::time::sleep(it.settings.settle_lag + 5 * EVERY).await;
    it.use_tokens(100, "large").await;
    let reserve = new_reserve(100).id("mini").model("gpt-4o-mini");
    assert!(it.world.reserve(reserve).await.verdict.is_free());
    it.api.add(used(FREE, 100));
    it.api.add(used_of_mini(100));
    wait("likely", async || {
        it.external_of("large").await == 100 && it.external_of("mini").await == 100
    })
    .await;
    let without_large = small_policy("keep_open")
        .replace("[pools.large]\nmodels = [\"gpt-4o\", \"o1\"]\n", "")
        .replace("large = 1_000\n", "");
    it.world
        .ledger
        .set_policy(policy_text(&without_large).into());
    it.stopping.cancel();
    it.task.take().unwrap().await.unwrap();
    assert_eq!(it.external_of("mini").await, 0);
}

#[tokio::test]
async fn with_many_organizations_what_was_used_settle_lag_ago_is_still_known() {
    let mut text = small_policy("keep_open");
    let names = ["b", "c", "d", "e", "f"];
    for name in names {
        text += &format!("[orgs.{name}]\ntier = 1\ndata_sharing = \"all\"\n");
    }
    let mut it = Background::over(World::memory(policy_text(&text)), Vec::new())
        .await
        .raising();
    for name in names {
        let org = it.settings.orgs[&org_id("acme")].clone();
        it.settings.orgs.insert(org_id(name), org);
    }
    // Two are polled at a time, so from one poll to the next it is 4.5 s, and the last sample is 3 s old: older than
    // `every` allows for.
    let lag = Duration::from_millis(1_500);
    it.api.set_delay(lag);
    it.settings.settle_lag = lag;
    it.start();
    it.polls(2 * (names.len() + 1)).await;
    it.use_tokens(100, "now").await;
    it.api.add(used(FREE, 100));
    it.wait_for_external(100).await;
}
