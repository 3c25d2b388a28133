//! What the provider counted by project and model, and how each day was compared, for the store: every replica shows them
//! (docs/CONTRACT.md, "Background reconcile").

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Comparison, LedgerRow, Scope, UsageReport};
use crate::{
    domain::{
        ComparisonResult, DayComparison, ModelName, OrgId, ProjectId, ProviderUsage, Tokens,
        UtcDay, other_row,
    },
    policy::ComparedModel,
    store::{
        ProviderChanges, ProviderRows, RowKey, Store, StoreError, provider::MAX_PROVIDER_CHANGES,
    },
};

/// The project of usage that the provider has without one.
const NO_PROJECT: &str = "(none)";

/// The maximum number of rows of a day that only the provider has. What comes after is in the row `(other)`, `(other)`.
const MAX_PROVIDER_ONLY_ROWS: usize = 10_000;

/// Rows that are read at a time: all of a day, since Redis scans the whole day for each page.
const PAGE_SIZE: usize = 1_000_000;

/// What the store keeps of a day.
#[derive(Debug)]
pub struct ProviderDay {
    /// What the provider counted; none: its report does not have the day.
    pub rows: Option<ProviderRows>,
    /// How the day was compared.
    pub comparison: DayComparison,
}

/// What the provider has of a project and a model.
#[derive(Default)]
struct Cell<'l> {
    free: u64,
    billed: u64,
    /// The ledger's row that shows it: of several names, the first.
    row: Option<&'l LedgerRow>,
}

type Cells<'l> = BTreeMap<(String, ComparedModel), Cell<'l>>;

/// What the store keeps of these days, which were compared at this moment.
pub fn provider_days(
    scope: &Scope<'_>,
    days: &BTreeSet<UtcDay>,
    ledger: &[LedgerRow],
    report: &UsageReport,
    comparison: &Comparison,
) -> BTreeMap<UtcDay, ProviderDay> {
    let days = days.iter().map(|day| {
        let is_reported = report.days.contains(day);
        let rows = is_reported.then(|| rows(&cells(scope, *day, ledger, report)));
        let comparison = day_comparison(comparison, *day, scope.now);
        (*day, ProviderDay { rows, comparison })
    });
    days.collect()
}

/// A day's cells. Names that are compared as one model share a cell.
fn cells<'l>(
    scope: &Scope<'_>,
    day: UtcDay,
    ledger: &'l [LedgerRow],
    report: &UsageReport,
) -> Cells<'l> {
    let (other_project, other_model) = other_row();
    let is_other = |row: &LedgerRow| {
        row.project == other_project.as_str() && row.model == other_model.as_str()
    };
    let mut cells = Cells::new();
    for row in ledger.iter().filter(|row| row.day == day && !is_other(row)) {
        let model = scope.policy.compared_model(&row.model);
        let cell = cells.entry((row.project.clone(), model)).or_default();
        if cell.row.is_none_or(|first| row.model < first.model) {
            cell.row = Some(row);
        }
    }
    for row in report.rows.iter().filter(|row| row.bucket.day() == day) {
        let project = row.project.as_deref().map(|id| scope.project(id));
        let project = project.filter(|it| !it.is_empty()).unwrap_or(NO_PROJECT);
        let model = scope.policy.compared_model(&row.model);
        let cell = cells.entry((project.to_owned(), model)).or_default();
        match scope.is_free(row) {
            true => cell.free += row.tokens,
            false => cell.billed += row.tokens,
        }
    }
    cells
}

