//! The usage part of an organization's page: the answer in one sentence, the chart by day, and the tables by project
//! and by model.

use std::{collections::BTreeMap, sync::Arc};

use maud::{Markup, html};

use super::{
    breakdown::{Breakdown, BreakdownRow},
    chart::{self, DayColumn},
    figures::{counted, grouped, name, percent},
    history::{DayUsage, KnownDays, NamedUsage, UsageSums, add},
    links::{PageQuery, Root, encoded},
    range::{KeptDays, RangeLabel, UsageRange},
};
use crate::{
    domain::{ModelName, OrgId, ProjectId, UsageCounters, UtcDay},
    policy::Policy,
};

/// Projects that the sentence names.
const MAX_NAMED: usize = 3;

/// What the part shows.
pub(super) struct UsageView<'v> {
    pub(super) org: &'v OrgId,
    pub(super) policy: &'v Policy,
    pub(super) root: Root,
    pub(super) query: &'v PageQuery,
    pub(super) kept: KeptDays,
    pub(super) range: UsageRange,
    pub(super) known: KnownDays,
}

/// The sums of the range.
struct RangeUsage {
    total: UsageSums,
    by_project: NamedUsage<ProjectId>,
    by_model: NamedUsage<ModelName>,
    /// How many of its days have not been read.
    missing: usize,
}

impl RangeUsage {
    fn of(range: UsageRange, known: &BTreeMap<UtcDay, Arc<DayUsage>>) -> Self {
        let mut sums = Self {
            total: UsageSums::default(),
            by_project: NamedUsage::default(),
            by_model: NamedUsage::default(),
            missing: 0,
        };
        for day in range.days() {
            let Some(usage) = known.get(&day) else {
                sums.missing += 1;
                continue;
            };
            add(&mut sums.total, &usage.total);
            sums.by_project.merge(&usage.by_project);
            sums.by_model.merge(&usage.by_model);
        }
        sums
    }
}

