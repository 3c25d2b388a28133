//! `Check`: reserves what a request may use, before Envoy chooses its upstream.

use tokio::{task::yield_now, time::Instant};
use tonic::{Request, Response, Status};

use super::{
    attributes::{CheckAttributes, Unreadable},
    front::EnvoyFront,
    metadata,
    proto::envoy::service::auth::v3::{
        CheckRequest, CheckResponse, authorization_server::Authorization,
    },
    response,
    settings::OnBilled,
    settlement::Settlement,
};
use crate::{
    domain::{BilledReason, OrgId, RequestId, Verdict},
    grpc::{CallContext, status},
    ledger::{Ledger, Reserve, Reserved},
    telemetry::{
        log_limited,
        metrics::{EnvoyCheck, Metrics},
    },
};

/// Handles `envoy.service.auth.v3.Authorization`.
pub(super) struct CheckHandler(pub(super) EnvoyFront);

#[tonic::async_trait]
impl Authorization for CheckHandler {
    async fn check(
        &self,
        mut request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let front = &self.0;
        let CallContext { answer_by, permit } = CallContext::take(request.extensions_mut())?;
        let answer_by = answer_by.unwrap_or_else(|| Instant::now() + front.service.call_timeout);
        let ledger = front.service.ledger.with_deadline(answer_by);
        let attributes = CheckAttributes::read(request.into_inner())?;
        let response = match attributes.estimate(&ledger.policy()) {
            Ok(estimate) => {
                let (id, request) = attributes.reserve(estimate, &front.settings, &permit)?;
                self.answer(ledger, id, request).await?
            }
            Err(why) => self.unreadable(&why),
        };
        Ok(Response::new(response))
    }
}

impl CheckHandler {
    fn metrics(&self) -> &Metrics {
        &self.0.service.metrics
    }

    /// The answer for a request that can't be estimated. It counts nothing.
    fn unreadable(&self, why: &Unreadable) -> CheckResponse {
        if !matches!(why, Unreadable::OtherCall) {
            log_limited!(warn, %why, "requests that can't be estimated pass as billed, uncounted");
        }
        self.metrics().envoy_checked(EnvoyCheck::Unreadable);
        response::pass("billed", Some(response::UNREADABLE), None)
    }

    async fn answer(
        &self,
        ledger: Ledger,
        id: RequestId,
        request: Reserve,
    ) -> Result<CheckResponse, Status> {
        let denies = self.0.settings.on_billed == OnBilled::Deny;
        let (org, fields) = (request.org.clone(), request.fields.clone());
        if denies {
            // A refused request counts nothing, and closes no pool. If Envoy asks twice, the id is known, and the first
            // verdict is the answer.
            let dry_run = Reserve {
                dry_run: true,
                ..request.clone()
            };
            let forecast = ledger.reserve(dry_run).await.map_err(status)?;
            if let Verdict::Billed(reason) = forecast.verdict {
                return Ok(self.deny(reason));
            }
        }
        let verdict = self.reserve(&ledger, &id, request).await?.verdict;
        match verdict {
            Verdict::Billed(reason) if denies => {
                // Another request was decided in between.
                self.0.settlement.release(org, id);
                return Ok(self.deny(reason));
            }
            Verdict::Billed(BilledReason::StoreUnavailable) => {
                // The guard of the reservation has counted it, and releases what was reserved, if anything was.
                let (verdict, reason) = response::names(verdict);
                return Ok(response::pass(verdict, reason.as_deref(), None));
            }
            Verdict::Billed(_) => self.metrics().envoy_checked(EnvoyCheck::Billed),
            Verdict::Free => self.metrics().envoy_checked(EnvoyCheck::Free),
        }
        let metadata = metadata::of_check(&org, &id, &fields, verdict);
        let (verdict, reason) = response::names(verdict);
        Ok(response::pass(verdict, reason.as_deref(), Some(metadata)))
    }

    fn deny(&self, reason: BilledReason) -> CheckResponse {
        self.metrics().envoy_checked(EnvoyCheck::Denied);
        let (_, reason) = response::names(Verdict::Billed(reason));
        response::refuse(&reason.unwrap_or_default())
    }

    async fn reserve(
        &self,
        ledger: &Ledger,
        id: &RequestId,
        request: Reserve,
    ) -> Result<Reserved, Status> {
        let mut unanswered = UnansweredCheck {
            settlement: &self.0.settlement,
            metrics: self.metrics(),
            reservation: Some((request.org.clone(), id.clone())),
        };
        let reserved = ledger.reserve(request).await;
        let is_unknown = match &reserved {
            Ok(reserved) => reserved.verdict == Verdict::Billed(BilledReason::StoreUnavailable),
            Err(error) => error.is_outcome_unknown(),
        };
        if !is_unknown {
            // If Envoy gave up before this call was read, its reset is mostly read by then, and this future is dropped.
            yield_now().await;
            yield_now().await;
            unanswered.reservation = None;
        }
        reserved.map_err(status)
    }
}

/// A Check whose verdict Envoy does not have. If Envoy gives up, or the outcome is unknown, the reservation is released:
/// nothing else would end it.
struct UnansweredCheck<'c> {
    settlement: &'c Settlement,
    metrics: &'c Metrics,
    reservation: Option<(OrgId, RequestId)>,
}

impl Drop for UnansweredCheck<'_> {
    fn drop(&mut self) {
        if let Some((org, id)) = self.reservation.take() {
            self.metrics.envoy_checked(EnvoyCheck::Unanswered);
            self.settlement.release(org, id);
        }
    }
}
