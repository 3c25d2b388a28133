//! The values of labels. All but the pools' names are known at compile time; none comes from a caller.

use crate::domain::{BilledReason, Verdict};

/// Defines an enum whose variants are a label's values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* #[doc = concat!("`", $text, "`")] $value,)+
        }

        impl $name {
            /// All values, in the order of their indexes.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The label's value.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }

            pub(super) const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// An RPC.
    Rpc {
        Reserve = "Reserve",
        ReserveStream = "ReserveStream",
        Settle = "Settle",
        Release = "Release",
        GetQuota = "GetQuota",
        ListUsage = "ListUsage",
    }
}

label! {
    /// The gRPC status codes, in the order of their numbers.
    Code {
        Ok = "OK",
        Cancelled = "CANCELLED",
        Unknown = "UNKNOWN",
        InvalidArgument = "INVALID_ARGUMENT",
        DeadlineExceeded = "DEADLINE_EXCEEDED",
        NotFound = "NOT_FOUND",
        AlreadyExists = "ALREADY_EXISTS",
        PermissionDenied = "PERMISSION_DENIED",
        ResourceExhausted = "RESOURCE_EXHAUSTED",
        FailedPrecondition = "FAILED_PRECONDITION",
        Aborted = "ABORTED",
        OutOfRange = "OUT_OF_RANGE",
        Unimplemented = "UNIMPLEMENTED",
        Internal = "INTERNAL",
        Unavailable = "UNAVAILABLE",
        DataLoss = "DATA_LOSS",
        Unauthenticated = "UNAUTHENTICATED",
    }
}

label! {
    /// How tokens were counted.
    TokenUse {
        Free = "free",
        Billed = "billed",
        SettledFree = "settled_free",
        SettledBilled = "settled_billed",
        Released = "released",
    }
}

label! {
    /// A state change of a reservation.
    Transition {
        Held = "held",
        Settled = "settled",
        Released = "released",
    }
}

label! {
    /// How a call to the store ended.
    StoreCallResult {
        Decision = "decided",
        Failed = "failed",
    }
}

label! {
    /// Why a decision or a read-only query has failed.
    StoreFailure {
        Unreachable = "unreachable",
        OutcomeUnknown = "no_answer",
        RefusedFull = "refused_full",
        RefusedCannotSave = "refused_cannot_save",
        RefusedBusy = "refused_busy",
        RefusedLoading = "refused_loading",
        RefusedReadOnly = "refused_read_only",
        RefusedCutOff = "refused_cut_off",
        RefusedTooFewReplicas = "refused_too_few_replicas",
        RefusedIncomplete = "refused_incomplete",
        RefusedMoving = "refused_moving",
        RefusedNoRight = "refused_no_right",
        RefusedNotLoggedIn = "refused_not_logged_in",
        RefusedTooManyClients = "refused_too_many_clients",
        RefusedOther = "refused_other",
        Unsuitable = "unfit",
        Corrupt = "corrupt",
        /// The circuit breaker is open: no call was sent.
        Down = "down",
        /// A counter would pass 2^53 − 1.
        Full = "full",
        OutOfTime = "out_of_time",
        RestlessClock = "restless_clock",
        Overloaded = "overloaded",
        TaskDied = "task_died",
    }
}

label! {
    /// The result of a policy reload.
    ReloadResult {
        Applied = "applied",
        Refused = "refused",
    }
}

label! {
    /// A file that is watched while the service runs.
    WatchedFile {
        Policy = "policy",
        Callers = "callers",
        /// The certificate of the gRPC port, its key, and the authorities of clients.
        Tls = "tls",
        /// The same of the HTTP port.
        HttpTls = "http_tls",
    }
}

label! {
    /// Why a call is denied.
    DenialReason {
        Unauthenticated = "unauthenticated",
        PermissionDenied = "permission_denied",
    }
}

label! {
    /// One of the two ports.
    PortName {
        Grpc = "grpc",
        Http = "http",
    }
}

label! {
    /// Why a connection was refused.
    ConnectionRefusal {
        /// The limit is reached, and no connection is idle.
        TooMany = "too_many",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// The handshake timed out.
        HandshakeTimeout = "handshake_timeout",
    }
}