impl UsageView<'_> {
    pub(super) fn show(&self) -> Markup {
        let usage = RangeUsage::of(self.range, &self.known.days);
        html! {
            section #usage aria-labelledby="usage-title" {
                div.section-head {
                    h2 #usage-title { "Usage" }
                    a.button href=(self.file()) download { "Download CSV" }
                }
                (self.answer(&usage))
                (self.range_choice())
                (self.by_day())
                (self.projects(&usage).show())
                (self.models(&usage).show())
                p.note {
                    "Billed is everything that was not free: over the allowance or a share, with a model that no pool lists, in a \
                     project that does not share, and what ran outside the programme. There are no figures by hour."
                    @if usage.total.provider.is_some() {
                        " The provider's figures are those of its report when the rows were compared last; – means that a row was not."
                    }
                }
            }
        }
    }

    /// How much of the range was billed, and by whom.
    fn answer(&self, usage: &RangeUsage) -> Markup {
        let total = &usage.total.counters;
        let (free, billed) = (total.free_tokens.get(), total.billed_tokens.get());
        let all = free + billed;
        let when = match self.range.label {
            RangeLabel::Other if self.range.from == self.range.to => self.range.from.to_string(),
            RangeLabel::Other => format!("{} to {}", self.range.from, self.range.to),
            label => label.text().to_owned(),
        };
        html! {
            div.answer #answer {
                p {
                    @if all == 0 {
                        "Nothing was used in " (when) "."
                    } @else if billed == 0 {
                        strong { "Nothing was billed" } " in " (when) ": all " (grouped(all)) " tokens were free."
                    } @else {
                        strong { (percent(billed, all)) " was billed" } " in " (when) ": "
                        strong { (grouped(billed)) } " of " (grouped(all)) " tokens"
                        (billed_by(&usage.by_project, billed)) "."
                    }
                }
                @if let Some(uncovered) = self.uncovered(usage).filter(|tokens| *tokens > 0) {
                    p.note {
                        (percent(uncovered, billed)) " of the billed tokens (" (grouped(uncovered))
                        ") were of models that no pool lists."
                    }
                }
                @if usage.missing > 0 {
                    p.note role="status" {
                        (counted(usage.missing, "day")) " of " (counted(self.range.days().len(), "day"))
                        @match self.known.error {
                            None => " are still being read: these sums are not complete yet.",
                            Some(_) => " could not be read: these sums are not complete.",
                        }
                    }
                }
            }
        }
    }

    /// Billed tokens of models that no pool lists; none: unknown, since some models are not named.
    fn uncovered(&self, usage: &RangeUsage) -> Option<u64> {
        if usage.by_model.others != UsageSums::default() {
            return None;
        }
        let models = usage.by_model.named.iter();
        let uncovered = models.filter(|(model, _)| self.policy.history_pool(model).is_none());
        Some(
            uncovered
                .map(|(_, sums)| sums.counters.billed_tokens.get())
                .sum(),
        )
    }

    /// The address of the same usage as a file.
    fn file(&self) -> String {
        let (root, org) = (self.root.path(), encoded(self.org.as_str()));
        let UsageRange { from, to, .. } = self.range;
        format!("{root}usage.csv?org={org}&from={from}&to={to}")
    }

    fn range_choice(&self) -> Markup {
        let (from, to) = (self.range.from.to_string(), self.range.to.to_string());
        let (oldest, today) = (self.kept.oldest.to_string(), self.kept.today.to_string());
        html! {
            div.range {
                nav aria-label="Days" {
                    @for preset in self.kept.presets() {
                        (self.preset(preset))
                    }
                }
                form method="get" data-live {
                    @for (name, value) in self.query.iter().filter(|(name, _)| !["from", "to"].contains(name)) {
                        input type="hidden" name=(name) value=(value);
                    }
                    label { "From " input type="date" name="from" value=(from) min=(oldest) max=(today) required; }
                    label { "To " input type="date" name="to" value=(to) min=(oldest) max=(today) required; }
                    button type="submit" { "Show" }
                }
            }
        }
    }

    fn preset(&self, preset: UsageRange) -> Markup {
        let (from, to) = (preset.from.to_string(), preset.to.to_string());
        let address = match preset.label {
            RangeLabel::Last7Days => self.query.with(&[("from", ""), ("to", "")]),
            _ => self.query.with(&[("from", &from), ("to", &to)]),
        };
        let text = match preset.label {
            RangeLabel::Last7Days => "Last 7 days",
            RangeLabel::LastWeek => "Last week",
            RangeLabel::Today => "Today",
            RangeLabel::Yesterday => "Yesterday",
            RangeLabel::AllKept | RangeLabel::Other => "All days",
        };
        let current = (preset.label == self.range.label).then_some("true");
        html! {
            a href=(address) data-live aria-current=[current] { (text) }
        }
    }

    fn by_day(&self) -> Markup {
        let days = self.kept.chart_days();
        let columns = days.iter().map(|day| DayColumn {
            day: day.to_string(),
            tokens: self.known.days.get(day).map(|usage| {
                let UsageCounters {
                    free_tokens,
                    billed_tokens,
                    ..
                } = usage.total.counters;
                (free_tokens.get(), billed_tokens.get())
            }),
        });
        let columns: Vec<DayColumn> = columns.collect();
        html! {
            h3 { "By day (UTC)" }
            (chart::by_day(&columns))
            details #by-day-details {
                summary { "Table of the days" }
                div.table role="region" aria-label="Tokens by day" tabindex="0" {
                    table {
                        caption { "Free and billed tokens by day" }
                        thead {
                            tr {
                                th scope="col" { "Day (UTC)" }
                                th.number scope="col" { "Free tokens" }
                                th.number scope="col" { "Billed tokens" }
                            }
                        }
                        tbody {
                            @for column in columns.iter().rev() {
                                tr { (day_cells(column)) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn projects(&self, usage: &RangeUsage) -> Breakdown<'_> {
        let sharing = self.policy.orgs.get(self.org).map(|org| &org.data_sharing);
        let rows = usage
            .by_project
            .named
            .iter()
            .map(|(project, sums)| BreakdownRow {
                name: project.as_str().to_owned(),
                note: match sharing {
                    Some(sharing) if !sharing.includes(project) => "does not share",
                    _ => "",
                },
                pool: None,
                sums: *sums,
            });
        Breakdown {
            noun: "project",
            title: "By project",
            has_pools: false,
            rows: rows.collect(),
            others: usage.by_project.others,
            query: self.query,
        }
    }

    fn models(&self, usage: &RangeUsage) -> Breakdown<'_> {
        let rows = usage.by_model.named.iter().map(|(model, sums)| {
            let pool = self.policy.history_pool(model);
            BreakdownRow {
                name: model.as_str().to_owned(),
                note: if pool.is_none() { "in no pool" } else { "" },
                pool: pool.map(|pool| pool.as_str().to_owned()),
                sums: *sums,
            }
        });
        Breakdown {
            noun: "model",
            title: "By model",
            has_pools: true,
            rows: rows.collect(),
            others: usage.by_model.others,
            query: self.query,
        }
    }
}

fn day_cells(column: &DayColumn) -> Markup {
    html! {
        th scope="row" { (column.day) }
        @match column.tokens {
            Some((free, billed)) => {
                td.number { (grouped(free)) }
                td.number { (grouped(billed)) }
            }
            None => td colspan="2" { "not read yet" },
        }
    }
}

/// ", most of it by …": the projects with the most billed tokens.
fn billed_by(projects: &NamedUsage<ProjectId>, billed: u64) -> Markup {
    let billed_of = |sums: &UsageSums| sums.counters.billed_tokens.get();
    let mut named: Vec<(&ProjectId, u64)> = projects
        .named
        .iter()
        .map(|(project, sums)| (project, billed_of(sums)))
        .filter(|(_, tokens)| *tokens > 0)
        .collect();
    named.sort_by(|(one, of_one), (other, of_other)| of_other.cmp(of_one).then(one.cmp(other)));
    let more = named.len().saturating_sub(MAX_NAMED);
    let has_more = more > 0 || billed_of(&projects.others) > 0;
    html! {
        ", by "
        @for (place, (project, tokens)) in named.iter().take(MAX_NAMED).enumerate() {
            @if place > 0 { ", " }
            strong { (name(project.as_str())) } " (" (grouped(*tokens)) ", " (percent(*tokens, billed)) ")"
        }
        @if has_more {
            " and "
            @match billed_of(&projects.others) {
                0 => (counted(more, "other project")),
                _ => "other projects",
            }
        }
    }
}
