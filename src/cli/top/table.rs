//! The table of `tollgate top --once`.

use chrono::{DateTime, Utc};
use comfy_table::{Cell, CellAlignment};

use super::{
    super::{
        drift,
        tables::{BAR_WIDTH, bar, table},
    },
    format::{age, totals, until_reset},
};
use crate::{
    client::output::{counted, grouped, reason, shown},
    grpc::proto::ListOrganizationsResponse,
};

const TITLES: [&str; 11] = [
    "ORGANIZATION",
    "TIER",
    "POOL",
    "",
    "USED / ALLOWANCE",
    "HELD",
    "EXTERNAL",
    "MARGIN",
    "REMAINING",
    "BILLED",
    "AGE",
];

/// A line for each organization and pool.
pub(super) fn organizations(answer: &ListOrganizationsResponse, now: DateTime<Utc>) -> String {
    let listed = &answer.organizations;
    let head = format!(
        "{}, resets in {}",
        counted(listed.len(), "organization"),
        until_reset(now)
    );
    if listed.is_empty() {
        return head;
    }
    let is_compared = listed.iter().any(|it| !it.comparisons.is_empty());
    let drift_title = is_compared.then_some("DRIFT");
    let mut table = table(TITLES.into_iter().chain(drift_title));
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for organization in listed {
        for pool in &organization.pools {
            let remaining = match (organization.enrolled, pool.closed) {
                (false, _) => reason(organization.not_enrolled_reason),
                (true, true) => "closed".to_owned(),
                (true, false) => grouped(pool.remaining),
            };
            let mut cells = vec![
                Cell::new(shown(&organization.org)),
                right(organization.tier.to_string()),
                Cell::new(shown(&pool.pool)),
                Cell::new(bar(pool.used, pool.allowance, BAR_WIDTH)),
                right(format!(
                    "{} / {}",
                    grouped(pool.used),
                    grouped(pool.allowance)
                )),
                right(grouped(pool.held_tokens)),
                right(grouped(pool.external_tokens)),
                right(grouped(pool.margin_tokens)),
                right(remaining),
                right(grouped(pool.billed_tokens)),
                right(age(organization.as_of.as_ref(), now)),
            ];
            if !organization.comparisons.is_empty() {
                cells.push(Cell::new(drift::summary(&organization.comparisons)));
            }
            table.add_row(cells);
        }
    }
    format!("{head}: {}\n{}", totals(listed), table.trim_fmt())
}
