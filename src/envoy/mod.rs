//! Envoy's front: a gateway that is an Envoy uses Tollgate by configuration (docs/CONTRACT.md, "Envoy").
//!
//! | service | does |
//! | --- | --- |
//! | `envoy.service.auth.v3.Authorization` | Check reserves what a request may use, before Envoy chooses its upstream |
//! | `envoy.service.accesslog.v3.AccessLogService` | settles, releases or keeps the reservation, once the request has ended |
//! | `envoy.service.ratelimit.v3.RateLimitService` | reserves, settles or releases what a descriptor says |
//!
//! Check gives the reservation to the access log in dynamic metadata ([`metadata`]). What becomes of it is a pure
//! function ([`outcome`]).

mod access_log;
mod attributes;
mod authorization;
mod front;
mod metadata;
mod outcome;
pub mod proto;
mod rate_limit;
mod response;
mod settings;
mod settlement;

use tonic::{codec::CompressionEncoding::Gzip, service::RoutesBuilder};

use self::{
    access_log::AccessLogHandler,
    authorization::CheckHandler,
    front::EnvoyFront,
    proto::envoy::service::{
        accesslog::v3::access_log_service_server::AccessLogServiceServer,
        auth::v3::authorization_server::AuthorizationServer,
        ratelimit::v3::rate_limit_service_server::RateLimitServiceServer,
    },
    rate_limit::RateLimitHandler,
};
pub use self::{
    metadata::UsageSource,
    settings::{EnvoyService, EnvoySettings, OnBilled},
};
use crate::{auth::Role, grpc::QuotaServiceConfig};

/// The most bytes of a Check besides the body: headers and metadata.
const ENVELOPE_BYTES: usize = 128 * 1024;

/// Adds the services that the settings name.
pub fn add_services(
    routes: &mut RoutesBuilder,
    service: &QuotaServiceConfig,
    settings: &EnvoySettings,
) {
    let front = EnvoyFront::new(service, settings);
    let layer = service.layer_for(Role::Reserve);
    for name in &settings.services {
        let front = front.clone();
        match name {
            EnvoyService::Authorization => {
                let check = AuthorizationServer::new(CheckHandler(front))
                    .max_decoding_message_size(settings.authorization_bytes + ENVELOPE_BYTES)
                    .accept_compressed(Gzip);
                routes.add_service(layer.clone().layer(check));
            }
            EnvoyService::AccessLog => {
                // Envoy sends what it has buffered as one message, without a bound of its own.
                let access_log = AccessLogServiceServer::new(AccessLogHandler(front))
                    .max_decoding_message_size(access_log::MESSAGE_BYTES)
                    .accept_compressed(Gzip);
                routes.add_service(layer.clone().layer(access_log));
            }
            EnvoyService::RateLimit => {
                let rate_limit = RateLimitServiceServer::new(RateLimitHandler(front))
                    .max_decoding_message_size(service.message_bytes)
                    .accept_compressed(Gzip);
                routes.add_service(layer.clone().layer(rate_limit));
            }
        }
    }
}
