//! What becomes of a reservation when its request has ended (docs/CONTRACT.md, "Envoy").

use crate::{domain::Tokens, telemetry::metrics::EnvoyOutcome};

/// What the access log says of a request that Tollgate reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndedRequest {
    /// The verdict of its reservation.
    pub(super) is_free: bool,
    /// The reserved tokens.
    pub(super) reserved: Tokens,
    /// How often Envoy sent it to an upstream.
    pub(super) attempts: u32,
    /// Whether its cluster belongs to the programme.
    pub(super) in_program: bool,
    /// The status of the response.
    pub(super) status: u32,
    /// Whether the upstream answered, and not Envoy.
    pub(super) from_upstream: bool,
    pub(super) usage: ReportedUsage,
    pub(super) end: StreamEnd,
}

/// The usage that the provider's response stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportedUsage {
    Missing,
    /// A part of the response was not read.
    Partial,
    /// All of it, in tokens.
    Complete(u64),
}

/// How the exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    Clean,
    /// No connection to the upstream came about: nothing was sent.
    NotConnected,
    ClientLeft,
    /// The upstream's connection broke, or it took too long.
    UpstreamFailed,
}

/// What to do with the reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReservationEnd {
    Settle {
        tokens: Tokens,
        outside_program: bool,
    },
    Release,
    /// It may have run, and nobody knows with how many tokens: it stays counted as reserved until midnight.
    Keep(KeepReason),
}

/// Why a reservation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeepReason {
    ClientLeft,
    UpstreamFailed,
    PartialUsage,
    NoUsage,
    /// What its earlier attempts may have used does not fit.
    EarlierAttempts,
}

impl ReservationEnd {
    /// Its label.
    pub(super) fn label(self) -> EnvoyOutcome {
        match self {
            Self::Settle {
                outside_program, ..
            } if outside_program => EnvoyOutcome::SettledOutsideProgram,
            Self::Settle { .. } => EnvoyOutcome::Settled,
            Self::Release => EnvoyOutcome::Released,
            Self::Keep(KeepReason::ClientLeft) => EnvoyOutcome::KeptClientLeft,
            Self::Keep(KeepReason::UpstreamFailed) => EnvoyOutcome::KeptUpstreamFailed,
            Self::Keep(KeepReason::PartialUsage) => EnvoyOutcome::KeptPartialUsage,
            Self::Keep(KeepReason::NoUsage) => EnvoyOutcome::KeptNoUsage,
            Self::Keep(KeepReason::EarlierAttempts) => EnvoyOutcome::KeptEarlierAttempts,
        }
    }
}

/// The statuses by which a provider refuses a request that then did not run.
const REFUSALS: [u32; 7] = [400, 401, 403, 404, 413, 422, 429];

impl EndedRequest {
    /// What to do with its reservation. That of a FREE request covers the last attempt only.
    pub(super) fn outcome(self) -> ReservationEnd {
        let never_sent =
            self.attempts == 0 || self.end == StreamEnd::NotConnected && !self.from_upstream;
        let is_success = (200..300).contains(&self.status);
        match self.usage {
            _ if never_sent => ReservationEnd::Release,
            ReportedUsage::Complete(used) if is_success => {
                let earlier = match self.is_free {
                    true => 0,
                    false => self.used_by_earlier_attempts(),
                };
                let used = used.saturating_add(earlier);
                ReservationEnd::Settle {
                    tokens: Tokens::of_settle(used).unwrap_or(Tokens::MAX_PER_REQUEST),
                    outside_program: !self.in_program,
                }
            }
            _ if !self.in_program => ReservationEnd::Release,
            _ if self.from_upstream && REFUSALS.contains(&self.status) => ReservationEnd::Release,
            usage => ReservationEnd::Keep(self.keep_reason(usage)),
        }
    }

    /// What to reserve for the attempts of a FREE request before the last one.
    pub(super) fn earlier_reservation(self) -> Option<Tokens> {
        let most = self.used_by_earlier_attempts();
        let tokens = Tokens::of_reserve(most).unwrap_or(Tokens::MAX_PER_REQUEST);
        (self.is_free && most > 0).then_some(tokens)
    }

    /// The most that the attempts before the last one may have used within the programme.
    fn used_by_earlier_attempts(self) -> u64 {
        match self.in_program {
            true => u64::from(self.attempts.saturating_sub(1)).saturating_mul(self.reserved.get()),
            false => 0,
        }
    }

