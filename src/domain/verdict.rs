//! What can be answered: the whole request is free, or the whole request is billed, and why.

/// The answer to "is this request free?". A BILLED verdict is an answer, never an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The whole request fits in today's allowance.
    Free,
    /// The whole request is billed.
    Billed(BilledReason),
}

/// Why a request is billed. The first eight are judged from the policy, in this order, the next two
/// by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BilledReason {
    /// The organization is unknown, or its data sharing is off.
    OrganizationNotEnrolled,
    /// The organization has Zero Data Retention.
    ZeroDataRetention,
    /// The organization is on an enterprise plan.
    EnterprisePlan,
    /// The programme's last free day is over.
    ProgramEnded,
    /// The organization shares selected projects, and not this one.
    ProjectNotSharing,
    /// The programme doesn't cover this kind of workload.
    WorkloadNotCovered,
    /// The model is fine-tuned.
    FineTunedModel,
    /// No pool lists the model.
    ModelNotCovered,
    /// The pool was closed until midnight by an earlier overflow.
    PoolClosed,
    /// The request would take the day's free total past the allowance.
    AllowanceExceeded,
    /// At Settle only: the reservation's day is over and it used more than was reserved, so nothing
    /// can prove any more that it would have been free.
    DayClosed,
    /// The store could not be asked, and the operator chose degraded answers. Never counted.
    StoreUnavailable,
}

impl BilledReason {
    /// Whether the request was eligible, so that its pool counts it as billed (docs/CONTRACT.md,
    /// "What is counted where").
    #[must_use]
    pub const fn counts_in_pool(self) -> bool {
        match self {
            Self::PoolClosed | Self::AllowanceExceeded | Self::DayClosed => true,
            Self::OrganizationNotEnrolled
            | Self::ZeroDataRetention
            | Self::EnterprisePlan
            | Self::ProgramEnded
            | Self::ProjectNotSharing
            | Self::WorkloadNotCovered
            | Self::FineTunedModel
            | Self::ModelNotCovered
            | Self::StoreUnavailable => false,
        }
    }
}

impl Verdict {
    /// Whether the whole request is free.
    #[must_use]
    pub const fn is_free(self) -> bool {
        matches!(self, Self::Free)
    }

    /// Why it is billed, where it is.
    #[must_use]
    pub const fn billed_reason(self) -> Option<BilledReason> {
        match self {
            Self::Free => None,
            Self::Billed(reason) => Some(reason),
        }
    }
}
