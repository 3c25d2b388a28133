//! The values of labels: the variants' names in the case of `serialize_all`, or what `serialize` says. All but the
//! names of pools and organizations are known at compile time; none comes from a caller.

// Most variants say it all.
#![allow(missing_docs)]

use enum_map::Enum;
use strum::{Display, EnumString, FromRepr, IntoStaticStr};

use crate::domain::Verdict;

/// An RPC, by its name in the proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, EnumString, IntoStaticStr)]
pub enum Rpc {
    Reserve,
    ReserveStream,
    Settle,
    Release,
    GetQuota,
    ListUsage,
    Estimate,
    SetExternalUsage,
    ListOrganizations,
    ListExternalChanges,
    /// Envoy's.
    Check,
    /// Envoy's.
    ShouldRateLimit,
}

/// A gRPC status code, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, FromRepr, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[repr(i32)]
pub enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// How an organization's last comparison with the provider ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReconcileState {
    /// It was not compared yet.
    Waiting,
    Agrees,
    Drifts,
    /// It could not be compared completely.
    Unknown,
    /// The provider or the ledger did not answer.
    Failing,
    /// The provider refused the admin key: 401 or 403.
    KeyRefused,
    /// The file of the admin key can't be used.
    KeyUnreadable,
}

/// How tokens were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TokenUse {
    Free,
    Billed,
    SettledFree,
    SettledBilled,
    Released,
}

/// A state change of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Transition {
    Held,
    Settled,
    Released,
}

/// How a call to the store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StoreCallResult {
    Decided,
    Failed,
}

/// Why a decision or a read-only query has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StoreFailure {
    Unreachable,
    #[strum(serialize = "no_answer")]
    OutcomeUnknown,
    RefusedFull,
    RefusedCannotSave,
    RefusedBusy,
    RefusedLoading,
    RefusedReadOnly,
    RefusedCutOff,
    RefusedTooFewReplicas,
    RefusedIncomplete,
    RefusedMoving,
    RefusedNoRight,
    RefusedNotLoggedIn,
    RefusedTooManyClients,
    RefusedOther,
    #[strum(serialize = "unfit")]
    Unsuitable,
    Corrupt,
    /// The circuit breaker is open: no call was sent.
    Down,
    /// A counter would pass 2^53 − 1.
    Full,
    OutOfTime,
    #[strum(serialize = "restless_clock")]
    ClockUnstable,
    Overloaded,
    #[strum(serialize = "task_died")]
    TaskPanicked,
}

/// How a Check of Envoy was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum EnvoyCheck {
    Free,
    Billed,
    /// Refused, since it would be billed. Nothing is counted.
    Denied,
    /// The request can't be estimated. Nothing is counted.
    Unreadable,
    /// The Check is wrong: no organization, for example. Nothing is counted.
    Rejected,
    /// Envoy does not have the verdict: it gave up, or the store's outcome is unknown. The reservation is released.
    Unanswered,
}

/// What became of a reservation of Envoy's front. FREE and BILLED checks without one are leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum EnvoyOutcome {
    Settled,
    SettledOutsideProgram,
    Released,
    KeptClientLeft,
    KeptUpstreamFailed,
    KeptPartialUsage,
    KeptNoUsage,
    KeptEarlierAttempts,
    /// The store failed, or the reservation does not allow it.
    Failed,
}

/// The result of a policy reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReloadResult {
    Applied,
    Refused,
}

/// A file that is watched while the service runs. `tls` and `http_tls` are also the names of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum WatchedFile {
    Policy,
    Callers,
    /// The certificate of the gRPC port, its key, and the authorities of clients.
    Tls,
    /// The same of the HTTP port.
    HttpTls,
}

/// What became of an attempt to deliver a notification, or of a notification that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum NotificationResult {
    Delivered,
    /// The receiver failed, or the task panicked; it is repeated.
    Failed,
    /// Too many wait, or its day is over.
    LeftOut,
}

/// What tokens of an organization's pool are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum PoolTokenKind {
    Allowance,
    Used,
    Held,
    External,
    Billed,
}

/// Why a call is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DenialReason {
    Unauthenticated,
    PermissionDenied,
}

/// One of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum PortName {
    Grpc,
    Http,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ConnectionRefusal {
    /// The limit is reached, and no connection is idle.
    TooMany,
    /// The TLS handshake failed.
    Handshake,
    HandshakeTimeout,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CloseReason {
    ByCaller,
    /// The connection was reset, or its bytes are not HTTP.
    Error,
    /// It had no call for `idle_time`.
    Idle,
    /// It reached its maximum age.
    Age,
    /// It was idle, and a new connection needed its place.
    MadeRoom,
    /// Its caller cancelled too many calls.
    Cancelling,
    /// The service stops.
    Stopping,
}

impl Rpc {
    /// Whether it counts a request. If so, its retry needs the same request id.
    #[must_use]
    pub const fn counts(self) -> bool {
        !matches!(
            self,
            Self::GetQuota
                | Self::ListUsage
                | Self::Estimate
                | Self::SetExternalUsage
                | Self::ListOrganizations
                | Self::ListExternalChanges
        )
    }

    /// Whether it is served by default. If so, its series exist from the start.
    pub(super) const fn is_always_served(self) -> bool {
        !matches!(self, Self::Check | Self::ShouldRateLimit)
    }

    /// Whether a successful response has a verdict.
    pub(super) const fn has_verdict(self) -> bool {
        matches!(self, Self::Reserve | Self::ReserveStream | Self::Settle)
    }
}

impl Code {
    /// Whether docs/CONTRACT.md, "Errors", lists it. If so, its series exists from the start.
    pub(super) const fn is_documented(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Aborted | Self::Unimplemented | Self::DataLoss
        )
    }
}

/// A verdict's two labels: `FREE` or `BILLED`, and the proto's name of the reason, or an empty string.
#[must_use]
pub fn verdict_names(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Free => ("FREE", ""),
        Verdict::Billed(reason) => ("BILLED", reason.into()),
    }
}
