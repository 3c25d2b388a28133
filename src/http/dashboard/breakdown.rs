//! Usage by project or by model: a table with bars that can be sorted and filtered.

use maud::{Markup, html};

use super::{
    chart::row_bar,
    figures::{counted, grouped, name, percent},
    history::{UsageSums, add, rank, tokens},
    links::PageQuery,
};
use crate::domain::{ProviderUsage, UsageCounters};

/// Rows that a table shows; the others are one row.
const MAX_ROWS: usize = 100;

/// A table.
pub(super) struct Breakdown<'b> {
    /// What a row is of, `project` or `model`: also the parameter of the filter.
    pub(super) noun: &'static str,
    pub(super) title: &'static str,
    pub(super) has_pools: bool,
    pub(super) rows: Vec<BreakdownRow>,
    /// What the rows do not name.
    pub(super) others: UsageSums,
    pub(super) query: &'b PageQuery,
}

/// A project or a model.
pub(super) struct BreakdownRow {
    pub(super) name: String,
    /// Why it is billed, as far as the policy says.
    pub(super) note: &'static str,
    pub(super) pool: Option<String>,
    pub(super) sums: UsageSums,
}

/// The column by which a table is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortColumn {
    Name,
    Free,
    Billed,
    Requests,
    ProviderFree,
    ProviderBilled,
}

impl SortColumn {
    /// Those of every table.
    const LEDGER: [Self; 4] = [Self::Name, Self::Free, Self::Billed, Self::Requests];

    /// Those of a table in which a row was compared.
    const PROVIDER: [Self; 2] = [Self::ProviderFree, Self::ProviderBilled];

    /// Its value of the parameter.
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Free => "free",
            Self::Billed => "billed",
            Self::Requests => "requests",
            Self::ProviderFree => "provider_free",
            Self::ProviderBilled => "provider_billed",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Free => "Free tokens",
            Self::Billed => "Billed tokens",
            Self::Requests => "Requests",
            Self::ProviderFree => "Provider: free",
            Self::ProviderBilled => "Provider: billed",
        }
    }

    fn sort(self, rows: &mut [BreakdownRow]) {
        let provider = |row: &BreakdownRow| row.sums.provider.unwrap_or_default();
        let figure = |row: &BreakdownRow| match self {
            Self::Name => 0,
            Self::Free => row.sums.counters.free_tokens.get(),
            Self::Billed => row.sums.counters.billed_tokens.get(),
            Self::Requests => requests(&row.sums.counters),
            Self::ProviderFree => provider(row).free_tokens.get(),
            Self::ProviderBilled => provider(row).billed_tokens.get(),
        };
        rows.sort_by(|one, other| {
            let by_figure = figure(other).cmp(&figure(one));
            let by_rank = || rank(&other.sums).cmp(&rank(&one.sums));
            let by_name = || one.name.cmp(&other.name);
            match self {
                Self::Name => by_name(),
                _ => by_figure.then_with(by_rank).then_with(by_name),
            }
        });
    }
}

fn requests(counters: &UsageCounters) -> u64 {
    counters.free_requests + counters.billed_requests
}

