//! How organizations were compared with the provider last, as this replica has read it from the store: another replica
//! may compare (docs/CONTRACT.md, "Background reconcile"). [`comparison_loop`](super::comparison_loop) reads it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::domain::{DayComparison, OrgId, UtcDay};

/// A day and how it was compared.
pub type ComparedDay = (UtcDay, DayComparison);

/// The last comparison of each organization.
pub(super) struct KnownComparisons {
    /// The organizations that are compared.
    pub(super) orgs: Vec<OrgId>,
    known: RwLock<HashMap<OrgId, Arc<[ComparedDay]>>>,
}

impl KnownComparisons {
    pub(super) fn of(orgs: Vec<OrgId>) -> Self {
        let known = RwLock::default();
        Self { orgs, known }
    }

    /// The days of an organization's last comparison.
    pub(super) fn get(&self, org: &OrgId) -> Arc<[ComparedDay]> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(org).cloned().unwrap_or_default()
    }

    pub(super) fn record(&self, org: &OrgId, days: Vec<ComparedDay>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(org.clone(), days.into());
    }
}
