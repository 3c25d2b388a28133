//! `tollgate reconcile`: the ledger against the provider's usage.

mod accounting;
mod api;
mod background;
mod changes;
mod command;
mod invoice;
mod kinds;
mod overflow;
mod raising;
mod readme;
mod recorded;
mod replicas;
mod reports;
mod settings;
mod young;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tollgate::{
    domain::{OrgId, PoolName, UtcDay},
    policy::Policy,
    reconcile::{
        Comparison, LedgerRow, Scope, Tolerance, UsageReport, changes::policy_changes, compare,
        comparison::CLOSED_AFTER, overflow::OverflowEvidence,
    },
};

/// A closed day, if it is noon of `support::world::TODAY`.
const DAY: &str = "2026-11-19";
const NEXT_DAY: &str = "2026-11-20";
const FREE: &str = "incentivized-tier";

fn day(text: &str) -> UtcDay {
    UtcDay::parse(text).unwrap()
}

/// A result of the usage API: project, model, tier, tokens.
type Used<'a> = (&'a str, &'a str, &'a str, u64);

/// A bucket of the usage API, of a whole day.
fn bucket(on: &str, used: &[Used<'_>]) -> Value {
    let start = day(on).start().timestamp();
    bucket_at(start, start + 86_400, used)
}

fn bucket_at(start: i64, end: i64, used: &[Used<'_>]) -> Value {
    let results = used.iter().map(|(project, model, tier, tokens)| {
        json!({
            "object": "organization.usage.completions.result", "input_tokens": tokens - tokens / 5,
            "output_tokens": tokens / 5, "num_model_requests": 1, "input_cached_tokens": tokens / 2,
            "project_id": project, "model": model, "batch": false, "service_tier": tier,
        })
    });
    json!({
        "object": "bucket", "start_time": start, "end_time": end, "results": results.collect::<Vec<_>>(),
    })
}

fn page(buckets: &[Value]) -> Value {
    json!({ "object": "page", "data": buckets, "has_more": false, "next_page": null })
}

fn report(page: &Value) -> UsageReport {
    UsageReport::from_bytes(page.to_string().as_bytes()).unwrap()
}

/// A row of the ledger: day, project, model, FREE and BILLED tokens.
type Counted<'a> = (&'a str, &'a str, &'a str, u64, u64);

fn ledger(rows: &[Counted<'_>]) -> Vec<LedgerRow> {
    let rows = rows
        .iter()
        .map(|(on, project, model, free, billed)| LedgerRow {
            day: day(on),
            project: (*project).to_owned(),
            model: (*model).to_owned(),
            free_tokens: *free,
            billed_tokens: *billed,
        });
    rows.collect()
}

/// An organization of the policy's tier 1, and what is compared of it.
struct Books {
    policy: Policy,
    org: OrgId,
    enrolled: bool,
    tolerance: &'static str,
    now: &'static str,
}

impl Books {
    /// Acme in the newest programme, with more lines of its entry.
    fn new(org: &str) -> Self {
        Self::with_program("", org)
    }

    fn with_program(program: &str, org: &str) -> Self {
        Self::of(&format!(
            "[program]\nextends = \"openai-2026-09-28\"\n{program}\n[orgs.acme]\ntier = 1\n{org}"
        ))
    }

    fn of(policy: &str) -> Self {
        Self {
            policy: Policy::parse("policy", policy).unwrap(),
            org: OrgId::parse("acme").unwrap(),
            enrolled: true,
            tolerance: "0",
            now: "2026-11-22T12:00:00Z",
        }
    }

    fn sharing() -> Self {
        Self::new("data_sharing = \"all\"")
    }

    fn scope(&self) -> Scope<'_> {
        let allowances = [("large", 250_000), ("mini", 2_500_000)];
        let allowances =
            allowances.map(|(pool, allowance)| (PoolName::parse(pool).unwrap(), allowance));
        let now: DateTime<Utc> = self.now.parse().unwrap();
        Scope {
            policy: &self.policy,
            org: &self.org,
            enrolled: self.enrolled,
            allowances: allowances.into_iter().collect(),
            projects: BTreeMap::from([("proj_p".to_owned(), "p".to_owned())]),
            free_tiers: vec![FREE.to_owned()],
            tolerance: self.tolerance.parse::<Tolerance>().unwrap(),
            close_after: CLOSED_AFTER,
            settled: None,
            context: BTreeSet::new(),
            now,
        }
    }

    fn compare(&self, rows: &[Counted<'_>], buckets: &[Value]) -> Comparison {
        let report = report(&page(buckets));
        self.compare_days(report.days.clone(), rows, &report)
    }

    /// Of these days, with those beside them.
    fn compare_days(
        &self,
        days: BTreeSet<UtcDay>,
        rows: &[Counted<'_>],
        report: &UsageReport,
    ) -> Comparison {
        let scope = Scope {
            context: report.days_beside(&days),
            ..self.scope()
        };
        compare(&scope, days, &ledger(rows), report)
    }

    /// The policy change, without overflow.
    fn changes(&self, comparison: &Comparison) -> Option<String> {
        policy_changes(
            &self.scope(),
            comparison,
            [].iter() as std::slice::Iter<'_, OverflowEvidence>,
        )
    }
}

/// The drifts as text: kind, what it is about, tokens.
fn drifts(comparison: &Comparison) -> Vec<String> {
    let drifts = comparison.drifts.iter().map(|it| {
        let about = [
            it.day.map(|it| it.to_string()),
            it.project.clone(),
            it.model.clone(),
        ];
        let about: Vec<String> = about.into_iter().flatten().collect();
        let pool = it.pool.as_ref().map_or("-", PoolName::as_str);
        format!(
            "{} {} {pool} {}",
            it.kind.name(),
            about.join(" "),
            it.tokens
        )
    });
    drifts.collect()
}
