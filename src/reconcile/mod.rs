//! Compares what the provider reports with what the ledger counted (docs/CONTRACT.md, "Reconcile"). Pure, but for
//! [`api`], which fetches the provider's report, and the background task.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`report`] | the provider's usage, as rows |
//! | [`file`](mod@file), `pages`, `dashboard` | its forms: a file, pages of the API, the dashboard's CSV |
//! | [`drift`] | the kinds of drift, and how much of each a model of a project has |
//! | [`comparison`] | the comparison by project, model and day |
//! | `causes` | drift of a whole model, project or pool, which explains the drift of single rows |
//! | [`overflow`] | which overflow rule the provider applied |
//! | [`changes`] | the changes of the policy that make both agree |
//! | [`api`] | a client of the provider's usage API |
//! | [`samples`] | what the ledger had a while ago: usage that the provider may not report yet is not compared |
//! | [`external`] | the figures of external usage that the provider's report shows |
//! | [`provider`] | what the store keeps: the provider's figures, and how each day was compared |
//! | [`task`], [`settings`], `poll`, `status` | the background task, its settings, one poll of an organization, what metrics and `/readyz` show |

pub mod api;
mod causes;
pub mod changes;
pub mod comparison;
mod dashboard;
pub mod drift;
pub mod external;
pub mod file;
pub mod overflow;
mod pages;
mod poll;
pub mod provider;
pub mod report;
pub mod samples;
pub mod settings;
mod status;
pub mod task;

use std::collections::BTreeSet;

pub use self::{
    comparison::{Comparison, Scope},
    drift::{Drift, DriftKind, Tolerance},
    report::{ReportFault, UsageReport},
    samples::LedgerRow,
    settings::{Raise, ReconcileSettings, ReconciledOrg},
    task::Reconciler,
};
use crate::domain::UtcDay;

/// Compares the ledger's rows with the report, on these days.
pub fn compare(
    scope: &Scope<'_>,
    days: BTreeSet<UtcDay>,
    ledger: &[LedgerRow],
    report: &UsageReport,
) -> Comparison {
    let mut comparison = Comparison::new(scope, days, ledger, report);
    comparison.drifts.extend(causes::find(scope, &comparison));
    comparison.drifts.sort();
    comparison
}
