//! The file store: what survives restarts and crashes, what it refuses, and how it handles disk errors.

mod crashes;
mod full_disk;
mod refusals;
mod retention;
mod upgrade;

use std::{path::Path, sync::Arc};

use tollgate::{
    ledger::{Ledger, LedgerConfig},
    store::{
        Store, UsageLimits,
        file::{FileStore, OpenError},
    },
};

use crate::support::{
    clock::Clock,
    world::{org_id, policy},
};

fn open(path: &Path, clock: &Clock) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(FileStore::open(
        path,
        clock.function(),
        UsageLimits::default(),
    )?))
}

fn ledger_over(store: Arc<dyn Store>) -> Ledger {
    Ledger::new(LedgerConfig::new(Arc::new(policy("keep_open")), store))
}

/// The tokens that `acme` used of the pool `large` today.
async fn used(ledger: &Ledger) -> u64 {
    let quota = ledger.quota(&org_id("acme")).await.unwrap();
    quota.pools[0].1.used.get()
}
