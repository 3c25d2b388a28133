//! The section `[envoy]` of the settings, validated.

use super::metadata::UsageSource;

/// The section `[envoy]` of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoySettings {
    /// Which services are served.
    pub services: Vec<EnvoyService>,
    /// The organization, where neither the route nor a header names one.
    pub organization: Option<String>,
    /// The project, where neither the route nor a header names one.
    pub project: Option<String>,
    /// The request header that names the organization, if there is one. Clients must not be able to set it.
    pub organization_header: Option<String>,
    /// The request header that names the project, if there is one. Clients must not be able to set it.
    pub project_header: Option<String>,
    /// What becomes of a BILLED request.
    pub on_billed: OnBilled,
    /// The clusters whose requests run within the programme. Empty: all.
    pub program_clusters: Vec<String>,
    /// How much of a body Envoy may send, in bytes.
    pub authorization_bytes: usize,
    /// Where Envoy publishes a response's usage.
    pub usage: Vec<UsageSource>,
}

/// One of Envoy's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum EnvoyService {
    Authorization,
    AccessLog,
    RateLimit,
}

/// What becomes of a BILLED request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBilled {
    /// It passes, and Envoy routes it by its verdict.
    Route,
    /// It is refused with 429, and counts nothing.
    Deny,
}

impl EnvoySettings {
    /// What is legal, and probably not meant.
    pub fn warnings(&self) -> impl Iterator<Item = &'static str> {
        let serves = |service| self.services.contains(&service);
        let ends = serves(EnvoyService::AccessLog) || serves(EnvoyService::RateLimit);
        let routes = serves(EnvoyService::AccessLog) && self.on_billed == OnBilled::Route;
        let never_ends = (serves(EnvoyService::Authorization) && !ends).then_some(
            "envoy.services has neither \"access_log\" nor \"rate_limit\": reservations are never settled, and stay \
             counted as reserved",
        );
        let every_cluster = (routes && self.program_clusters.is_empty()).then_some(
            "envoy.program_clusters is not set: what runs in any cluster is settled as run within the programme, also \
             BILLED requests that are routed elsewhere; name the clusters of the project that shares its data",
        );
        never_ends.into_iter().chain(every_cluster)
    }
}

impl Default for EnvoySettings {
    fn default() -> Self {
        let usage = [
            "envoy.ai.token_usage",
            "io.envoy.ai_gateway:llm_total_token",
        ];
        Self {
            services: Vec::new(),
            organization: None,
            project: None,
            organization_header: None,
            project_header: None,
            on_billed: OnBilled::Route,
            program_clusters: Vec::new(),
            authorization_bytes: 1024 * 1024,
            usage: usage.into_iter().filter_map(UsageSource::parse).collect(),
        }
    }
}
