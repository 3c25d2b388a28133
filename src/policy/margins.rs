//! Margins: the parts of the allowances that no Reserve gets. The most specific one applies: the organization's, the
//! pool's, the programme's (docs/CONTRACT.md, "The margin").

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    domain::{Grant, PoolName, Portion, Terms, Thresholds, Tokens},
    files::toml::{Entry, Section},
};

/// The margins of the programme and of its pools.
#[derive(Debug, Default)]
pub(super) struct Margins {
    pub(super) program: Option<Portion>,
    pub(super) pools: BTreeMap<PoolName, Portion>,
}

/// What an organization may have of its own, in place of what its tier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Own {
    pub(super) margin: Option<Portion>,
    pub(super) thresholds: Option<Thresholds>,
}

/// The terms of organizations with margins or thresholds of their own, by tier.
pub(super) type OwnTerms = HashMap<(u8, Own), Arc<Terms>>;

impl Own {
    pub(super) const NOTHING: Self = Self {
        margin: None,
        thresholds: None,
    };
}

impl Margins {
    /// The terms of a tier with these margins, and with what an organization has of its own.
    fn apply(&self, terms: &Terms, own: Own) -> Arc<Terms> {
        let pools = terms.pools.iter().map(|(pool, Grant { allowance, .. })| {
            let margin = own.margin.or_else(|| self.pools.get(pool).copied());
            let margin = margin.or(self.program);
            let grant = Grant {
                allowance: *allowance,
                margin: margin.map_or(Tokens::ZERO, |margin| margin.rounded_up(*allowance)),
            };
            (pool.clone(), grant)
        });
        Arc::new(Terms {
            pools: pools.collect(),
            thresholds: own.thresholds.unwrap_or(terms.thresholds),
            ..terms.clone()
        })
    }

    /// Applies them to the terms of the tiers, and returns those of organizations with something of their own: `own` has
    /// the tier of each, and what it has.
    pub(super) fn apply_to(
        &self,
        tiers: &mut BTreeMap<u8, Arc<Terms>>,
        own: impl Iterator<Item = (u8, Own)>,
    ) -> OwnTerms {
        for terms in tiers.values_mut() {
            *terms = self.apply(terms, Own::NOTHING);
        }
        let mut own_terms = OwnTerms::new();
        for (tier, own) in own {
            let terms = own_terms.entry((tier, own));
            terms.or_insert_with(|| self.apply(&tiers[&tier], own));
        }
        own_terms
    }
}

/// Reads the key `margin` of a table.
pub(super) fn margin(section: &Section<'_>) -> Option<Portion> {
    section.get("margin", portion)
}

/// Reads a portion of an allowance: tokens, or a text with per cent.
pub(super) fn portion(entry: &Entry<'_>) -> Option<Portion> {
    if entry.is_text() {
        return entry.parse(per_cent);
    }
    let tokens = entry.number(0, Tokens::MAX.get()).and_then(Tokens::new);
    tokens.map(Portion::Tokens)
}

/// Parses "5%" or "2.5%".
fn per_cent(text: &str) -> Result<Portion, String> {
    let points = || {
        let number = text.strip_suffix('%')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str, max| {
            (1..=max).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit())
        };
        if !is_number(whole, 3) || !is_number(fraction, 2) {
            return None;
        }
        let points: u16 = format!("{whole}{fraction:0<2}").parse().ok()?;
        (points <= Portion::WHOLE).then_some(Portion::BasisPoints(points))
    };
    points().ok_or_else(|| {
        format!("{text:?} is neither tokens nor per cent such as \"5%\" or \"2.5%\", at most 100%")
    })
}