/// A row for each cell that the ledger or the provider has.
fn rows(cells: &Cells<'_>) -> ProviderRows {
    let mut rows = ProviderRows::new();
    let mut provider_only = 0;
    for ((project, model), cell) in cells {
        let usage = ProviderUsage {
            free_tokens: Tokens::new(cell.free).unwrap_or(Tokens::MAX),
            billed_tokens: Tokens::new(cell.billed).unwrap_or(Tokens::MAX),
        };
        let model = match cell.row {
            Some(row) => &row.model,
            None if usage == ProviderUsage::default() => continue,
            None => {
                provider_only += 1;
                &model.name
            }
        };
        let key = row_key(project, model);
        let key = key.filter(|_| cell.row.is_some() || provider_only <= MAX_PROVIDER_ONLY_ROWS);
        let sum = rows.entry(key.unwrap_or_else(other_row)).or_default();
        let plus = |sum: Tokens, tokens| sum.plus(tokens).unwrap_or(Tokens::MAX);
        sum.free_tokens = plus(sum.free_tokens, usage.free_tokens);
        sum.billed_tokens = plus(sum.billed_tokens, usage.billed_tokens);
    }
    rows
}

/// None if a name is longer than those of the ledger may be.
fn row_key(project: &str, model: &str) -> Option<RowKey> {
    Some((
        ProjectId::parse(project).ok()?,
        ModelName::parse(model).ok()?,
    ))
}

/// How the day was compared. What is about all days is with the last one.
fn day_comparison(comparison: &Comparison, day: UtcDay, now: DateTime<Utc>) -> DayComparison {
    let is_last = comparison.days.last() == Some(&day);
    let is_of_day = |of: Option<UtcDay>| of == Some(day) || (of.is_none() && is_last);
    let found = comparison.drifts.iter();
    let found = found.filter(|it| it.kind.is_drift() && it.tokens > 0 && is_of_day(it.day));
    let mut drift: BTreeMap<_, Tokens> = BTreeMap::new();
    for it in found {
        let tokens = Tokens::new(it.tokens).unwrap_or(Tokens::MAX);
        let sum = drift.entry(it.kind).or_default();
        *sum = sum.plus(tokens).unwrap_or(Tokens::MAX);
    }
    let mut unknown = comparison.unknown.iter();
    let is_unknown = unknown.any(|it| it.day.is_none_or(|of| of == day));
    let result = match (is_unknown, drift.is_empty()) {
        (true, _) => ComparisonResult::Unknown,
        (false, false) => ComparisonResult::Drifts,
        (false, true) => ComparisonResult::Agrees,
    };
    DayComparison {
        compared_at: now,
        result,
        drift,
    }
}

/// Writes what the store does not have yet: only rows that have changed. It reads what is there, since another replica
/// may have written it, or Redis may have lost it.
pub(super) async fn record(
    store: &dyn Store,
    org: &OrgId,
    days: &BTreeMap<UtcDay, ProviderDay>,
) -> Result<(), StoreError> {
    for (day, ProviderDay { rows, comparison }) in days {
        let changes = match rows {
            Some(rows) => changes(rows, read(store, org, *day).await?),
            None => ProviderChanges::new(),
        };
        let mut changes = changes.into_iter().peekable();
        loop {
            let step = changes.by_ref().take(MAX_PROVIDER_CHANGES).collect();
            let comparison = changes.peek().is_none().then_some(comparison);
            store
                .record_comparison(org, *day, &step, comparison)
                .await?;
            if comparison.is_some() {
                break;
            }
        }
    }
    Ok(())
}

async fn read(store: &dyn Store, org: &OrgId, day: UtcDay) -> Result<ProviderRows, StoreError> {
    let mut rows = ProviderRows::new();
    loop {
        let after = rows.last_key_value().map(|(key, _)| key);
        let page = store.provider_usage(org, day, after, PAGE_SIZE).await?;
        let is_last = page.len() < PAGE_SIZE;
        rows.extend(page);
        if is_last {
            return Ok(rows);
        }
    }
}

fn changes(rows: &ProviderRows, stored: ProviderRows) -> ProviderChanges {
    let is_new = |(key, usage): &(&RowKey, &ProviderUsage)| stored.get(*key) != Some(*usage);
    let new = rows.iter().filter(is_new);
    let mut changes: ProviderChanges = new
        .map(|(key, usage)| (key.clone(), Some(*usage)))
        .collect();
    let gone = stored.into_keys().filter(|key| !rows.contains_key(key));
    changes.extend(gone.map(|key| (key, None)));
    changes
}