impl Breakdown<'_> {
    pub(super) fn show(mut self) -> Markup {
        let sort_parameter = format!("{}_sort", self.noun);
        let given = self.query.get(&sort_parameter);
        let sort = SortColumn::LEDGER
            .into_iter()
            .chain(SortColumn::PROVIDER)
            .find(|it| given == Some(it.name()));
        let sort = sort.unwrap_or(SortColumn::Billed);
        let filter = self.query.get(self.noun).unwrap_or_default().to_owned();
        let all = self.rows.len();
        let wanted = filter.to_lowercase();
        self.rows
            .retain(|row| row.name.to_lowercase().contains(&wanted));
        sort.sort(&mut self.rows);
        let largest = self.rows.iter().map(|row| tokens(&row.sums)).max();
        let largest = largest.unwrap_or(0);
        let mut rest = match filter.is_empty() {
            true => self.others,
            false => UsageSums::default(),
        };
        let hidden = self.rows.get(MAX_ROWS..).unwrap_or_default();
        hidden.iter().for_each(|row| add(&mut rest, &row.sums));
        let compared = self.rows.iter().map(|row| &row.sums).chain([&rest]);
        let has_provider = compared.into_iter().any(|sums| sums.provider.is_some());
        html! {
            h3 #{ "by-" (self.noun) } { (self.title) }
            (self.filter(&filter, all))
            div.table role="region" aria-label={ "Usage by " (self.noun) } tabindex="0" {
                table #{ (self.noun) "-table" } {
                    caption { "Free and billed tokens by " (self.noun) }
                    thead { tr {
                        @for column in SortColumn::LEDGER {
                            (self.heading(column, sort, &sort_parameter))
                            @if column == SortColumn::Name && self.has_pools { th scope="col" { "Pool" } }
                        }
                        th scope="col" { "Billed" }
                        @if has_provider {
                            @for column in SortColumn::PROVIDER {
                                (self.heading(column, sort, &sort_parameter))
                            }
                        }
                    } }
                    tbody {
                        @for row in self.rows.iter().take(MAX_ROWS) { (self.row(row, largest, has_provider)) }
                        @if rest != UsageSums::default() { (self.rest(&rest, has_provider)) }
                        @else if self.others != UsageSums::default() { (self.incomplete(has_provider)) }
                        @if self.rows.is_empty() {
                            tr { td colspan=(self.columns(has_provider)) { "No " (self.noun) " to show." } }
                        }
                    }
                }
            }
        }
    }

    fn filter(&self, filter: &str, all: usize) -> Markup {
        let shown = match self.rows.len() {
            shown if shown == all => counted(all, self.noun),
            shown => format!("{} of {}", grouped(shown as u64), counted(all, self.noun)),
        };
        let kept = self.query.iter().filter(|(name, _)| *name != self.noun);
        html! {
            form.filter method="get" role="search" aria-label={ "Filter by " (self.noun) } data-live {
                @for (name, value) in kept { input type="hidden" name=(name) value=(value); }
                label { "Filter " input type="search" name=(self.noun) value=(filter) maxlength="256"
                    autocomplete="off" spellcheck="false"; }
                button type="submit" { "Filter" }
                span.note role="status" { (shown) }
            }
        }
    }

    fn heading(&self, column: SortColumn, sort: SortColumn, parameter: &str) -> Markup {
        let address = self.query.with(&[(parameter, column.name())]);
        let order = (column == sort).then_some(match column {
            SortColumn::Name => "ascending",
            _ => "descending",
        });
        html! {
            th.number[column != SortColumn::Name] scope="col" aria-sort=[order] {
                a href=(address) data-live { (column.title()) }
            }
        }
    }

    fn row(&self, row: &BreakdownRow, largest: u64, has_provider: bool) -> Markup {
        let UsageCounters {
            free_tokens,
            billed_tokens,
            ..
        } = row.sums.counters;
        let (free, billed) = (free_tokens.get(), billed_tokens.get());
        html! {
            tr {
                th scope="row" {
                    (name(&row.name))
                    @if !row.note.is_empty() { " " span.tag { (row.note) } }
                }
                @if self.has_pools {
                    td { @match &row.pool { Some(pool) => (name(pool)), None => "–" } }
                }
                td.number { (grouped(free)) }
                td.number { (grouped(billed)) }
                td.number { (grouped(requests(&row.sums.counters))) }
                td.share { (percent(billed, free + billed)) (row_bar(free, billed, largest)) }
                @if has_provider { (provider_cells(row.sums.provider)) }
            }
        }
    }

    fn columns(&self, has_provider: bool) -> usize {
        5 + usize::from(self.has_pools) + 2 * usize::from(has_provider)
    }

    /// Under a filter: what `others` has may be of the rows that are shown.
    fn incomplete(&self, has_provider: bool) -> Markup {
        html! {
            tr.rest { th scope="row" colspan=(self.columns(has_provider)) {
                "Days with more than 1,000 names are not whole here: download the file"
            } }
        }
    }

    fn rest(&self, rest: &UsageSums, has_provider: bool) -> Markup {
        let counters = &rest.counters;
        let (free, billed) = (counters.free_tokens.get(), counters.billed_tokens.get());
        html! {
            tr.rest {
                th scope="row" { "others: filter, or download the file" }
                @if self.has_pools { td { "–" } }
                td.number { (grouped(free)) }
                td.number { (grouped(billed)) }
                td.number { (grouped(requests(counters))) }
                td.share { (percent(billed, free + billed)) }
                @if has_provider { (provider_cells(rest.provider)) }
            }
        }
    }
}

/// What the provider counted.
fn provider_cells(usage: Option<ProviderUsage>) -> Markup {
    let figures = usage.map(|usage| [usage.free_tokens, usage.billed_tokens]);
    html! {
        @for place in 0..2 {
            td.number.provider { @match figures { Some(figures) => (grouped(figures[place].get())), None => "–" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tokens;

    fn row(name: &str, billed: u64, provider: Option<(u64, u64)>) -> BreakdownRow {
        let tokens = |amount| Tokens::new(amount).expect("an amount");
        let counters = UsageCounters {
            billed_tokens: tokens(billed),
            ..UsageCounters::default()
        };
        let provider = provider.map(|(free, billed)| ProviderUsage {
            free_tokens: tokens(free),
            billed_tokens: tokens(billed),
        });
        BreakdownRow {
            name: name.to_owned(),
            note: "",
            pool: None,
            sums: UsageSums { counters, provider },
        }
    }

    #[test]
    fn rows_that_only_the_provider_has_are_sorted_by_its_tokens() {
        let names = |sort: SortColumn| {
            let mut rows = [
                row("a", 0, None),
                row("b", 9, None),
                row("c", 0, Some((7, 2))),
                row("d", 1, Some((3, 40))),
            ];
            sort.sort(&mut rows);
            rows.map(|row| row.name).concat()
        };
        assert_eq!(names(SortColumn::Name), "abcd");
        assert_eq!(names(SortColumn::Billed), "bdca");
        assert_eq!(names(SortColumn::Free), "dbca");
        assert_eq!(names(SortColumn::ProviderFree), "cdba");
        assert_eq!(names(SortColumn::ProviderBilled), "dcba");
    }
}
