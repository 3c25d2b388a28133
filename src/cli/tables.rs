//! Formats answers as tables.

use chrono::DateTime;
use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::{
    auth::{Caller, Callers, Organizations},
    client::output::{counted, fact, facts, grouped, reason},
    grpc::proto::{
        GetQuotaResponse, ListUsageResponse, ReleaseResponse, ReserveResponse, SettleResponse,
        Verdict,
    },
    policy::{DataSharing, Policy},
};

/// Characters of a full bar.
const BAR_WIDTH: u64 = 24;

/// Organizations that `check-policy` lists; the rest are counted.
const MAX_LISTED: usize = 20;

pub(super) fn reserved(answer: &ReserveResponse) -> String {
    let mut lines = facts();
    fact(
        &mut lines,
        "verdict",
        verdict(answer.verdict, answer.billed_reason),
    );
    pool_facts(
        &mut lines,
        &answer.pool,
        answer.used,
        answer.allowance,
        answer.remaining,
    );
    fact(&mut lines, "resets in", until(answer.resets_at.as_ref()));
    replay_fact(&mut lines, answer.replayed);
    lines.trim_fmt()
}

pub(super) fn settled(answer: &SettleResponse) -> String {
    let mut lines = facts();
    let changed = if answer.verdict_changed {
        ", another verdict than at reserve"
    } else {
        ""
    };
    let verdict = verdict(answer.verdict, answer.billed_reason);
    fact(&mut lines, "verdict", format!("{verdict}{changed}"));
    pool_facts(
        &mut lines,
        &answer.pool,
        answer.used,
        answer.allowance,
        answer.remaining,
    );
    fact(&mut lines, "resets in", until(answer.resets_at.as_ref()));
    replay_fact(&mut lines, answer.replayed);
    lines.trim_fmt()
}

pub(super) fn released(answer: &ReleaseResponse) -> String {
    let mut lines = facts();
    fact(
        &mut lines,
        "released",
        format!("{} tokens", grouped(answer.released_tokens)),
    );
    pool_facts(
        &mut lines,
        &answer.pool,
        answer.used,
        answer.allowance,
        answer.remaining,
    );
    fact(&mut lines, "resets in", until(answer.resets_at.as_ref()));
    replay_fact(&mut lines, answer.replayed);
    lines.trim_fmt()
}

pub(super) fn quota(answer: &GetQuotaResponse) -> String {
    let standing = if answer.enrolled {
        "enrolled".to_owned()
    } else {
        format!("not enrolled: {}", reason(answer.not_enrolled_reason))
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "POOL",
        "",
        "USED / ALLOWANCE",
        "HELD",
        "REMAINING",
        "BILLED",
    ]);
    for pool in &answer.pools {
        table.add_row([
            Cell::new(&pool.pool),
            Cell::new(bar(pool.used, pool.allowance)),
            right(format!(
                "{} / {}",
                grouped(pool.used),
                grouped(pool.allowance)
            )),
            right(grouped(pool.held_tokens)),
            right(match pool.closed {
                true => "closed".to_owned(),
                false => grouped(pool.remaining),
            }),
            right(grouped(pool.billed_tokens)),
        ]);
    }
    format!(
        "{}: tier {}, {standing}. {} (UTC), resets in {}\n{}",
        answer.org,
        answer.tier,
        answer.day,
        until(answer.resets_at.as_ref()),
        table.trim_fmt(),
    )
}

pub(super) fn usage(answer: &ListUsageResponse) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "PROJECT",
        "MODEL",
        "POOL",
        "FREE TOKENS",
        "BILLED TOKENS",
        "FREE REQUESTS",
        "BILLED REQUESTS",
    ]);
    for row in &answer.rows {
        table.add_row([
            Cell::new(&row.project),
            Cell::new(&row.model),
            Cell::new(if row.pool.is_empty() { "-" } else { &row.pool }),
            right(grouped(row.free_tokens)),
            right(grouped(row.billed_tokens)),
            right(grouped(row.free_requests)),
            right(grouped(row.billed_requests)),
        ]);
    }
    match answer.rows.len() {
        0 => format!("{} (UTC): nothing was used", answer.day),
        rows => format!(
            "{} (UTC), {}\n{}",
            answer.day,
            counted(rows, "row"),
            table.trim_fmt()
        ),
    }
}

pub(super) fn policy(policy: &Policy) -> String {
    let program = &policy.program;
    let mut lines = facts();
    fact(&mut lines, "program", &program.name);
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
    fact(&mut lines, "organizations", policy.orgs.len());
    let (facts, tiers) = (lines.trim_fmt(), tiers(policy).trim_fmt());
    format!("{facts}\n\n{tiers}\n\n{}", organizations(policy))
}

