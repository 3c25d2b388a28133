//! `tollgate health`: a readiness probe for containers without a shell.

use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::client::{connection::ConnectionArgs, failure::rpc_error, output::print};

/// Arguments of `tollgate health`.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthArgs {
    /// How long to wait for the answer
    #[arg(long, default_value = "3s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The health service that reports whether the store can decide.
const READINESS: &str = "readiness";

/// Prints the readiness. Fails if the service is not SERVING, or does not answer in time.
pub(crate) async fn check(health: &HealthArgs) -> anyhow::Result<()> {
    let connection = &health.connection;
    let mut client = HealthClient::new(connection.open()?);
    let service = READINESS.to_owned();
    let call = client.check(HealthCheckRequest { service });
    let answer = tokio::time::timeout(health.timeout, call).await;
    let answer = answer.map_err(|_| {
        let timeout = humantime::format_duration(health.timeout);
        anyhow!("no answer from {} within {timeout}", connection.addr)
    })?;
    let answer = answer.map_err(|status| rpc_error(connection, &status))?;
    let status = answer.get_ref().status();
    let name = status.as_str_name();
    print(&match connection.json {
        true => serde_json::to_string_pretty(&json!({ "status": name }))?,
        false => name.to_owned(),
    })?;
    if status != ServingStatus::Serving {
        bail!("the service is not ready: its /readyz says why");
    }
    Ok(())
}
