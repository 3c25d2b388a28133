//! Masters of a cluster that refuse, while others decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::conn::RedisClient;
use crate::store::StoreError;

/// By probe key: why its master refuses, without the master's name.
#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, String>>);

impl Refusals {
    /// Removes the keys that are no longer probed.
    pub(super) fn retain(&self, keys: &[String]) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.retain(|key, _| keys.contains(key));
    }

    /// Records the outcome of a probe, and logs a refusal that is new.
    pub(super) fn record(&self, client: &RedisClient, key: &str, error: Option<&StoreError>) {
        let Some(master) = client.master(key) else {
            return;
        };
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => {
                if refusals.remove(key).is_some() {
                    tracing::info!(%master, "a master of the cluster decides again");
                }
            }
            Some(error @ StoreError::Refused { .. }) => {
                let why = error.public_message();
                if refusals.get(key) != Some(&why) {
                    tracing::warn!(%master, %error, "a master of the cluster refuses");
                    refusals.insert(key.to_owned(), why);
                }
            }
            // Whether it refuses is unknown.
            Some(_) => drop(refusals.remove(key)),
        }
    }

    /// Why some masters refuse; `None` if all that answer decide.
    pub(super) fn reasons(&self) -> Option<String> {
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons: BTreeSet<&str> = refusals.values().map(String::as_str).collect();
        let reasons: Vec<&str> = reasons.into_iter().collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}
