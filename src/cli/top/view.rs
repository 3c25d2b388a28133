//! Draws `tollgate top`.

use chrono::{DateTime, Utc};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Cell, Paragraph, Row, Table},
};

use super::{
    super::tables::bar,
    format::{age, compact, totals, until_reset},
    state::{PoolRow, TopState},
};
use crate::{
    client::output::{counted, grouped, shown},
    grpc::proto::{ListOrganizationsResponse, OrganizationOrder, PoolQuota},
};

/// Lines that are no rows: two of the head, the titles, and the foot.
const OTHER_LINES: u16 = 4;

/// From this width on, there is room for exact numbers.
const WIDE: u16 = 150;

/// From this share of the allowance on, a bar is yellow.
const NEAR_END: f64 = 0.8;

/// The titles of the columns after organization, pool and bar.
const NUMBERS: [&str; 7] = [
    "USED/ALLOW.",
    "HELD",
    "EXT",
    "MARGIN",
    "REMAIN",
    "BILLED",
    "AGE",
];

/// The widths of the columns after the organization.
#[derive(Clone, Copy)]
struct Widths {
    pool: u16,
    bar: u16,
    numbers: [u16; 7],
}

/// On 80 columns, they leave 15 to the organization.
const NARROW: Widths = Widths {
    pool: 6,
    bar: 8,
    numbers: [11, 5, 5, 6, 6, 6, 3],
};

const BROAD: Widths = Widths {
    pool: 10,
    bar: 24,
    numbers: [25, 12, 12, 12, 12, 12, 3],
};

/// How many rows fit on a screen of this height.
pub(super) fn rows_on(state: &TopState, height: u16) -> usize {
    let error = u16::from(state.error.is_some());
    height.saturating_sub(OTHER_LINES + error).into()
}

pub(super) fn draw(frame: &mut Frame, state: &TopState, now: DateTime<Utc>) {
    let error = u16::from(state.error.is_some());
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(error),
        Constraint::Length(1),
    ]);
    let [head, summary, rows, error, foot] = areas.areas(frame.area());
    frame.render_widget(head_line(state, now), head);
    if let Some(answer) = &state.answer {
        frame.render_widget(Line::raw(summary_text(answer)), summary);
        draw_rows(frame, rows, state, now);
    } else {
        let wait = Paragraph::new("waiting for the service …").centered();
        frame.render_widget(wait, rows);
    }
    if let Some(text) = &state.error {
        let text = text.replace(char::is_control, " ");
        frame.render_widget(Line::raw(text).style(Color::Red), error);
    }
    frame.render_widget(foot_line(state), foot);
}

fn head_line(state: &TopState, now: DateTime<Utc>) -> Line<'static> {
    let order = match state.order {
        OrganizationOrder::NearestToEnd => "nearest to its end first",
        _ => "by name",
    };
    let (address, reset) = (&state.address, until_reset(now));
    Line::raw(format!("tollgate {address}  resets in {reset}  {order}")).style(Modifier::BOLD)
}

/// How many organizations there are, and the sums of their pools, as far as they are known.
fn summary_text(answer: &ListOrganizationsResponse) -> String {
    let (listed, total) = (&answer.organizations, answer.total as usize);
    let all = counted(total, "organization");
    match totals(listed) {
        totals if totals.is_empty() => all,
        totals if listed.len() == total => format!("{all}: {totals}"),
        totals => format!(
            "{all}, the first {}: {totals}",
            grouped(listed.len() as u64)
        ),
    }
}

fn foot_line(state: &TopState) -> Line<'_> {
    if state.is_typing {
        return Line::raw(format!(
            "filter: {}▏  Enter: keep  Esc: remove",
            shown(&state.filter)
        ));
    }
    let filter = match state.filter.as_str() {
        "" => "/ filter".to_owned(),
        filter => format!("/ filter: {}", shown(filter)),
    };
    Line::raw(format!("q quit  ↑↓ PgUp PgDn scroll  s order  {filter}")).style(Modifier::DIM)
}

