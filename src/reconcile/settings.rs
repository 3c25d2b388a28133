//! The settings of the background task (docs/CONTRACT.md, "Background reconcile").

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use chrono::TimeDelta;
use http::Uri;

use crate::domain::OrgId;

/// The settings of the background task.
#[derive(Debug, Clone)]
pub struct ReconcileSettings {
    /// The time between two polls of an organization.
    pub every: Duration,
    /// How late the provider's report may be. Nothing younger is compared.
    pub settle_lag: Duration,
    /// How long after its end a day is closed.
    pub close_after: TimeDelta,
    /// What is raised by what the provider reports.
    pub raise: Raise,
    /// The service tiers that are free.
    pub free_tiers: Vec<String>,
    /// The address of the provider's API.
    pub api_base: Uri,
    /// At least one.
    pub orgs: BTreeMap<OrgId, ReconciledOrg>,
}

/// An organization that is compared.
#[derive(Debug, Clone)]
pub struct ReconciledOrg {
    /// The file with the provider's admin key.
    pub admin_key_file: PathBuf,
    /// The provider's ids of projects, and their names in the ledger.
    pub projects: BTreeMap<String, String>,
}

/// What the provider's report raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Raise {
    /// Nothing: it is only compared.
    Off,
    /// The external usage of pools.
    External,
}
