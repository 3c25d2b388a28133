//! A pool: its bar and its figures, as both pages show them.

use maud::{Markup, html};

use super::figures::{fact, grouped, name, percent};
use crate::{domain::PoolCounters, store::PoolBalance};

/// The width of a bar in units of its picture.
const BAR_WIDTH: u128 = 1000;

/// A pool's name, what remains, and the bar.
pub(super) fn head(balance: &PoolBalance, counters: &PoolCounters) -> Markup {
    html! {
        div.pool-head {
            span.pool-name { (name(balance.pool.as_str())) }
            @if balance.is_closed {
                span.remaining.out { strong { "closed" } " until the reset" }
            } @else {
                span.remaining.out[balance.remaining().get() == 0] {
                    strong { (grouped(balance.remaining().get())) } " remaining"
                }
            }
        }
        (bar(balance, counters))
    }
}

/// The figures at a glance.
pub(super) fn glance(balance: &PoolBalance, counters: &PoolCounters) -> Markup {
    html! {
        (fact("used / allowance", &used_of_allowance(balance)))
        (fact("held", &grouped(counters.held.get())))
        (fact("external", &grouped(balance.external.get())))
        (fact("margin", &grouped(balance.margin.get())))
    }
}

fn used_of_allowance(balance: &PoolBalance) -> String {
    let (used, allowance) = (balance.used.get(), balance.allowance.get());
    format!("{} / {}", grouped(used), grouped(allowance))
}

/// What is used, held and external, and the margin, of the allowance.
fn bar(balance: &PoolBalance, counters: &PoolCounters) -> Markup {
    let (used, external) = (balance.used.get(), balance.external.get());
    let (allowance, margin) = (balance.allowance.get(), balance.margin.get());
    let counted = used.saturating_add(external);
    let whole = allowance.max(counted).max(1);
    let at = |tokens: u64| u128::from(tokens) * BAR_WIDTH / u128::from(whole);
    let settled = used.saturating_sub(counters.held.get());
    let reservable = allowance.saturating_sub(margin);
    let segments = [
        ("settled", 0, settled),
        ("held", settled, used),
        ("external", used, counted),
        ("margin", reservable.max(counted), allowance),
    ];
    let label = format!(
        "{} of the allowance used, {} external, {} margin",
        percent(used, allowance),
        percent(external, allowance),
        percent(margin, allowance),
    );
    html! {
        svg.bar viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.rest x="0" y="0" width="1000" height="10" {}
            @for (kind, from, to) in segments {
                @if at(to) > at(from) {
                    rect class=(kind) x=(at(from)) y="0" width=(at(to) - at(from)) height="10" {}
                }
            }
        }
    }
}

/// What the colours of the bars mean.
pub(super) fn legend() -> Markup {
    html! {
        ul.legend aria-label="Colours of the bars" {
            @for (kind, meaning) in [
                ("settled", "used"),
                ("held", "used, still held"),
                ("external", "external"),
                ("margin", "margin"),
                ("rest", "remaining"),
            ] {
                li { (swatch(kind)) (meaning) }
            }
        }
    }
}

/// A square of a colour.
pub(super) fn swatch(kind: &str) -> Markup {
    html! {
        svg.swatch viewBox="0 0 10 10" aria-hidden="true" {
            rect class=(kind) x="0" y="0" width="10" height="10" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PoolName, Tokens};

    fn rects(used: u64, held: u64, external: u64, margin: u64) -> Vec<String> {
        let tokens = |amount| Tokens::new(amount).expect("an amount");
        let balance = PoolBalance {
            pool: PoolName::parse("large").expect("a name"),
            allowance: tokens(1000),
            margin: tokens(margin),
            used: tokens(used),
            external: tokens(external),
            is_closed: false,
        };
        let counters = PoolCounters {
            held: tokens(held),
            ..PoolCounters::default()
        };
        let svg = bar(&balance, &counters).into_string();
        let rects = svg.split("<rect class=\"").skip(2);
        let short = |rect: &str| {
            let rect = rect.split(" height").next().unwrap_or_default();
            rect.replace("\" x=\"", " ")
                .replace("\" y=\"0\" width=\"", "+")
                .replace('"', "")
        };
        rects.map(short).collect()
    }

    #[test]
    fn a_bar_has_what_is_used_held_and_external_and_the_margin_at_its_end() {
        assert_eq!(
            rects(600, 100, 200, 50),
            [
                "settled 0+500",
                "held 500+100",
                "external 600+200",
                "margin 950+50"
            ]
        );
        assert_eq!(rects(0, 0, 0, 0), [""; 0]);
        // What is counted reaches into the margin, or past the allowance.
        assert_eq!(rects(980, 0, 0, 50), ["settled 0+980", "margin 980+20"]);
        assert_eq!(
            rects(1000, 0, 1000, 50),
            ["settled 0+500", "external 500+500"]
        );
    }
}
