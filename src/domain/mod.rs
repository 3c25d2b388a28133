//! The programme's rules as plain values and functions: no I/O, no async, no clock of its own.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`verdict`] | the possible answers |
//! | [`pool`] | when a request is free, and what it counts |
//! | [`reservation`] | what a request id stands for, and what may happen to it |
//! | [`external_change`] | changes of external usage, for those who read them later |
//! | [`usage`] | the rows of the usage history |
//! | [`comparison`] | what a comparison with the provider found, and the kinds of drift |
//! | [`terms`] | what the policy grants at the moment of a decision |
//! | [`thresholds`] | the parts of an allowance at which a notice is due |
//! | [`capacity`] | how much a model takes and makes |
//! | [`day`] | the UTC day, at whose end the counters expire |
//! | [`ids`], [`tokens`] | names and amounts, which can't be out of bounds |

pub mod capacity;
pub mod comparison;
pub mod day;
pub mod external_change;
pub mod ids;
pub mod pool;
pub mod reservation;
pub mod terms;
pub mod thresholds;
pub mod tokens;
pub mod usage;
pub mod verdict;

pub use capacity::ModelCapacity;
pub use comparison::{ComparisonResult, DayComparison, DriftKind, ProviderUsage};
pub use day::UtcDay;
pub use external_change::{ExternalChange, ExternalChanges};
pub use ids::{InvalidField, ModelName, OrgId, PoolName, ProjectId, RequestId, is_fine_tuned};
pub use pool::{
    ExternalSource, ExternalUsage, Overflow, PoolCounters, PoolTerms, ShareBalance,
    judge_late_settle,
};
pub use reservation::{
    Progress, Refusal, RequestField, RequestFields, Reservation, ReservationState, Workload,
};
pub use terms::{Eligibility, Grant, Portion, ShareId, Terms};
pub use thresholds::{Threshold, Thresholds};
pub use tokens::{CounterOverflow, Tokens};
pub use usage::{RowChoice, RowCounts, UsageCounters, other_row};
pub use verdict::{BilledReason, Verdict};
