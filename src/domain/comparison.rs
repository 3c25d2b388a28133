//! What a comparison with the provider found on a day, and what the provider counted (docs/CONTRACT.md, "Reconcile" and
//! "Background reconcile").

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use enum_map::Enum;

use super::tokens::Tokens;

/// How the ledger and the provider's report differ, the most harmful first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Enum,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
pub enum DriftKind {
    /// Tollgate said FREE, and the provider billed it.
    FalseFree,
    /// It shares by the policy, but nothing of it was free, though it would have fit.
    NotEnrolled,
    /// A pool lists the model, and nothing of it was free, though it would have fit.
    ListedNeverFree,
    /// The provider counts the model in another pool than the policy.
    PoolDiffers,
    /// More was free than the allowance.
    OverAllowance,
    /// BILLED requests that ran in a project that shares.
    BilledInSharingProject,
    /// The provider counted what the ledger does not have.
    External,
    /// Tollgate said BILLED, and it was free.
    MissedFree,
    /// No pool lists the model, and it was free.
    UnlistedButFree,
    /// The ledger counted FREE tokens that the provider does not have.
    Lost,
    /// The provider does not have it yet, or counted it on the next day. No drift.
    Late,
}

impl DriftKind {
    /// The name in outputs.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether the two sides disagree.
    pub fn is_drift(self) -> bool {
        self != Self::Late
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::FalseFree => {
                "the promise did not hold: see which of its six conditions is broken"
            }
            Self::NotEnrolled => "compare with the provider's data controls: who shares?",
            Self::ListedNeverFree => "compare with the provider's list of models",
            Self::PoolDiffers => "compare with the provider's list of models: which pool has it?",
            Self::OverAllowance => "compare with the organization's usage tier at the provider",
            Self::BilledInSharingProject => {
                "send BILLED requests where nothing is shared, and settle them with outside_program"
            }
            Self::External => "let all traffic of projects that share pass Tollgate",
            Self::MissedFree => {
                "free tokens were left unused, or a BILLED request ran in a project that shares"
            }
            Self::UnlistedButFree => "compare with the provider's list of models",
            Self::Lost => "settle what ended, release what never ran",
            Self::Late => "compare again when the day is closed",
        }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ComparisonResult {
    /// Both sides agree.
    Agrees,
    /// There is drift.
    Drifts,
    /// The day could not be compared, or not completely.
    Unknown,
}

/// How a day was compared last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayComparison {
    /// When, in whole seconds, by the store's clock.
    pub compared_at: DateTime<Utc>,
    /// What was found.
    pub result: ComparisonResult,
    /// Tokens by kind, the most harmful kind first; of the kinds that were found.
    pub drift: BTreeMap<DriftKind, Tokens>,
}

/// What differs over several days, by kind.
pub fn total_drift<'c>(
    days: impl IntoIterator<Item = &'c DayComparison>,
) -> BTreeMap<DriftKind, Tokens> {
    let mut total: BTreeMap<DriftKind, Tokens> = BTreeMap::new();
    for (kind, tokens) in days.into_iter().flat_map(|day| &day.drift) {
        let sum = total.entry(*kind).or_default();
        *sum = sum.plus(*tokens).unwrap_or(Tokens::MAX);
    }
    total
}

/// What the provider counted of a project and a model on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProviderUsage {
    /// Tokens that were free by their service tier.
    pub free_tokens: Tokens,
    /// All other tokens.
    pub billed_tokens: Tokens,
}
