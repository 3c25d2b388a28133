//! The result of `tollgate reconcile`: tables for people, JSON, CSV.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Cell, CellAlignment};
use serde_json::{Value, json};

use crate::{
    client::output::{counted, facts, grouped},
    domain::{OrgId, PoolName, UtcDay},
    reconcile::{
        Comparison, Drift,
        comparison::UsageKey,
        drift::{CellDrift, ComparedUsage},
        overflow::OverflowEvidence,
    },
    spreadsheet::CsvTable,
};

/// The columns of the CSV. Stable.
const COLUMNS: [&str; 11] = [
    "org",
    "day",
    "open",
    "project",
    "model",
    "pool",
    "ledger_free_tokens",
    "ledger_billed_tokens",
    "provider_free_tokens",
    "provider_billed_tokens",
    "drift",
];

/// Everything that is printed.
pub(super) struct Reconciliation<'r> {
    pub(super) org: &'r OrgId,
    pub(super) comparison: &'r Comparison,
    pub(super) evidence: BTreeMap<(UtcDay, PoolName), OverflowEvidence>,
    pub(super) changes: Option<String>,
}

impl Reconciliation<'_> {
    fn result(&self) -> &'static str {
        if !self.comparison.unknown.is_empty() {
            "unknown"
        } else if self.comparison.has_drift() {
            "drifts"
        } else {
            "agrees"
        }
    }

    fn is_open(&self, day: UtcDay) -> bool {
        self.comparison.open_days.contains(&day)
    }

    fn day(&self, day: UtcDay) -> String {
        match self.is_open(day) {
            true => format!("{day} open"),
            false => day.to_string(),
        }
    }

    pub(super) fn table(&self) -> String {
        let Comparison {
            days,
            usage,
            drifts,
            ..
        } = self.comparison;
        let (number, rows) = (counted(days.len(), "day"), counted(usage.len(), "row"));
        let differs = |usage: &&ComparedUsage| usage.drift != CellDrift::default();
        let different = usage.values().filter(differs).count();
        let (org, result) = (self.org, self.result());
        let mut text = format!("{org} (UTC, {number}): {result}; {rows}, {different} different\n");
        if !days.is_empty() {
            let _ = writeln!(text, "{}", self.pools());
        }
        if !drifts.is_empty() {
            let _ = writeln!(text, "\n{}", self.drifts());
        }
        self.add_notes(&mut text);
        let mut kinds: Vec<_> = drifts.iter().map(|it| it.kind).collect();
        kinds.dedup();
        for kind in kinds {
            let _ = writeln!(text, "\n{}: {}", kind.name(), kind.advice());
        }
        if let Some(changes) = &self.changes {
            let _ = writeln!(
                text,
                "\nThis change of the policy makes both agree:\n\n{changes}"
            );
        }
        text
    }

    /// What is not known, and what the minutes show.
    fn add_notes(&self, text: &mut String) {
        for ((day, pool), evidence) in &self.evidence {
            let (day, evidence) = (self.day(*day), evidence.name());
            let _ = writeln!(text, "\noverflow on {day} in {pool}: {evidence}");
        }
        for it in &self.comparison.unknown {
            let day = it.day.map_or_else(String::new, |day| format!(" {day}:"));
            let _ = writeln!(text, "\nunknown:{day} {}", it.reason);
        }
        let tiers = &self.comparison.other_tiers;
        if !tiers.is_empty() {
            let tiers: Vec<&str> = tiers.iter().map(String::as_str).collect();
            let tiers = tiers.join(", ");
            let _ = writeln!(
                text,
                "\nunknown service tiers, which count as billed: {tiers}"
            );
        }
        if self.comparison.has_no_common_project() {
            text.push_str(
                "\nno project is on both sides: give their names with --project NAME=ID\n",
            );
        }
    }

    fn pools(&self) -> String {
        let mut table = facts();
        table.set_header(["DAY", "POOL", "ALLOWANCE", "LEDGER FREE", "PROVIDER FREE"]);
        for ((day, pool), usage) in &self.comparison.pools {
            table.add_row([
                Cell::new(self.day(*day)),
                Cell::new(pool),
                number(usage.allowance),
                number(usage.ledger_free),
                number(usage.provider_free),
            ]);
        }
        table.trim_fmt()
    }

    fn drifts(&self) -> String {
        let mut table = facts();
        table.set_header(["DRIFT", "DAY", "PROJECT", "MODEL", "POOL", "TOKENS", ""]);
        for drift in &self.comparison.drifts {
            let day = drift
                .day
                .map_or_else(|| "all".to_owned(), |day| self.day(day));
            let pool = drift.pool.as_ref().map_or("-", PoolName::as_str);
            table.add_row([
                Cell::new(drift.kind.name()),
                Cell::new(day),
                Cell::new(drift.project.as_deref().unwrap_or("-")),
                Cell::new(drift.model.as_deref().unwrap_or("-")),
                Cell::new(pool),
                number(drift.tokens),
                Cell::new(&drift.detail),
            ]);
        }
        table.trim_fmt()
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        let Comparison {
            days,
            usage,
            pools,
            drifts,
            unknown,
            other_tiers,
            ..
        } = self.comparison;
        let days = days
            .iter()
            .map(|day| json!({ "day": day.to_string(), "open": self.is_open(*day) }));
        let rows = usage.iter().map(|(key, usage)| self.row(key, usage));
        let pools = pools.iter().map(|((day, pool), it)| {
            json!({
                "day": day.to_string(), "open": self.is_open(*day), "pool": pool.as_str(), "allowance": it.allowance,
                "ledger_free_tokens": it.ledger_free, "provider_free_tokens": it.provider_free,
            })
        });
        let unknown = unknown
            .iter()
            .map(|it| json!({ "day": it.day.map(|it| it.to_string()), "reason": it.reason }));
        let overflow = self.evidence.iter().map(|((day, pool), it)| {
            json!({ "day": day.to_string(), "pool": pool.as_str(), "overflow": it.name() })
        });
        let drifts = drifts.iter().map(|it| self.drift(it));
        Ok(serde_json::to_string_pretty(&json!({
            "org": self.org.as_str(),
            "result": self.result(),
            "days": days.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "pools": pools.collect::<Vec<_>>(),
            "drifts": drifts.collect::<Vec<_>>(),
            "unknown": unknown.collect::<Vec<_>>(),
            "other_tiers": other_tiers,
            "overflow": overflow.collect::<Vec<_>>(),
            "policy_change": self.changes,
        }))?)
    }

    fn row(&self, key: &UsageKey, usage: &ComparedUsage) -> Value {
        json!({
            "day": key.day.to_string(), "open": self.is_open(key.day), "project": key.project,
            "model": key.model.name, "pool": key.model.pool.as_ref().map(PoolName::as_str),
            "ledger_free_tokens": usage.ledger_free, "ledger_billed_tokens": usage.ledger_billed,
            "provider_free_tokens": usage.provider_free, "provider_billed_tokens": usage.provider_billed,
        })
    }

    fn drift(&self, drift: &Drift) -> Value {
        json!({
            "kind": drift.kind.name(), "day": drift.day.map(|it| it.to_string()),
            "open": drift.day.is_some_and(|day| self.is_open(day)), "project": drift.project, "model": drift.model,
            "pool": drift.pool.as_ref().map(PoolName::as_str), "tokens": drift.tokens, "detail": drift.detail,
        })
    }

    pub(super) fn csv(&self) -> anyhow::Result<String> {
        let mut table = CsvTable::new();
        table.add_row(COLUMNS)?;
        for (key, usage) in &self.comparison.usage {
            let found = usage.drift.tokens.iter().filter(|(_, tokens)| **tokens > 0);
            let found: Vec<String> = found
                .map(|(kind, tokens)| format!("{} {tokens}", kind.name()))
                .collect();
            table.add_row([
                self.org.as_str(),
                &key.day.to_string(),
                &self.is_open(key.day).to_string(),
                &key.project,
                &key.model.name,
                key.model.pool.as_ref().map_or("", PoolName::as_str),
                &usage.ledger_free.to_string(),
                &usage.ledger_billed.to_string(),
                &usage.provider_free.to_string(),
                &usage.provider_billed.to_string(),
                &found.join("; "),
            ])?;
        }
        table.into_text()
    }
}

fn number(number: u64) -> Cell {
    Cell::new(grouped(number)).set_alignment(CellAlignment::Right)
}
