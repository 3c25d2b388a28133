//! Charts, as SVG. Colours are classes of the style sheet; what a chart shows is also in a table.

use maud::{Markup, html};

use super::{
    figures::{grouped, short},
    pools::swatch,
};

/// The height of the chart by day, in units of its picture.
const HEIGHT: u64 = 200;

/// The width of a day with its gap.
const DAY_WIDTH: usize = 20;

/// Lines of the grid above the base line.
const GRID_LINES: u64 = 4;

/// A day of the chart.
pub(super) struct DayColumn {
    pub(super) day: String,
    /// Free and billed tokens; none: they have not been read yet.
    pub(super) tokens: Option<(u64, u64)>,
}

/// Free and billed tokens by day, stacked.
pub(super) fn by_day(columns: &[DayColumn]) -> Markup {
    let sums = columns.iter().filter_map(|column| column.tokens);
    let step = grid_step(sums.map(|(free, billed)| free + billed).max().unwrap_or(0));
    let top = step * GRID_LINES;
    let width = columns.len() * DAY_WIDTH;
    let labels = [
        columns.first(),
        columns.get(columns.len() / 2),
        columns.last(),
    ];
    html! {
        div.chart {
            div.y-axis aria-hidden="true" {
                @for line in (0..=GRID_LINES).rev() { span { (short(line * step)) } }
            }
            svg.columns viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label="Free and billed tokens by day. The table below has the figures." {
                @for line in 0..=GRID_LINES {
                    @let y = HEIGHT * line / GRID_LINES;
                    line.grid x1="0" y1=(y) x2=(width) y2=(y) {}
                }
                @for (place, column) in columns.iter().enumerate() {
                    (day_column(place * DAY_WIDTH, column, top))
                }
            }
            div.x-axis aria-hidden="true" {
                @for column in labels.into_iter().flatten() {
                    span { (column.day.get(5..).unwrap_or_default()) }
                }
            }
        }
        ul.legend {
            li { (swatch("free")) "free" }
            li { (swatch("billed")) "billed" }
        }
    }
}

fn day_column(x: usize, column: &DayColumn, top: u64) -> Markup {
    let Some((free, billed)) = column.tokens else {
        return html! {
            g { title { (column.day) ": not read yet" } }
        };
    };
    let height = |tokens: u64| units(tokens, top, HEIGHT);
    let (all, upper) = (height(free + billed), height(billed));
    html! {
        g {
            title { (column.day) ": " (grouped(free)) " free, " (grouped(billed)) " billed" }
            rect.target x=(x) y="0" width=(DAY_WIDTH) height=(HEIGHT) {}
            rect.free x=(x + 3) y=(HEIGHT - all + upper) width=(DAY_WIDTH - 6) height=(all - upper) {}
            rect.billed x=(x + 3) y=(HEIGHT - all) width=(DAY_WIDTH - 6) height=(upper) {}
        }
    }
}

/// Free and billed tokens of a row of a table, against the largest row.
pub(super) fn row_bar(free: u64, billed: u64, largest: u64) -> Markup {
    let (all, first) = (
        units(free + billed, largest, 100),
        units(free, largest, 100),
    );
    html! {
        svg.row-bar viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
            rect.free x="0" y="0" width=(first) height="10" {}
            rect.billed x=(first) y="0" width=(all - first) height="10" {}
        }
    }
}

/// A part of a whole, in units. What is not zero is at least one.
fn units(part: u64, whole: u64, units: u64) -> u64 {
    let share = u128::from(part) * u128::from(units) / u128::from(whole.max(1));
    let least = u128::from(part > 0);
    u64::try_from(share.max(least)).unwrap_or(units)
}

/// The least step of 1, 2 or 5 times a power of ten with which the grid reaches the largest sum.
fn grid_step(largest: u64) -> u64 {
    let mut power = 1;
    loop {
        for step in [power, 2 * power, 5 * power] {
            if step * GRID_LINES >= largest {
                return step;
            }
        }
        power *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_reaches_the_largest_sum_in_round_steps() {
        for (largest, step) in [(0, 1), (4, 1), (5, 2), (21, 10), (1_000_000, 500_000)] {
            assert_eq!(grid_step(largest), step, "{largest}");
        }
        // Twice the largest counter.
        assert!(grid_step(1 << 54) * GRID_LINES >= 1 << 54);
    }

    #[test]
    fn a_column_stacks_billed_on_free_and_shows_what_is_tiny() {
        let column = DayColumn {
            day: "2026-11-22".to_owned(),
            tokens: Some((300, 100)),
        };
        let svg = day_column(20, &column, 400).into_string();
        assert!(svg.contains("2026-11-22: 300 free, 100 billed"), "{svg}");
        assert!(
            svg.contains("class=\"free\" x=\"23\" y=\"50\" width=\"14\" height=\"150\""),
            "{svg}"
        );
        assert!(
            svg.contains("class=\"billed\" x=\"23\" y=\"0\" width=\"14\" height=\"50\""),
            "{svg}"
        );
        assert_eq!(units(1, 1_000_000, 200), 1);
        assert_eq!(units(0, 1_000_000, 200), 0);
    }
}
