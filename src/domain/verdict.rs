//! The possible answers: a request is free as a whole, or billed as a whole for a reason.

use enum_map::Enum;
use strum::IntoStaticStr;

/// The answer to "is this request free?". A BILLED verdict is an answer, never an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Enum)]
#[must_use]
pub enum Verdict {
    /// The whole request fits in today's allowance.
    Free,
    /// The whole request is billed.
    Billed(BilledReason),
}

/// Why a request is billed. The policy decides the first eight, in this order, the store the next two, and `ShareExceeded`. As a text it is
/// the proto's name, without `BILLED_REASON_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Enum, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum BilledReason {
    /// The organization is unknown, or its data sharing is off.
    OrganizationNotEnrolled,
    /// The organization has Zero Data Retention.
    ZeroDataRetention,
    /// The organization is on an enterprise plan.
    EnterprisePlan,
    /// The programme's last day is over.
    ProgramEnded,
    /// The organization does not share this project.
    ProjectNotSharing,
    /// The programme doesn't cover this kind of workload.
    WorkloadNotCovered,
    /// The model is fine-tuned.
    FineTunedModel,
    /// No pool lists the model.
    ModelNotCovered,
    /// An earlier overflow closed the pool until midnight.
    PoolClosed,
    /// The request would exceed the allowance.
    AllowanceExceeded,
    /// At Settle only: the day of the reservation is over and the request used more than was reserved, so
    /// nothing proves that it was free.
    DayClosed,
    /// The store failed, and the operator chose degraded answers. Counts nothing.
    StoreUnavailable,
    /// At Settle only: the request ran where nothing is shared. Counts in its usage row, and in no pool.
    RanOutsideProgram,
    /// The request fits in the pool, and would exceed what its project may use of it.
    ShareExceeded,
}

impl BilledReason {
    /// Whether a pool counts the request: it was eligible, and ran within the programme (docs/CONTRACT.md, "What is
    /// counted where").
    pub const fn counts_in_pool(self) -> bool {
        match self {
            Self::PoolClosed | Self::AllowanceExceeded | Self::DayClosed | Self::ShareExceeded => {
                true
            }
            Self::OrganizationNotEnrolled
            | Self::ZeroDataRetention
            | Self::EnterprisePlan
            | Self::ProgramEnded
            | Self::ProjectNotSharing
            | Self::WorkloadNotCovered
            | Self::FineTunedModel
            | Self::ModelNotCovered
            | Self::StoreUnavailable
            | Self::RanOutsideProgram => false,
        }
    }
}

impl Verdict {
    /// The verdict of a Settle whose request ran outside the programme.
    pub const RAN_OUTSIDE_PROGRAM: Self = Self::Billed(BilledReason::RanOutsideProgram);

    /// Whether the whole request is free.
    pub const fn is_free(self) -> bool {
        matches!(self, Self::Free)
    }

    /// The reason, if it is billed.
    pub const fn billed_reason(self) -> Option<BilledReason> {
        match self {
            Self::Free => None,
            Self::Billed(reason) => Some(reason),
        }
    }
}
