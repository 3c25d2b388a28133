//! Formats answers as tables.

use std::slice;

use chrono::DateTime;
use comfy_table::{Cell, CellAlignment, Table};

use super::drift;
use crate::{
    auth::{Caller, Callers, Organizations},
    client::output::{counted, fact, facts, grouped, reason, shown},
    grpc::proto::{
        DayComparison, EstimateBasis, EstimateResponse, GetQuotaResponse, ListUsageResponse,
        PoolQuota, ReleaseResponse, ReserveResponse, SetExternalUsageResponse, SettleResponse,
        ShareQuota, UsageRow, Verdict,
    },
    policy::{DataSharing, PROGRAMS, Policy},
};

/// Characters of a full bar.
pub(super) const BAR_WIDTH: usize = 24;

/// Organizations that `check-policy` lists; the rest are counted.
const MAX_LISTED: usize = 20;

/// The state of an answer's pool.
macro_rules! pool_facts {
    ($lines:ident, $answer:ident) => {{
        let used = used_of($answer.used, $answer.allowance);
        fact(&mut $lines, "pool", shown(&$answer.pool));
        fact(&mut $lines, "used / allowance", used);
        fact(&mut $lines, "remaining", grouped($answer.remaining));
    }};
}

/// The facts of an answer: one of its own, and the state of its pool.
macro_rules! outcome {
    ($answer:ident, $name:expr, $value:expr) => {{
        let mut lines = facts();
        fact(&mut lines, $name, $value);
        if !$answer.pool.is_empty() {
            pool_facts!(lines, $answer);
        }
        fact(&mut lines, "resets in", until($answer.resets_at));
        if $answer.replayed {
            let replayed = "yes: answered before, nothing was counted now";
            fact(&mut lines, "replayed", replayed);
        }
        lines.trim_fmt()
    }};
}

pub(super) fn reserved(answer: &ReserveResponse) -> String {
    let verdict = verdict(answer.verdict, answer.billed_reason);
    outcome!(answer, "verdict", verdict)
}

pub(super) fn settled(answer: &SettleResponse) -> String {
    let mut verdict = verdict(answer.verdict, answer.billed_reason);
    if answer.verdict_changed {
        verdict += ", another verdict than at reserve";
    }
    outcome!(answer, "verdict", verdict)
}

pub(super) fn released(answer: &ReleaseResponse) -> String {
    let released = format!("{} tokens", grouped(answer.released_tokens));
    outcome!(answer, "released", released)
}

pub(super) fn estimate(answer: &EstimateResponse) -> String {
    let basis = match answer.basis() {
        EstimateBasis::TextBytes => "the bytes of the text",
        EstimateBasis::ContextWindow => "the context window",
        EstimateBasis::Unspecified => "unknown",
    };
    let maximum = match answer.output_capped {
        true => "the stated maximum",
        false => "no maximum is stated",
    };
    let workload = answer.workload().as_str_name();
    let workload = workload.trim_start_matches("WORKLOAD_").to_lowercase();
    let mut lines = facts();
    fact(&mut lines, "tokens", grouped(answer.tokens));
    let input = format!("{} ({basis})", grouped(answer.input_tokens));
    fact(&mut lines, "input", input);
    let output = format!("{} ({maximum})", grouped(answer.output_tokens));
    fact(&mut lines, "output", output);
    fact(&mut lines, "model", shown(&answer.model));
    fact(&mut lines, "workload", workload);
    lines.trim_fmt()
}

