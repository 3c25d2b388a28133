//! `tollgate health`: a readiness probe for containers without a shell.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tonic_health::pb::{
    FILE_DESCRIPTOR_SET, HealthCheckRequest, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::client::{
    connection::ConnectionArgs,
    failure::rpc_error,
    output::{json, print},
};

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

/// Prints the readiness.
///
/// # Errors
///
/// The service is not SERVING, or does not answer in time.
pub(crate) async fn check(health: &HealthArgs) -> anyhow::Result<()> {
    let HealthArgs {
        timeout,
        connection,
    } = health;
    let mut client = HealthClient::new(connection.open()?);
    let call = client.check(HealthCheckRequest {
        service: READINESS.to_owned(),
    });
    let answer = tokio::time::timeout(*timeout, call).await.map_err(|_| {
        let timeout = humantime::format_duration(*timeout);
        anyhow!("no answer from {} within {timeout}", connection.addr)
    })?;
    let answer = answer
        .map_err(|status| rpc_error(connection, &status))?
        .into_inner();
    let (status, name) = (answer.status(), answer.status().as_str_name());
    print(&match connection.json {
        true => json(
            FILE_DESCRIPTOR_SET,
            "grpc.health.v1.HealthCheckResponse",
            &answer,
        )?,
        false => name.to_owned(),
    })?;
    if status != ServingStatus::Serving {
        bail!("the service is not ready: its /readyz says why");
    }
    Ok(())
}
