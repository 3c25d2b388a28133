//! The values of labels. All are known at compile time except the names of pools; none comes from a caller.

use crate::domain::{BilledReason, Verdict};

/// An enum whose values are those of a label.
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
    /// Which RPC.
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
    /// A gRPC status code, in the order of their numbers.
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
    /// What became of tokens.
    TokenUse {
        Free = "free",
        Billed = "billed",
        SettledFree = "settled_free",
        SettledBilled = "settled_billed",
        Released = "released",
    }
}

label! {
    /// What happened to a reservation.
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
    /// Why a decision, or a reading, has no answer.
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
        /// The store is known to be down, and was not asked.
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
    /// What became of a policy that was read anew.
    ReloadResult {
        Applied = "applied",
        Refused = "refused",
    }
}

label! {
    /// Which of the files that are followed while the service runs.
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
    /// Why a call is not let in.
    DenialReason {
        Unauthenticated = "unauthenticated",
        PermissionDenied = "permission_denied",
    }
}

label! {
    /// Which of the two ports.
    PortName {
        Grpc = "grpc",
        Http = "http",
    }
}

label! {
    /// Why a connection was not let in.
    ConnectionRefusal {
        /// There are as many as may be.
        TooMany = "too_many",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// The handshake took too long.
        HandshakeTimeout = "handshake_timeout",
    }
}

label! {
    /// Why a connection ended.
    CloseReason {
        /// The caller closed it.
        ByCaller = "by_caller",
        /// It was broken, or spoke no HTTP.
        Error = "error",
        /// Nothing was asked over it for too long.
        Idle = "idle",
        /// It was as old as one may get.
        Age = "age",
        /// Another one needed its place, and it had no call open.
        MadeRoom = "made_room",
        /// Its caller cancelled more calls than it may.
        Cancelling = "cancelling",
        /// The service stops.
        Stopping = "stopping",
    }
}

impl Rpc {
    /// By its name in the proto; none where there is none such.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rpc| rpc.name() == name)
    }

    /// Whether a successful answer is a verdict.
    pub(super) const fn has_verdict(self) -> bool {
        matches!(self, Self::Reserve | Self::ReserveStream | Self::Settle)
    }
}

impl Code {
    /// By its number in gRPC; what is none is UNKNOWN, as gRPC has it.
    #[must_use]
    pub fn by_number(number: i32) -> Self {
        let index = usize::try_from(number).ok();
        let code = index.and_then(|index| Self::ALL.get(index));
        code.copied().unwrap_or(Self::Unknown)
    }

    /// Whether docs/CONTRACT.md, "Errors", lists it: its series exists from the start.
    pub(super) const fn is_foreseen(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Aborted | Self::Unimplemented | Self::DataLoss
        )
    }
}

/// Every verdict, by its [`verdict_index`].
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

/// A verdict's two labels: `FREE` or `BILLED`, and the reason as the proto has it, or nothing.
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
    fn codes_have_the_numbers_of_grpc() {
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
