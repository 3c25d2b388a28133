//! Carries out what becomes of a reservation.

use std::time::Duration;

use tokio::{runtime::Handle, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::outcome::ReservationEnd;
use crate::{
    domain::{BilledReason, OrgId, RequestId, Verdict},
    grpc::QuotaServiceConfig,
    ledger::{Ledger, LedgerError, Reserve, Settle},
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

/// Settles and releases reservations, also while the store is down for a moment: Envoy reports the end of a request
/// once. Cheap to clone.
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
        // A runtime that is ending drops calls too.
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

    /// Ends a reservation, and counts how. What attempts before the last one may have used is reserved first: were it
    /// settled with the last one, a sum that does not fit would give back all of it.
    pub(super) async fn end(
        &self,
        org: OrgId,
        id: RequestId,
        earlier: Option<Reserve>,
        end: ReservationEnd,
    ) {
        let outcome = end.label();
        if let ReservationEnd::Keep(_) = end {
            let outcome: &str = outcome.into();
            tracing::info!(%org, request_id = %id, outcome, "a reservation is kept: its request may have run");
        }
        let mut ended = Ok(());
        if let Some(request) = earlier {
            ended = self.reserve_earlier(&id, &request).await;
        }
        if ended.is_ok() {
            let end = || self.once(org.clone(), id.clone(), end);
            ended = self.retried(end).await;
        }
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

    /// Reserves what attempts before the last one may have used, and keeps it.
    async fn reserve_earlier(&self, id: &RequestId, request: &Reserve) -> Result<(), LedgerError> {
        let Reserve { org, fields, .. } = request;
        let tokens = fields.tokens.get();
        tracing::info!(%org, request_id = %id, tokens, "tokens are kept: attempts before the last one may have run");
        let reserve = || async {
            match self.ledger.reserve(request.clone()).await?.verdict {
                Verdict::Billed(BilledReason::StoreUnavailable) => Err(LedgerError::OutOfTime),
                _ => Ok(()),
            }
        };
        self.retried(reserve).await
    }

    /// Calls the store. Tries again while it fails; each call counts once.
    async fn retried<F>(&self, call: impl Fn() -> F) -> Result<(), LedgerError>
    where
        F: Future<Output = Result<(), LedgerError>>,
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