pub(super) fn quota(answer: &GetQuotaResponse) -> String {
    let standing = if answer.enrolled {
        "enrolled".to_owned()
    } else {
        format!("not enrolled: {}", reason(answer.not_enrolled_reason))
    };
    let mut columns: Vec<Column<PoolQuota>> = vec![
        ("POOL", |pool| name(&pool.pool)),
        ("", |pool| {
            Cell::new(bar(pool.used, pool.allowance, BAR_WIDTH))
        }),
        ("USED / ALLOWANCE", |pool| {
            right(used_of(pool.used, pool.allowance))
        }),
        ("HELD", |pool| number(pool.held_tokens)),
        ("REMAINING", |pool| match pool.closed {
            true => right("closed"),
            false => number(pool.remaining),
        }),
        ("BILLED", |pool| number(pool.billed_tokens)),
    ];
    // Most pools have neither.
    if answer.pools.iter().any(|pool| pool.external_tokens > 0) {
        columns.insert(4, ("EXTERNAL", |pool| number(pool.external_tokens)));
    }
    if answer.pools.iter().any(|pool| pool.margin_tokens > 0) {
        columns.insert(4, ("MARGIN", |pool| number(pool.margin_tokens)));
    }
    let mut pools = rows(&answer.pools, &columns);
    let shares = answer.pools.iter();
    let shares =
        shares.flat_map(|pool| pool.shares.iter().map(|share| (pool.pool.as_str(), share)));
    let shares: Vec<(&str, &ShareQuota)> = shares.collect();
    if !shares.is_empty() {
        let columns: [Column<(&str, &ShareQuota)>; 4] = [
            ("PROJECT", |(_, share)| name(&share.project)),
            ("POOL", |(pool, _)| name(pool)),
            ("USED / SHARE", |(_, share)| {
                right(used_of(share.used, share.share))
            }),
            ("REMAINING", |(_, share)| number(share.remaining)),
        ];
        pools = format!("{pools}\n\n{}", rows(&shares, &columns));
    }
    if !answer.comparisons.is_empty() {
        pools = format!("{pools}\n\n{}", comparisons(&answer.comparisons));
    }
    format!(
        "{}: tier {}, {standing}. {} (UTC), resets in {}\n{pools}",
        shown(&answer.org),
        answer.tier,
        answer.day,
        until(answer.resets_at),
    )
}

/// When the days were compared with the provider, and what was found.
fn comparisons(days: &[DayComparison]) -> String {
    let columns: [Column<DayComparison>; 2] = [
        ("DAY", |day| Cell::new(&day.day)),
        ("DRIFT", |day| {
            Cell::new(drift::summary(slice::from_ref(day)))
        }),
    ];
    let compared_at = days.last().and_then(|day| day.compared_at);
    let at = compared_at.and_then(|at| DateTime::from_timestamp(at.seconds, 0));
    let since = at.map(|at| crate::wall_clock::now().signed_duration_since(at));
    let minutes = since.map_or(0, |since| since.num_minutes().max(0));
    let table = rows(days, &columns);
    format!("compared with the provider {minutes} min ago\n{table}")
}

pub(super) fn external_usage(answer: &SetExternalUsageResponse) -> String {
    let mut lines = facts();
    fact(&mut lines, "external", grouped(answer.external_tokens));
    fact(&mut lines, "before", grouped(answer.previous_tokens));
    pool_facts!(lines, answer);
    fact(&mut lines, "resets in", until(answer.resets_at));
    lines.trim_fmt()
}

pub(super) fn usage(answer: &ListUsageResponse) -> String {
    let ListUsageResponse {
        day, rows: used, ..
    } = answer;
    if used.is_empty() {
        return format!("{day} (UTC): nothing was used");
    }
    let columns = usage_columns(used);
    let table = rows(used, &columns[1..]);
    format!("{day} (UTC), {}\n{table}", counted(used.len(), "row"))
}

/// Rows of several days.
pub(super) fn usage_by_day(used: &[UsageRow]) -> String {
    rows(used, &usage_columns(used))
}

/// The columns; those of the provider only if one of the rows was compared with it.
fn usage_columns(used: &[UsageRow]) -> Vec<Column<UsageRow>> {
    let mut columns = USAGE_COLUMNS.to_vec();
    if used.iter().any(|row| row.provider.is_some()) {
        columns.extend_from_slice(PROVIDER_COLUMNS);
    }
    columns
}

const USAGE_COLUMNS: &[Column<UsageRow>] = &[
    ("DAY", |row| Cell::new(&row.day)),
    ("PROJECT", |row| name(&row.project)),
    ("MODEL", |row| name(&row.model)),
    ("POOL", |row| match row.pool.as_str() {
        "" => Cell::new("-"),
        pool => name(pool),
    }),
    ("FREE TOKENS", |row| number(row.free_tokens)),
    ("BILLED TOKENS", |row| number(row.billed_tokens)),
    ("FREE REQUESTS", |row| number(row.free_requests)),
    ("BILLED REQUESTS", |row| number(row.billed_requests)),
];

