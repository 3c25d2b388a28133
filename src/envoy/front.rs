//! What the handlers share.

use std::sync::Arc;

use tonic::Status;

use super::{
    settings::{EnvoySettings, OnBilled},
    settlement::Settlement,
};
use crate::{
    grpc::{QuotaServiceConfig, status},
    ledger::{Ledger, Reserve, Reserved},
};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct EnvoyFront {
    pub(super) settings: Arc<EnvoySettings>,
    pub(super) service: QuotaServiceConfig,
    pub(super) settlement: Settlement,
}

impl EnvoyFront {
    pub(super) fn new(service: &QuotaServiceConfig, settings: &EnvoySettings) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            service: service.clone(),
            settlement: Settlement::new(service),
        }
    }

    /// The BILLED answer of a request that must be refused; none if it may be reserved. A dry run finds it, so that the
    /// request counts nothing and closes no pool. If its id is known, the answer is the first verdict.
    pub(super) async fn refusal(
        &self,
        ledger: &Ledger,
        request: &Reserve,
    ) -> Result<Option<Reserved>, Status> {
        if self.settings.on_billed == OnBilled::Route {
            return Ok(None);
        }
        let dry_run = Reserve {
            dry_run: true,
            ..request.clone()
        };
        let forecast = ledger.reserve(dry_run).await.map_err(status)?;
        Ok(Some(forecast).filter(|it| !it.verdict.is_free()))
    }

    /// Whether a reservation must be refused after all: another request was decided after the dry run.
    pub(super) fn must_refuse(&self, reserved: &Reserved) -> bool {
        self.settings.on_billed == OnBilled::Deny && !reserved.verdict.is_free()
    }
}
