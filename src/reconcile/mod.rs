//! Compares what the provider reports with what the ledger counted (docs/CONTRACT.md, "Reconcile"): pure, but for
//! [`api`], which fetches the provider's report.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`report`] | the provider's usage, as rows |
//! | [`file`](mod@file), `pages`, `dashboard` | its forms: a file, pages of the API, the dashboard's CSV |
//! | [`drift`] | the kinds of drift, and how much of each a model of a project has |
//! | [`comparison`] | the comparison by project, model and day |
//! | `causes` | drift of a whole model, project or pool, which is the cause of that of single rows |
//! | [`overflow`] | which overflow rule the provider applied |
//! | [`changes`] | the changes of the policy that make both agree |
//! | [`api`] | a client of the provider's usage API |

pub mod api;
mod causes;
pub mod changes;
pub mod comparison;
mod dashboard;
pub mod drift;
pub mod file;
pub mod overflow;
mod pages;
pub mod report;

use std::collections::BTreeSet;

pub use self::{
    comparison::{Comparison, LedgerRow, Scope},
    drift::{Drift, DriftKind, Tolerance},
    report::{ReportFault, UsageReport},
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
