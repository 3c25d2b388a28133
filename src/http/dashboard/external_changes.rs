//! The changes of external usage on an organization's page: who set which figure, when, and why.

use maud::{Markup, html};

use super::{
    day_changes::DayChanges,
    figures::{counted, grouped, name, utc_date_time},
    history::KnownDays,
    range::UsageRange,
};
use crate::domain::{ExternalChange, UtcDay};

/// The part of the page.
pub(super) struct ChangesView<'v> {
    pub(super) range: UsageRange,
    pub(super) known: &'v KnownDays,
}

/// The newest changes of the range.
#[derive(Default)]
struct RangeChanges<'v> {
    /// The newest first, one more than is shown if there are others.
    newest: Vec<&'v ExternalChange>,
    /// Days with changes that only the log has.
    truncated_days: Vec<UtcDay>,
    /// How many of the days have not been read.
    missing: usize,
}

impl ChangesView<'_> {
    pub(super) fn show(&self) -> Markup {
        let changes = self.newest();
        html! {
            section #changes aria-labelledby="changes-title" {
                h2 #changes-title { "Changes of external usage" }
                (self.summary(&changes))
                @if !changes.newest.is_empty() { (table(&changes)) }
            }
        }
    }

    fn newest(&self) -> RangeChanges<'_> {
        let mut changes = RangeChanges::default();
        for day in self.range.days().into_iter().rev() {
            if changes.newest.len() > DayChanges::MAX_SHOWN {
                break;
            }
            let known = self.known.days.get(&day);
            let Some(of_day) = known.and_then(|known| known.changes.as_ref()) else {
                changes.missing += 1;
                continue;
            };
            changes.newest.extend(&of_day.newest);
            if of_day.is_truncated {
                changes.truncated_days.push(day);
            }
        }
        changes
    }

    fn summary(&self, changes: &RangeChanges<'_>) -> Markup {
        let days = self.range.label.text();
        html! {
            p.note {
                @match changes.newest.len() {
                    0 if changes.missing > 0 => "",
                    0 => { "None in " (days) "." }
                    1..=DayChanges::MAX_SHOWN => { (counted(changes.newest.len(), "change")) " in " (days) "." }
                    _ => {
                        "The newest " (DayChanges::MAX_SHOWN) " in " (days) "; choose fewer days to see earlier ones, or use \
                         tollgate external --history."
                    }
                }
                @for day in &changes.truncated_days {
                    " " (day) " has changes that are not listed: the audit log has them."
                }
                @if changes.missing > 0 {
                    " The changes of " (counted(changes.missing, "day")) " can't be read now."
                }
            }
        }
    }
}

fn table(changes: &RangeChanges<'_>) -> Markup {
    html! {
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
                tbody { @for change in changes.newest.iter().take(DayChanges::MAX_SHOWN) { (row(change)) } }
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
