//! Carries out what becomes of a reservation.

use std::time::Duration;

use tokio::{runtime::Handle, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::outcome::{KeepReason, ReservationEnd};
use crate::{
    domain::{BilledReason, InvalidField, OrgId, RequestFields, RequestId, Tokens, Verdict},
    grpc::QuotaServiceConfig,
    ledger::{Ledger, LedgerError, Reserve, Reserved, Settle},
    telemetry::{
        log_limited,
        metrics::{EnvoyOutcome, Metrics},
    },
};

/// The pauses between attempts while the store fails. After the last one the reservation stays as it is.
const RETRY_PAUSES: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];

/// What to reserve for the attempts of a request before the last one.
pub(super) struct EarlierAttempts {
    reserve: Reserve,
    /// The ids under which the rest of the allowance is reserved, if not all of it fits: the next one, if another request
    /// took a part of the rest meanwhile.
    rest_ids: [RequestId; 3],
}

impl EarlierAttempts {
    /// Those of the request with this reservation.
    ///
    /// # Errors
    ///
    /// The id is too long to be extended.
    pub(super) fn new(
        org: &OrgId,
        id: &RequestId,
        fields: &RequestFields,
        tokens: Tokens,
    ) -> Result<Self, InvalidField> {
        let id_of = |part: &str| RequestId::parse(format!("{id}:{part}"));
        Ok(Self {
            reserve: Reserve {
                org: org.clone(),
                fields: RequestFields {
                    tokens,
                    ..fields.clone()
                },
                request_id: Some(id_of("earlier")?),
                dry_run: false,
                has_run: true,
            },
            rest_ids: [id_of("rest")?, id_of("rest-2")?, id_of("rest-3")?],
        })
    }
}

/// Settles and releases reservations. Retries while the store is down, since Envoy reports the end of a request once.
/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Settlement {
    ledger: Ledger,
    metrics: Metrics,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Settlement {
    pub(super) fn new(service: &QuotaServiceConfig) -> Self {
        Self {
            ledger: service.ledger.clone(),
            metrics: service.metrics.clone(),
            tasks: service.open_calls.clone(),
            stopping: service.stopping.clone(),
        }
    }

    /// Releases a reservation that may not exist, in a task of its own.
    pub(super) fn release(&self, org: OrgId, id: RequestId) {
        // A runtime that shuts down drops calls too, and spawns nothing.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let settlement = self.clone();
        let release = async move {
            let release = || settlement.once(org.clone(), id.clone(), ReservationEnd::Release);
            let released = settlement.retried(release).await;
            if let Err(error) = released {
                tracing::debug!(%org, request_id = %id, %error, "nothing is released");
            }
        };
        self.tasks.spawn_on(release, &runtime);
    }

    /// Ends a reservation, and counts the outcome. What attempts before the last one may have used is reserved first.
    /// If it were settled together with the last one, a sum that does not fit would give all of it back. If the earlier
    /// attempts do not fit, the provider may have counted more than the allowance, so the reservation is kept, and
    /// nothing more is FREE.
    pub(super) async fn end(
        &self,
        org: OrgId,
        id: RequestId,
        earlier: Option<EarlierAttempts>,
        end: ReservationEnd,
    ) {
        let fits = match earlier {
            Some(earlier) => self.reserve_earlier(&id, earlier).await,
            None => Ok(true),
        };
        let end = match fits {
            Ok(true) | Err(_) => end,
            Ok(false) => ReservationEnd::Keep(KeepReason::EarlierAttempts),
        };
        let outcome = end.label();
        if let ReservationEnd::Keep(_) = end {
            let outcome: &str = outcome.into();
            tracing::info!(%org, request_id = %id, outcome, "a reservation is kept: its request may have run");
        }
        let ended = match fits {
            Ok(_) => {
                let end = || self.once(org.clone(), id.clone(), end);
                self.retried(end).await
            }
            // Nothing stands for the earlier attempts, so the last one is not settled: all that it holds stays counted.
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => self.metrics.envoy_ended(outcome),
            Err(error) => {
                self.metrics.envoy_ended(EnvoyOutcome::Failed);
                log_limited!(
                    warn,
                    %org,
                    request_id = %id,
                    %error,
                    "reservations can't be ended, and stay counted as reserved"
                );
            }
        }
    }

    /// Reserves what attempts before the last one may have used, or what remains of the allowance. Says whether all of
    /// it fits.
    async fn reserve_earlier(
        &self,
        id: &RequestId,
        earlier: EarlierAttempts,
    ) -> Result<bool, LedgerError> {
        let EarlierAttempts { reserve, rest_ids } = earlier;
        let (org, tokens) = (&reserve.org, reserve.fields.tokens.get());
        tracing::info!(%org, request_id = %id, tokens, "tokens are kept: attempts before the last one may have run");
        let reserved = self.reserve(&reserve).await?;
        let all_fits = reserved.verdict.is_free();
        let mut last = reserved;
        for rest_id in rest_ids {
            let rest = last.pool.map_or(Tokens::ZERO, |pool| pool.remaining());
            if last.verdict.is_free() || rest == Tokens::ZERO {
                break;
            }
            let mut reserve = Reserve {
                request_id: Some(rest_id),
                ..reserve.clone()
            };
            reserve.fields.tokens = rest;
            last = self.reserve(&reserve).await?;
        }
        Ok(all_fits)
    }

    async fn reserve(&self, request: &Reserve) -> Result<Reserved, LedgerError> {
        let reserve = || async {
            let reserved = self.ledger.reserve(request.clone()).await?;
            match reserved.verdict {
                Verdict::Billed(BilledReason::StoreUnavailable) => Err(LedgerError::OutOfTime),
                _ => Ok(reserved),
            }
        };
        self.retried(reserve).await
    }

    /// Calls the store. Tries again while it fails; each call counts once.
    async fn retried<T, F>(&self, call: impl Fn() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let result = call().await;
            let (Err(error), Some(pause)) = (&result, pauses.next()) else {
                return result;
            };
            if !error.is_temporary() {
                return result;
            }
            tokio::select! {
                () = sleep(*pause) => {}
                () = self.stopping.cancelled() => return result,
            }
        }
    }

    async fn once(
        &self,
        org: OrgId,
        request_id: RequestId,
        end: ReservationEnd,
    ) -> Result<(), LedgerError> {
        match end {
            ReservationEnd::Settle {
                tokens,
                outside_program,
            } => {
                let settle = Settle {
                    org,
                    request_id,
                    tokens,
                    outside_program,
                };
                self.ledger.settle(settle).await.map(drop)
            }
            ReservationEnd::Release => self.ledger.release(org, request_id).await.map(drop),
            ReservationEnd::Keep(_) => Ok(()),
        }
    }
}