fn draw_rows(frame: &mut Frame, area: Rect, state: &TopState, now: DateTime<Utc>) {
    let widths = if area.width < WIDE { NARROW } else { BROAD };
    let titles = ["ORGANIZATION", "POOL", ""].map(Cell::from).into_iter();
    let titles = Row::new(titles.chain(NUMBERS.map(right)));
    let rows = state.rows().map(|row| pool_row(row, widths, now));
    let columns = [widths.pool, widths.bar].into_iter().chain(widths.numbers);
    let columns = columns.map(Constraint::Length);
    let columns = [Constraint::Fill(1)].into_iter().chain(columns);
    let table = Table::new(rows, columns)
        .header(titles.style(Modifier::REVERSED))
        .column_spacing(1);
    frame.render_widget(table, area);
}

fn pool_row((organization, pool): PoolRow<'_>, widths: Widths, now: DateTime<Utc>) -> Row<'static> {
    let name = Cell::from(shown(&organization.org));
    let Some(pool) = pool else {
        return Row::new([name]);
    };
    let [pair, held, external, margin, remaining, billed, _] = widths.numbers;
    let half = (pair - 1) / 2;
    let used = [pool.used, pool.allowance]
        .map(|it| fitting(it, half))
        .join("/");
    let remaining = match (organization.enrolled, pool.closed) {
        (false, _) => "off".to_owned(),
        (true, true) => "closed".to_owned(),
        (true, false) => fitting(pool.remaining, remaining),
    };
    let numbers = [
        used,
        fitting(pool.held_tokens, held),
        fitting(pool.external_tokens, external),
        fitting(pool.margin_tokens, margin),
        remaining,
        fitting(pool.billed_tokens, billed),
        age(organization.as_of.as_ref(), now),
    ];
    let bar = bar(pool.used, pool.allowance, widths.bar.into());
    let cells = [
        name,
        Cell::from(shown(&pool.pool)),
        Cell::from(bar).style(color(pool)),
    ];
    let style = match organization.enrolled {
        true => Style::default(),
        false => Style::from(Modifier::DIM),
    };
    Row::new(cells.into_iter().chain(numbers.map(right))).style(style)
}

/// A number as it fits in this many columns, at least five.
fn fitting(number: u64, width: u16) -> String {
    let exact = grouped(number);
    match exact.len() <= width.into() {
        true => exact,
        false => compact(number),
    }
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::raw(text.into()).right_aligned())
}

