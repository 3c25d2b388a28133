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
            self.metrics().envoy_checked(EnvoyCheck::Denied);
            return Ok(response::refuse(refused.verdict));
        }
        let (org, fields) = (request.org.clone(), request.fields.clone());
        let reserved = self.reserve(&ledger, &id, request).await?;
        let verdict = reserved.verdict;
        let must_refuse = self.0.must_refuse(&reserved);
        let is_known = ledger.policy().orgs.contains_key(&org);
        let counted = match verdict {
            // `UnansweredCheck` has counted it, and releases what was reserved, if anything was.
            Verdict::Billed(BilledReason::StoreUnavailable) => None,
            Verdict::Billed(_) if must_refuse => {
                self.0.settlement.release(org.clone(), id.clone());
                Some(EnvoyCheck::Denied)
            }
            Verdict::Billed(_) => Some(EnvoyCheck::Billed),
            Verdict::Free => Some(EnvoyCheck::Free),
        };
        if let Some(answer) = counted {
            self.metrics().envoy_checked(answer);
        }
        if must_refuse {
            return Ok(response::refuse(verdict));
        }
        if !is_known {
            log_limited!(warn, %org, "requests of an organization that is not in the policy are billed, uncounted");
        }
        let is_reserved = is_known && counted.is_some();
        let metadata = is_reserved.then(|| metadata::of_check(&org, &id, &fields, verdict));
        let (verdict, reason) = response::names(verdict);
        Ok(response::pass(verdict, reason.as_deref(), metadata))
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
            // If Envoy gave up before this call was read, its reset is usually read meanwhile, which drops this future.
            yield_now().await;
            yield_now().await;
            unanswered.reservation = None;
        }
        reserved.map_err(status)
    }
}

/// A Check whose verdict Envoy does not have. If Envoy gives up, or the outcome is unknown, dropping it releases the
/// reservation: nothing else would end it. That holds for a replay too: it can't be recognized while its outcome is
/// unknown. Therefore only one filter may ask about a request (docs/ENVOY.md).
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
