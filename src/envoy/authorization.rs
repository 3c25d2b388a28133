//! `Check`: reserves what a request may use, before Envoy chooses its upstream.

use tokio::task::yield_now;
use tonic::{Request, Response, Status};

use super::{
    attributes::{CheckAttributes, Unreadable},
    front::EnvoyFront,
    metadata,
    proto::envoy::service::auth::v3::{
        CheckRequest, CheckResponse, authorization_server::Authorization,
    },
    response,
    settlement::Settlement,
};
use crate::{
    domain::{BilledReason, OrgId, RequestId, Verdict},
    grpc::{Permit, status},
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
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let (ledger, permit, message) = self.0.service.accept(request)?;
        let read = self.read(message, &ledger, &permit);
        let response = match read.inspect_err(|status| self.reject(status))? {
            Ok((id, request)) => self.answer(ledger, id, request).await?,
            Err(why) => self.unreadable(&why),
        };
        Ok(Response::new(response))
    }
}

impl CheckHandler {
    fn metrics(&self) -> &Metrics {
        &self.0.service.metrics
    }

    /// What to reserve; or why the request can't be estimated.
    fn read(
        &self,
        message: CheckRequest,
        ledger: &Ledger,
        permit: &Permit,
    ) -> Result<Result<(RequestId, Reserve), Unreadable>, Status> {
        let settings = &self.0.settings;
        let attributes = CheckAttributes::read(message)?;
        match attributes.estimate(settings, &ledger.policy()) {
            Ok(estimate) => attributes.reserve(estimate, settings, permit).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Envoy hides the error from its clients, and mostly lets their requests pass as billed.
    fn reject(&self, status: &Status) {
        self.metrics().envoy_checked(EnvoyCheck::Rejected);
        log_limited!(
            warn,
            why = status.message(),
            "Checks are rejected, and count nothing"
        );
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
        if let Some(refused) = self.0.refusal(&ledger, &request).await? {
            return Ok(self.deny(refused.verdict));
        }
        let (org, fields) = (request.org.clone(), request.fields.clone());
        let reserved = self.reserve(&ledger, &id, request).await?;
        let verdict = reserved.verdict;
        if self.0.must_refuse(&reserved) {
            self.0.settlement.release(org, id);
            return Ok(self.deny(verdict));
        }
        match verdict {
            Verdict::Billed(BilledReason::StoreUnavailable) => {
                // The guard of the reservation has counted it, and releases what was reserved, if anything was.
                let (verdict, reason) = response::names(verdict);
                return Ok(response::pass(verdict, reason.as_deref(), None));
            }
            Verdict::Billed(_) => {
                if !ledger.policy().orgs.contains_key(&org) {
                    log_limited!(warn, %org, "requests of an organization that is not in the policy are billed");
                }
                self.metrics().envoy_checked(EnvoyCheck::Billed);
            }
            Verdict::Free => self.metrics().envoy_checked(EnvoyCheck::Free),
        }
        let metadata = metadata::of_check(&org, &id, &fields, verdict);
        let (verdict, reason) = response::names(verdict);
        Ok(response::pass(verdict, reason.as_deref(), Some(metadata)))
    }

    fn deny(&self, verdict: Verdict) -> CheckResponse {
        self.metrics().envoy_checked(EnvoyCheck::Denied);
        let (_, reason) = response::names(verdict);
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
