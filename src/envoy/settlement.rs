//! Carries out what becomes of a reservation.

use std::time::Duration;

use tokio::{runtime::Handle, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::outcome::ReservationEnd;
use crate::{
    domain::{OrgId, RequestId},
    grpc::QuotaServiceConfig,
    ledger::{Ledger, LedgerError, Settle},
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
            let released = settlement.retried(&org, &id, ReservationEnd::Release).await;
            if let Err(error) = released {
                tracing::debug!(%org, request_id = %id, %error, "nothing is released");
            }
        };
        self.tasks.spawn_on(release, &runtime);
    }

    /// Ends a reservation, and counts how.
    pub(super) async fn end(&self, org: OrgId, id: RequestId, end: ReservationEnd) {
        let outcome = end.label();
        if let ReservationEnd::Keep(_) = end {
            let outcome: &str = outcome.into();
            tracing::info!(%org, request_id = %id, outcome, "a reservation is kept: its request may have run");
        }
        match self.retried(&org, &id, end).await {
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

    /// Ends a reservation. Tries again while the store fails; settling and releasing twice counts once.
    async fn retried(
        &self,
        org: &OrgId,
        id: &RequestId,
        end: ReservationEnd,
    ) -> Result<(), LedgerError> {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let ended = self.once(org.clone(), id.clone(), end).await;
            let (Err(error), Some(pause)) = (&ended, pauses.next()) else {
                return ended;
            };
            if !error.is_temporary() {
                return ended;
            }
            tokio::select! {
                () = sleep(*pause) => {}
                () = self.stopping.cancelled() => return ended,
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
