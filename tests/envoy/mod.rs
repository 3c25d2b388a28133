//! A real Envoy asks Tollgate, with the configuration of examples/envoy, before a stand-in for the provider.

mod faults;
mod gateway;
mod load;
mod outcomes;
mod page;
mod provider;
mod rate_limit;
mod wire;

use serde_json::Value;
use tollgate::grpc::proto::PoolQuota;

use self::{
    gateway::{Gateway, GatewayClient, example},
    provider::Provider,
};
use crate::{
    metrics::wait_for,
    support::{
        calls::{TextFile, large_of},
        tollgate::Tollgate,
        world::small_policy,
    },
};

/// The settings of examples/envoy, for the organization of the tests' policy.
const SETTINGS: &str = "
[envoy]
services = [\"authorization\", \"access_log\"]
organization = \"acme\"
project = \"p\"
program_clusters = [\"openai_shared\"]
";

const PATH: &str = "/v1/chat/completions";

/// Envoy, Tollgate over memory, and the provider.
struct Setup {
    provider: Provider,
    tollgate: Tollgate,
    gateway: Gateway,
    _files: [TextFile; 2],
}

impl Setup {
    /// With this allowance of the pool `large`, and these settings after those of the example.
    async fn start(allowance: u64, more_settings: &str) -> Self {
        Self::start_with(example(), allowance, more_settings).await
    }

    /// The same with another configuration of Envoy.
    async fn start_with(config: Value, allowance: u64, more_settings: &str) -> Self {
        let settings = format!("{SETTINGS}{more_settings}");
        Self::start_with_settings(config, allowance, &settings).await
    }

    async fn start_with_settings(config: Value, allowance: u64, settings: &str) -> Self {
        let policy = small_policy("keep_open");
        let policy = policy.replace("large = 1_000", &format!("large = {allowance}"));
        let files = [TextFile::new(&policy), TextFile::new(settings)];
        let [policy, settings] = files.each_ref().map(TextFile::path);
        let args = [
            "--store", "memory:", "--policy", policy, "--config", settings,
        ];
        let tollgate = Tollgate::start(&args);
        let provider = Provider::start().await;
        let gateway = Gateway::start_with(config, &[&tollgate.addr], &provider.addr);
        Self {
            provider,
            tollgate,
            gateway,
            _files: files,
        }
    }

    async fn client(&self) -> GatewayClient {
        self.gateway.client().await
    }

    /// Waits until so many reservations have ended like this.
    async fn wait_for_outcome(&self, outcome: &str, count: u32) {
        let label = format!("outcome=\"{outcome}\"");
        let name = "tollgate_envoy_outcomes_total";
        wait_for(&self.tollgate, name, &[&label], f64::from(count)).await;
    }

    async fn large(&self) -> PoolQuota {
        large_of(&self.tollgate.client(), "acme").await
    }
}