    fn keep_reason(self, usage: ReportedUsage) -> KeepReason {
        match (self.end, usage) {
            (StreamEnd::ClientLeft, _) => KeepReason::ClientLeft,
            (StreamEnd::UpstreamFailed | StreamEnd::NotConnected, _) => KeepReason::UpstreamFailed,
            (StreamEnd::Clean, _) if self.status >= 500 => KeepReason::UpstreamFailed,
            (StreamEnd::Clean, ReportedUsage::Partial) => KeepReason::PartialUsage,
            (StreamEnd::Clean, _) => KeepReason::NoUsage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(amount: u64) -> Tokens {
        Tokens::new(amount).expect("an amount")
    }

    /// A request of 100 tokens that ran well.
    fn ended() -> EndedRequest {
        EndedRequest {
            is_free: true,
            reserved: tokens(100),
            attempts: 1,
            in_program: true,
            status: 200,
            from_upstream: true,
            usage: ReportedUsage::Complete(60),
            end: StreamEnd::Clean,
        }
    }

    fn settled(amount: u64, outside_program: bool) -> ReservationEnd {
        ReservationEnd::Settle {
            tokens: tokens(amount),
            outside_program,
        }
    }

    #[test]
    fn each_end_of_a_request_has_its_outcome() {
        use KeepReason::{ClientLeft, NoUsage, PartialUsage, UpstreamFailed};
        use ReservationEnd::{Keep, Release};
        let ran = ended();
        let without_usage = EndedRequest {
            usage: ReportedUsage::Missing,
            ..ran
        };
        let answered = |status| EndedRequest {
            status,
            ..without_usage
        };
        let by_envoy = |status| EndedRequest {
            from_upstream: false,
            ..answered(status)
        };
        let ended_by = |end| EndedRequest {
            end,
            ..without_usage
        };
        let retried = |it| EndedRequest { attempts: 2, ..it };
        let elsewhere = |it| EndedRequest {
            in_program: false,
            ..it
        };
        let never_sent = |it| EndedRequest { attempts: 0, ..it };
        for (request, expected) in [
            (ran, settled(60, false)),
            (retried(ran), settled(60, false)),
            (elsewhere(ran), settled(60, true)),
            (elsewhere(without_usage), Release),
            (elsewhere(ended_by(StreamEnd::ClientLeft)), Release),
            (never_sent(by_envoy(403)), Release),
            (never_sent(by_envoy(503)), Release),
            (never_sent(ended_by(StreamEnd::ClientLeft)), Release),
            (by_envoy(503).with_end(StreamEnd::NotConnected), Release),
            (
                retried(by_envoy(503).with_end(StreamEnd::NotConnected)),
                Release,
            ),
            (answered(400), Release),
            (answered(401), Release),
            (answered(403), Release),
            (answered(404), Release),
            (answered(413), Release),
            (answered(422), Release),
            (answered(429), Release),
            (retried(answered(429)), Release),
            (by_envoy(429), Keep(NoUsage)),
            (answered(402), Keep(NoUsage)),
            (answered(408), Keep(NoUsage)),
            (answered(409), Keep(NoUsage)),
            (answered(500), Keep(UpstreamFailed)),
            (by_envoy(504), Keep(UpstreamFailed)),
            (without_usage, Keep(NoUsage)),
            (
                EndedRequest {
                    usage: ReportedUsage::Partial,
                    ..ran
                },
                Keep(PartialUsage),
            ),
            (ended_by(StreamEnd::ClientLeft), Keep(ClientLeft)),
            (ended_by(StreamEnd::UpstreamFailed), Keep(UpstreamFailed)),
            (retried(without_usage), Keep(NoUsage)),
        ] {
            assert_eq!(request.outcome(), expected, "{request:?}");
        }
    }

    #[test]
    fn a_billed_request_is_settled_with_what_all_of_its_attempts_may_have_used() {
        for (attempts, in_program, expected) in [
            (1, true, settled(60, false)),
            (3, true, settled(260, false)),
            (3, false, settled(60, true)),
        ] {
            let request = EndedRequest {
                is_free: false,
                attempts,
                in_program,
                ..ended()
            };
            assert_eq!(request.outcome(), expected);
        }
    }

    #[test]
    fn each_attempt_before_the_last_may_have_used_what_was_reserved() {
        let most = Tokens::MAX_PER_REQUEST;
        for (attempts, reserved, expected) in [
            (0, tokens(100), None),
            (1, tokens(100), None),
            (2, tokens(100), Some(tokens(100))),
            (3, tokens(100), Some(tokens(200))),
            (u32::MAX, most, Some(most)),
        ] {
            let request = EndedRequest {
                reserved,
                attempts,
                ..ended()
            };
            assert_eq!(request.earlier_reservation(), expected);
            let elsewhere = EndedRequest {
                in_program: false,
                ..request
            };
            assert_eq!(elsewhere.earlier_reservation(), None);
            let billed = EndedRequest {
                is_free: false,
                ..request
            };
            assert_eq!(billed.earlier_reservation(), None);
        }
    }

    #[test]
    fn usage_is_settled_with_at_most_the_largest_amount() {
        let request = EndedRequest {
            usage: ReportedUsage::Complete(u64::MAX),
            ..ended()
        };
        let most = Tokens::MAX_PER_REQUEST.get();
        assert_eq!(request.outcome(), settled(most, false));
    }

    impl EndedRequest {
        fn with_end(self, end: StreamEnd) -> Self {
            Self { end, ..self }
        }
    }
}