const PROVIDER_COLUMNS: &[Column<UsageRow>] = &[
    ("PROVIDER FREE", |row| {
        known(row.provider.map(|it| it.free_tokens))
    }),
    ("PROVIDER BILLED", |row| {
        known(row.provider.map(|it| it.billed_tokens))
    }),
];

fn known(tokens: Option<u64>) -> Cell {
    tokens.map_or_else(|| right("-"), number)
}

pub(super) fn policy(policy: &Policy) -> String {
    let program = &policy.program;
    let mut lines = facts();
    fact(&mut lines, "program", &program.name);
    if let Some(extends) = program.extends {
        fact(&mut lines, "extends", extends);
    }
    if let Some(day) = program.as_of {
        fact(&mut lines, "lists of models of", day);
    }
    if let Some(source) = &program.source {
        fact(&mut lines, "source", source);
    }
    fact(&mut lines, "overflow", program.overflow.name());
    let workloads: Vec<&str> = program
        .covered_workloads
        .iter()
        .map(|it| it.name())
        .collect();
    fact(&mut lines, "covered workloads", workloads.join(", "));
    let ends_on = program
        .ends_on
        .map_or("no end announced".to_owned(), |day| day.to_string());
    fact(&mut lines, "last free day", ends_on);
    fact(&mut lines, "aliases", policy.alias_count());
    fact(&mut lines, "retired models", policy.retired_count());
    let margin = policy.program_margin();
    fact(
        &mut lines,
        "margin",
        margin.map_or("none".to_owned(), |it| it.to_string()),
    );
    let guard = humantime::format_duration(program.midnight_guard);
    fact(&mut lines, "midnight guard", guard);
    fact(&mut lines, "model capacities", policy.capacity_count());
    fact(&mut lines, "organizations", policy.orgs.len());
    let (facts, tiers) = (lines.trim_fmt(), tiers(policy).trim_fmt());
    format!("{facts}\n\n{tiers}\n\n{}", organizations(policy))
}

/// The built-in programmes. The built-in policy extends the last one.
pub(super) fn programs() -> String {
    let mut table = table(["PROGRAM", "LISTS OF", "MODELS", "ALIASES", "RETIRED"]);
    for program in &PROGRAMS {
        let policy = program.policy();
        let listed = policy.pools.iter().map(|pool| policy.model_count(pool));
        let as_of = policy.program.as_of.map(|day| day.to_string());
        table.add_row([
            Cell::new(program.name),
            Cell::new(as_of.unwrap_or_default()),
            number(listed.sum::<usize>() as u64),
            number(policy.alias_count() as u64),
            number(policy.retired_count() as u64),
        ]);
    }
    table.trim_fmt()
}