/// By what is counted of what Reserves get.
fn color(pool: &PoolQuota) -> Color {
    let reservable = pool.allowance.saturating_sub(pool.margin_tokens);
    let counted = pool.used.saturating_add(pool.external_tokens);
    if pool.closed || counted >= reservable {
        Color::Red
    } else if counted as f64 >= reservable as f64 * NEAR_END {
        Color::Yellow
    } else {
        Color::Green
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::grpc::proto::OrganizationSummary;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("a time")
    }

    fn summary(org: &str, large: PoolQuota) -> OrganizationSummary {
        OrganizationSummary {
            org: org.to_owned(),
            tier: 3,
            enrolled: true,
            pools: vec![PoolQuota {
                pool: "large".to_owned(),
                ..large
            }],
            as_of: Some(prost_types::Timestamp {
                seconds: 1_800_000_000 - 3,
                nanos: 0,
            }),
            ..OrganizationSummary::default()
        }
    }

    fn organizations() -> Vec<OrganizationSummary> {
        let quota = PoolQuota {
            allowance: 1_000_000,
            used: 700_000,
            remaining: 180_000,
            held_tokens: 12_345,
            margin_tokens: 50_000,
            external_tokens: 70_000,
            billed_tokens: 1_234_567,
            ..PoolQuota::default()
        };
        let closed = PoolQuota {
            closed: true,
            ..quota.clone()
        };
        let off = OrganizationSummary {
            enrolled: false,
            as_of: None,
            ..summary("off", PoolQuota::default())
        };
        vec![
            summary("acme", quota.clone()),
            summary("組織名は長い組織名は長い", closed),
            summary("שלום", quota),
            off,
        ]
    }

    /// How many cells a text takes.
    fn cells(text: &str) -> usize {
        ratatui::text::Span::raw(text).width()
    }

    /// The lines of a screen of this size.
    fn screen(width: u16, height: u16, change: impl Fn(&mut TopState)) -> Vec<String> {
        let mut state = TopState::new("http://here:50051/".to_owned());
        state.update(Ok(ListOrganizationsResponse {
            organizations: organizations(),
            next_page_token: String::new(),
            total: 4,
        }));
        change(&mut state);
        state.set_height(rows_on(&state, height));
        let backend = TestBackend::new(width, height);
        let mut terminal = Terminal::new(backend).expect("a terminal");
        let drawn = terminal.draw(|frame| draw(frame, &state, now()));
        let buffer = drawn.expect("drawn").buffer.clone();
        let line = |y| -> String {
            let (mut line, mut x) = (String::new(), 0);
            while x < width {
                let symbol = buffer[(x, y)].symbol();
                line += symbol;
                // A wide character takes two cells.
                x += u16::try_from(cells(symbol)).expect("a cell").max(1);
            }
            line
        };
        (0..height).map(line).collect()
    }

    #[test]
    fn every_figure_fits_on_80_columns() {
        let lines = screen(80, 24, |_| {});
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(&lines[0]),
            "tollgate http://here:50051/ resets in 16 h 0 min nearest to its end first"
        );
        assert_eq!(
            words(&lines[1]),
            "4 organizations: large 2,100,000 / 3,000,000"
        );
        assert_eq!(
            words(&lines[2]),
            "ORGANIZATION POOL USED/ALLOW. HELD EXT MARGIN REMAIN BILLED AGE"
        );
        assert_eq!(
            words(&lines[3]),
            "acme large █████░░░ 700k/1.00M 12.3k 70.0k 50,000 180k 1.23M 3s"
        );
        assert!(words(&lines[4]).contains(" closed "), "{}", lines[4]);
        assert_eq!(words(&lines[6]), "off large ░░░░░░░░ 0/0 0 0 0 off 0 -");
        assert!(lines[23].starts_with("q quit"), "{}", lines[23]);
    }

    #[test]
    fn columns_are_aligned_whatever_the_width_of_the_names() {
        for width in [80, 100, 150, 200] {
            let lines = screen(width, 24, |_| {});
            let column = |line: &String| cells(&line[..line.find("large").expect("a pool")]);
            let columns: Vec<usize> = lines[3..7].iter().map(column).collect();
            assert!(columns.iter().all(|it| *it == columns[0]), "{columns:?}");
        }
    }

    #[test]
    fn wide_screens_have_exact_numbers() {
        let lines = screen(160, 24, |_| {});
        assert!(lines[3].contains("700,000/1,000,000"), "{}", lines[3]);
        assert!(lines[3].contains(" 1,234,567 "), "{}", lines[3]);
    }

    #[test]
    fn an_error_has_a_line_and_the_figures_stay() {
        let lines = screen(80, 24, |state| {
            state.update(Err("UNAVAILABLE: a\nb".to_owned()))
        });
        assert!(lines[22].starts_with("UNAVAILABLE: a b"), "{}", lines[22]);
        assert!(lines[3].starts_with("acme"), "{}", lines[3]);
    }

    #[test]
    fn the_smallest_screens_are_drawn_too() {
        for (width, height) in [(1, 1), (2, 3), (10, 4), (20, 5), (40, 6)] {
            assert_eq!(screen(width, height, |_| {}).len(), usize::from(height));
        }
    }
}
