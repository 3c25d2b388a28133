//! The kinds of drift, and how much of each a model of a project has on a day (docs/CONTRACT.md, "Reconcile").

use std::{collections::BTreeSet, str::FromStr};

use enum_map::EnumMap;

pub use crate::domain::DriftKind;
use crate::domain::{PoolName, UtcDay};

/// A difference, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// What it is.
    pub kind: DriftKind,
    /// The day; none: all days that were compared.
    pub day: Option<UtcDay>,
    /// The project, if it is about one.
    pub project: Option<String>,
    /// The model, if it is about one.
    pub model: Option<String>,
    /// The pool, if it is about one.
    pub pool: Option<PoolName>,
    /// How much.
    pub tokens: u64,
    /// More about it; may be empty.
    pub detail: String,
}

/// The largest difference of two amounts that counts as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Of the larger one, 0 to 100.
    Percent(u64),
    /// So many.
    Tokens(u64),
}

/// What both sides have of a model of a project on a day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComparedUsage {
    /// FREE tokens of the ledger.
    pub ledger_free: u64,
    /// BILLED tokens of the ledger, wherever they ran.
    pub ledger_billed: u64,
    /// Tokens that were free by their service tier.
    pub provider_free: u64,
    /// The provider's other tokens.
    pub provider_billed: u64,
    /// The provider's names of the model.
    pub names: BTreeSet<String>,
    /// What differs.
    pub drift: CellDrift,
}

/// How much of each kind. Only of the kinds that are about a model of a project on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellDrift {
    /// Tokens by kind.
    pub tokens: EnumMap<DriftKind, u64>,
    /// The part of `External` that was free.
    pub(super) external_free: u64,
}

/// What is known of a model of a project on a day.
#[derive(Debug, Clone, Copy)]
pub(super) struct CellFacts {
    /// The provider may still add to the day.
    pub(super) is_open: bool,
    /// The project shares its data.
    pub(super) is_sharing: bool,
    /// A pool lists the model.
    pub(super) is_listed: bool,
    /// The report says what was free. If not, the ledger's verdicts are taken for right.
    pub(super) has_verdicts: bool,
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, is_percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let number = number.parse().ok().filter(|it| !is_percent || *it <= 100);
        let tolerance = number.map(if is_percent {
            Self::Percent
        } else {
            Self::Tokens
        });
        tolerance.ok_or_else(|| "must be tokens, as in 1000, or per cent, as in 5%".to_owned())
    }
}

impl Tolerance {
    /// Whether the difference counts as none.
    pub fn covers(self, a: u64, b: u64) -> bool {
        let (difference, larger) = (a.abs_diff(b), a.max(b));
        match self {
            Self::Tokens(most) => difference <= most,
            Self::Percent(most) => {
                u128::from(difference) * 100 <= u128::from(larger) * u128::from(most)
            }
        }
    }

    /// How much `a` is above `b`.
    fn above(self, a: u64, b: u64) -> u64 {
        if self.covers(a, b) {
            0
        } else {
            a.saturating_sub(b)
        }
    }
}

impl ComparedUsage {
    /// All tokens of the provider.
    pub fn provider_total(&self) -> u64 {
        self.provider_free + self.provider_billed
    }

    /// Leaves out what is too young to be compared. Each of the ledger's figures becomes the one nearest to the
    /// provider's, in the range from what it was `then` to what it is now. What the ledger has counted since may have
    /// the other verdict at the provider: up to that many tokens are left out there.
    pub(super) fn leave_out_young(&mut self, then: (u64, u64), has_verdicts: bool) {
        let range = |then: u64, now: u64| (then.min(now), then.max(now));
        let within = |tokens: u64, (least, most): (u64, u64)| tokens.clamp(least, most);
        let free = range(then.0, self.ledger_free);
        let billed = range(then.1, self.ledger_billed);
        if !has_verdicts {
            let total = self.provider_total();
            self.ledger_free = within(total, free);
            self.ledger_billed = within(total.saturating_sub(self.ledger_free), billed);
            return;
        }
        self.ledger_free = within(self.provider_free, free);
        self.ledger_billed = within(self.provider_billed, billed);
        let beyond =
            |provider: u64, ledger: u64, young: u64| provider.saturating_sub(ledger).min(young);
        let (young_free, young_billed) = (free.1 - self.ledger_free, billed.1 - self.ledger_billed);
        self.provider_free -= beyond(self.provider_free, self.ledger_free, young_billed);
        self.provider_billed -= beyond(self.provider_billed, self.ledger_billed, young_free);
    }

    /// Compares the two sides.
    pub(super) fn judge(&self, facts: CellFacts, tolerance: Tolerance) -> CellDrift {
        let (free, billed) = match facts.has_verdicts {
            true => (self.provider_free, self.provider_billed),
            false => {
                let free = self.ledger_free.min(self.provider_total());
                (free, self.provider_total() - free)
            }
        };
        let above = |a, b| tolerance.above(a, b);
        let mut tokens = EnumMap::default();
        let missing = above(self.ledger_free, free);
        let surplus = above(free, self.ledger_free);
        // The provider's billed tokens that may be FREE in the ledger. None, if they equal the ledger's BILLED ones;
        // otherwise all: the ledger's BILLED requests ran elsewhere. On an open day, only the excess over the ledger's
        // BILLED ones.
        let suspects = if tolerance.covers(billed, self.ledger_billed) {
            0
        } else if facts.is_open {
            billed.saturating_sub(self.ledger_billed)
        } else {
            billed
        };
        let false_free = missing.min(suspects);
        tokens[DriftKind::FalseFree] = false_free;
        let absent = match facts.is_open {
            true => DriftKind::Late,
            false => DriftKind::Lost,
        };
        tokens[absent] = missing - false_free;
        let missed = surplus.min(above(self.ledger_billed, billed));
        let external_free = surplus - missed;
        match facts.is_listed {
            true => tokens[DriftKind::MissedFree] = missed,
            false => tokens[DriftKind::UnlistedButFree] = surplus,
        }
        tokens[DriftKind::External] = external_free;
        if facts.is_sharing && facts.is_listed {
            let rest = billed - false_free;
            tokens[DriftKind::External] += above(rest, self.ledger_billed);
            if facts.has_verdicts {
                tokens[DriftKind::BilledInSharingProject] = rest.min(self.ledger_billed);
            }
        }
        CellDrift {
            tokens,
            external_free,
        }
    }
}