/// The changes of a policy by kind: its name, the number of changes, and the first of them.
pub(super) fn changes(kinds: &[(&'static str, usize, String)]) -> String {
    let mut table = table(["WHAT", "CHANGES", ""]);
    for (kind, count, first) in kinds {
        table.add_row([Cell::new(kind), number(*count as u64), Cell::new(first)]);
    }
    table.trim_fmt()
}

pub(super) fn callers(callers: &Callers) -> String {
    let mut table = table(["CALLER", "ROLES", "ORGANIZATIONS", "KNOWN BY"]);
    for caller in callers.iter() {
        let roles: Vec<&str> = caller.roles.iter().map(|role| role.name()).collect();
        let organizations = match &caller.organizations {
            Organizations::All => "all".to_owned(),
            Organizations::Named(orgs) => orgs.len().to_string(),
        };
        table.add_row([
            &caller.name,
            &roles.join(", "),
            &organizations,
            &known_by(caller),
        ]);
    }
    table.trim_fmt()
}

fn known_by(caller: &Caller) -> String {
    let names = caller.certificates.iter().map(ToString::to_string);
    let tokens = match caller.tokens.len() {
        0 => None,
        tokens => Some(counted(tokens, "token")),
    };
    names.chain(tokens).collect::<Vec<_>>().join(", ")
}

fn tiers(policy: &Policy) -> Table {
    let tiers = policy.tiers.keys().map(|tier| format!("TIER {tier}"));
    let pools = ["POOL", "MODELS"].map(str::to_owned).into_iter();
    let mut table = table(pools.chain(tiers));
    for pool in &policy.pools {
        let models = policy.model_count(pool).to_string();
        let mut row = vec![Cell::new(pool), right(models)];
        let allowances = policy
            .tiers
            .values()
            .map(|terms| terms.of_pool(pool).allowance);
        row.extend(allowances.map(|allowance| number(allowance.get())));
        table.add_row(row);
    }
    table
}

fn organizations(policy: &Policy) -> String {
    let mut table = table([
        "ORGANIZATION",
        "TIER",
        "DATA SHARING",
        "SHARES",
        "NEVER FREE FOR",
    ]);
    for (id, org) in policy.orgs.iter().take(MAX_LISTED) {
        let sharing = match &org.data_sharing {
            DataSharing::All => "all projects".to_owned(),
            DataSharing::Selected(projects) => counted(projects.len(), "project"),
            DataSharing::Off => "off".to_owned(),
        };
        let never = match (org.zero_data_retention, org.enterprise) {
            (false, false) => "",
            (true, false) => "zero data retention",
            (false, true) => "enterprise plan",
            (true, true) => "zero data retention, enterprise plan",
        };
        let shares = match org.options().shares.len() {
            0 => String::new(),
            shares => counted(shares, "share"),
        };
        table.add_row([id.as_str(), &org.tier.to_string(), &sharing, &shares, never]);
    }
    match policy.orgs.len().saturating_sub(MAX_LISTED) {
        0 => table.trim_fmt(),
        more => format!("{}\n… and {more} more", table.trim_fmt()),
    }
}

pub(super) fn table(header: impl IntoIterator<Item: Into<Cell>>) -> Table {
    let mut table = facts();
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table
}

/// A column's title, and its cell in a row.
pub(super) type Column<R> = (&'static str, fn(&R) -> Cell);

pub(super) fn rows<R>(rows: &[R], columns: &[Column<R>]) -> String {
    let mut table = table(columns.iter().map(|(title, _)| *title));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| cell(row)));
    }
    table.trim_fmt()
}

fn used_of(used: u64, allowance: u64) -> String {
    format!("{} / {}", grouped(used), grouped(allowance))
}

fn verdict(verdict: i32, why: i32) -> String {
    match Verdict::try_from(verdict) {
        Ok(Verdict::Free) => "FREE".to_owned(),
        Ok(Verdict::Billed) => format!("BILLED ({})", reason(why)),
        Ok(Verdict::Unspecified) | Err(_) => format!("unknown ({verdict})"),
    }
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// A name, or a note.
pub(super) fn name(name: &str) -> Cell {
    Cell::new(shown(name))
}

pub(super) fn number(number: u64) -> Cell {
    right(grouped(number))
}

/// `█████░░░`: never empty where something is used, never full where something remains.
pub(super) fn bar(used: u64, allowance: u64, width: usize) -> String {
    let filled = match used {
        0 => 0,
        used if used >= allowance => width,
        used => {
            let share = u128::from(used) * width as u128 / u128::from(allowance);
            (share as usize).clamp(1, width - 1)
        }
    };
    "█".repeat(filled) + &"░".repeat(width - filled)
}

fn until(resets_at: Option<prost_types::Timestamp>) -> String {
    let at = resets_at.and_then(|at| DateTime::from_timestamp(at.seconds, 0));
    let Some(at) = at else {
        return "unknown".to_owned();
    };
    let left = at.signed_duration_since(crate::wall_clock::now());
    let minutes = (left.num_seconds().max(0) + 59) / 60;
    format!("{} h {} min", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_only_at_nothing_and_full_only_at_the_allowance() {
        let bar = |used, allowance| bar(used, allowance, BAR_WIDTH);
        assert!(!bar(0, 100).contains('█'));
        assert!(bar(1, 1_000_000).starts_with('█'));
        assert!(bar(999_999, 1_000_000).ends_with('░'));
        assert!(!bar(100, 100).contains('░'));
        assert!(!bar(5, 0).contains('░'));
    }
}