label! {
    /// Why a connection ended.
    CloseReason {
        /// The caller closed it.
        ByCaller = "by_caller",
        /// The connection was reset, its bytes are not HTTP, or its caller cancelled too many calls at once.
        Error = "error",
        /// It had no call for `idle_time`.
        Idle = "idle",
        /// It reached its maximum age.
        Age = "age",
        /// It was idle, and a new connection needed its place.
        MadeRoom = "made_room",
        /// The service stops.
        Stopping = "stopping",
    }
}

impl Rpc {
    /// The RPC of this name in the proto.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rpc| rpc.name() == name)
    }

    /// Whether a successful response has a verdict.
    pub(super) const fn has_verdict(self) -> bool {
        matches!(self, Self::Reserve | Self::ReserveStream | Self::Settle)
    }
}

impl Code {
    /// The code of this number. An invalid number is UNKNOWN, as gRPC specifies.
    #[must_use]
    pub fn by_number(number: i32) -> Self {
        let index = usize::try_from(number).ok();
        let code = index.and_then(|index| Self::ALL.get(index));
        code.copied().unwrap_or(Self::Unknown)
    }

    /// Whether docs/CONTRACT.md, "Errors", lists it. If so, its series exists from the start.
    pub(super) const fn is_documented(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Aborted | Self::Unimplemented | Self::DataLoss
        )
    }
}

/// All verdicts, in the order of their [`verdict_index`].
pub(super) const VERDICTS: [Verdict; 13] = [
    Verdict::Free,
    Verdict::Billed(BilledReason::OrganizationNotEnrolled),
    Verdict::Billed(BilledReason::ZeroDataRetention),
    Verdict::Billed(BilledReason::EnterprisePlan),
    Verdict::Billed(BilledReason::ProgramEnded),
    Verdict::Billed(BilledReason::ProjectNotSharing),
    Verdict::Billed(BilledReason::WorkloadNotCovered),
    Verdict::Billed(BilledReason::FineTunedModel),
    Verdict::Billed(BilledReason::ModelNotCovered),
    Verdict::Billed(BilledReason::PoolClosed),
    Verdict::Billed(BilledReason::AllowanceExceeded),
    Verdict::Billed(BilledReason::DayClosed),
    Verdict::Billed(BilledReason::StoreUnavailable),
];

pub(super) const fn verdict_index(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Free => 0,
        Verdict::Billed(reason) => 1 + reason as usize,
    }
}

/// A verdict's two labels: `FREE` or `BILLED`, and the proto's name of the reason, or an empty string.
#[must_use]
pub const fn verdict_names(verdict: Verdict) -> (&'static str, &'static str) {
    let Verdict::Billed(reason) = verdict else {
        return ("FREE", "");
    };
    let reason = match reason {
        BilledReason::OrganizationNotEnrolled => "ORGANIZATION_NOT_ENROLLED",
        BilledReason::ZeroDataRetention => "ZERO_DATA_RETENTION",
        BilledReason::EnterprisePlan => "ENTERPRISE_PLAN",
        BilledReason::ProgramEnded => "PROGRAM_ENDED",
        BilledReason::ProjectNotSharing => "PROJECT_NOT_SHARING",
        BilledReason::WorkloadNotCovered => "WORKLOAD_NOT_COVERED",
        BilledReason::FineTunedModel => "FINE_TUNED_MODEL",
        BilledReason::ModelNotCovered => "MODEL_NOT_COVERED",
        BilledReason::PoolClosed => "POOL_CLOSED",
        BilledReason::AllowanceExceeded => "ALLOWANCE_EXCEEDED",
        BilledReason::DayClosed => "DAY_CLOSED",
        BilledReason::StoreUnavailable => "STORE_UNAVAILABLE",
    };
    ("BILLED", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_its_index() {
        for (index, verdict) in VERDICTS.into_iter().enumerate() {
            assert_eq!(verdict_index(verdict), index, "{verdict:?}");
        }
    }

    #[test]
    fn codes_have_their_grpc_numbers() {
        for (number, name) in [(0, "OK"), (1, "CANCELLED"), (8, "RESOURCE_EXHAUSTED")] {
            assert_eq!(Code::by_number(number).name(), name);
        }
        for (number, name) in [
            (14, "UNAVAILABLE"),
            (16, "UNAUTHENTICATED"),
            (17, "UNKNOWN"),
        ] {
            assert_eq!(Code::by_number(number).name(), name);
        }
        assert_eq!(Code::by_number(-1), Code::Unknown);
    }
}
