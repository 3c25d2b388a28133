//! The changes of external usage on an organization's page: who set which figure, when, and why.

use std::time::Duration;

use maud::{Markup, html};
use tokio::time::Instant;

use super::{
    figures::{counted, grouped, name, utc_date_time},
    range::UsageRange,
    state::Dashboard,
};
use crate::{
    domain::{ExternalChange, OrgId},
    ledger::{ExternalChangeList, LedgerError, UsageDays},
};

/// The changes that are shown.
const MAX_SHOWN: usize = 100;

/// The part of the page.
pub(super) struct ChangesView {
    range: UsageRange,
    list: Result<ExternalChangeList, LedgerError>,
}

impl ChangesView {
    /// Reads the newest changes of the range, for at most this time.
    pub(super) async fn read(
        dashboard: &Dashboard,
        org: &OrgId,
        range: UsageRange,
        timeout: Duration,
    ) -> Self {
        let ledger = dashboard
            .http
            .ledger
            .with_deadline(Instant::now() + timeout);
        let days = UsageDays::Range {
            from: range.from,
            to: Some(range.to),
        };
        // One more than is shown: are there others?
        let list = ledger.external_changes(org, days, MAX_SHOWN + 1).await;
        Self { range, list }
    }

    pub(super) fn show(&self) -> Markup {
        html! {
            section #changes aria-labelledby="changes-title" {
                h2 #changes-title { "Changes of external usage" }
                @match &self.list {
                    Err(_) => p.note { "The changes can't be read now." },
                    Ok(list) if list.changes.is_empty() => p.note { "None in " (self.range.label.text()) "." },
                    Ok(list) => (self.table(list)),
                }
            }
        }
    }

    fn table(&self, list: &ExternalChangeList) -> Markup {
        let hidden = list.changes.len() > MAX_SHOWN || list.next_to_day.is_some();
        html! {
            p.note {
                @if hidden {
                    "The newest " (MAX_SHOWN) " in " (self.range.label.text()) "; choose fewer days to see earlier ones, or \
                     use tollgate external --history."
                } @else {
                    (counted(list.changes.len(), "change")) " in " (self.range.label.text()) "."
                }
                @for day in &list.truncated_days {
                    " " (day) " has more changes than are kept: the audit log has the others."
                }
            }
            div.table role="region" aria-label="Changes of external usage" tabindex="0" {
                table #changes-table {
                    caption { "Who set the external usage of which pool" }
                    thead { tr {
                        th scope="col" { "Set at" }
                        th scope="col" { "Pool" }
                        th scope="col" { "Source" }
                        th.number scope="col" { "Before" }
                        th.number scope="col" { "After" }
                        th scope="col" { "Who" }
                        th scope="col" { "Note" }
                    } }
                    tbody { @for change in list.changes.iter().take(MAX_SHOWN) { (row(change)) } }
                }
            }
        }
    }
}

fn row(change: &ExternalChange) -> Markup {
    html! {
        tr {
            th scope="row" { (utc_date_time(change.at)) }
            td { (name(change.pool.as_str())) }
            td { (<&str>::from(change.source)) }
            td.number {
                @match change.before {
                    Some(before) => (grouped(before.get())),
                    None => "outcome unknown",
                }
            }
            td.number { (grouped(change.after.get())) }
            td { (or_dash(change.caller.as_deref().unwrap_or_default())) }
            td.words { (or_dash(&change.note)) }
        }
    }
}

fn or_dash(text: &str) -> Markup {
    match text {
        "" => html! { "–" },
        text => name(text),
    }
}