/// The changes of a policy by kind: its name, the number of changes, and the first of them.
pub(super) fn changes(kinds: &[(&'static str, usize, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["WHAT", "CHANGES", ""]);
    for (kind, count, first) in kinds {
        let count = right(grouped(*count as u64));
        table.add_row([Cell::new(kind), count, Cell::new(first)]);
    }
    table.trim_fmt()
}

pub(super) fn callers(callers: &Callers) -> String {
    let mut table = facts();
    table.set_header(["CALLER", "ROLES", "ORGANIZATIONS", "KNOWN BY"]);
    for caller in callers.iter() {
        let roles: Vec<&str> = caller.roles().iter().map(|role| role.name()).collect();
        let organizations = match caller.organizations() {
            Organizations::All => "all".to_owned(),
            Organizations::Named(orgs) => orgs.len().to_string(),
        };
        table.add_row([
            caller.name(),
            &roles.join(", "),
            &organizations,
            &known_by(caller),
        ]);
    }
    table.trim_fmt()
}

fn known_by(caller: &Caller) -> String {
    let names = caller.certificates().iter().map(ToString::to_string);
    let tokens = match caller.tokens() {
        0 => None,
        tokens => Some(counted(tokens, "token")),
    };
    names.chain(tokens).collect::<Vec<_>>().join(", ")
}

fn tiers(policy: &Policy) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["POOL".to_owned(), "MODELS".to_owned()];
    header.extend(policy.tiers.keys().map(|tier| format!("TIER {tier}")));
    table.set_header(header);
    for pool in &policy.pools {
        let mut row = vec![Cell::new(pool), right(policy.model_count(pool).to_string())];
        let allowances = policy
            .tiers
            .values()
            .map(|terms| terms.of_pool(pool).allowance);
        row.extend(allowances.map(|allowance| right(grouped(allowance.get()))));
        table.add_row(row);
    }
    table
}

fn organizations(policy: &Policy) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ORGANIZATION", "TIER", "DATA SHARING", "NEVER FREE FOR"]);
    let mut orgs: Vec<_> = policy.orgs.iter().collect();
    orgs.sort_by_key(|(id, _)| *id);
    for (id, org) in orgs.iter().take(MAX_LISTED) {
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
        table.add_row([id.as_str(), &org.tier.to_string(), &sharing, never]);
    }
    match orgs.len().saturating_sub(MAX_LISTED) {
        0 => table.trim_fmt(),
        more => format!("{}\n… and {more} more", table.trim_fmt()),
    }
}

fn pool_facts(table: &mut Table, pool: &str, used: u64, allowance: u64, remaining: u64) {
    if pool.is_empty() {
        return;
    }
    fact(table, "pool", pool);
    fact(
        table,
        "used / allowance",
        format!("{} / {}", grouped(used), grouped(allowance)),
    );
    fact(table, "remaining", grouped(remaining));
}

fn replay_fact(table: &mut Table, replayed: bool) {
    if replayed {
        fact(
            table,
            "replayed",
            "yes: answered before, nothing was counted now",
        );
    }
}

fn verdict(verdict: i32, why: i32) -> String {
    match Verdict::try_from(verdict) {
        Ok(Verdict::Free) => "FREE".to_owned(),
        Ok(Verdict::Billed) => format!("BILLED ({})", reason(why)),
        Ok(Verdict::Unspecified) | Err(_) => format!("unknown ({verdict})"),
    }
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// `█████░░░`: never empty where something is used, never full where something remains.
fn bar(used: u64, allowance: u64) -> String {
    let filled = match (used, allowance) {
        (0, _) => 0,
        (used, allowance) if used >= allowance => BAR_WIDTH,
        (used, allowance) => {
            let share = u128::from(used) * u128::from(BAR_WIDTH) / u128::from(allowance);
            u64::try_from(share)
                .unwrap_or(BAR_WIDTH)
                .clamp(1, BAR_WIDTH - 1)
        }
    };
    (0..BAR_WIDTH)
        .map(|at| if at < filled { '█' } else { '░' })
        .collect()
}

fn until(resets_at: Option<&prost_types::Timestamp>) -> String {
    let at = resets_at.and_then(|at| DateTime::from_timestamp(at.seconds, 0));
    let Some(at) = at else {
        return "unknown".to_owned();
    };
    let minutes = (at
        .signed_duration_since(crate::wall_clock::now())
        .num_seconds()
        .max(0)
        + 59)
        / 60;
    format!("{} h {} min", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_only_at_nothing_and_full_only_at_the_allowance() {
        assert!(!bar(0, 100).contains('█'));
        assert!(bar(1, 1_000_000).starts_with('█'));
        assert!(bar(999_999, 1_000_000).ends_with('░'));
        assert!(!bar(100, 100).contains('░'));
        assert!(!bar(5, 0).contains('░'));
    }
}
