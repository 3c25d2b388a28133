//! What the handlers share.

use std::sync::Arc;

use super::{settings::EnvoySettings, settlement::Settlement};
use crate::grpc::QuotaServiceConfig;

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
}
