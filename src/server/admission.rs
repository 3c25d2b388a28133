//! Who is let in, from the start on.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    callers::{Admission, Callers, InForce, Port},
    settings::Settings,
};

/// Reads the callers file, where there is one.
///
/// # Errors
///
/// It can't be read, or has faults.
pub(super) fn load(settings: &Settings) -> anyhow::Result<Option<Callers>> {
    let Some(path) = &settings.callers else {
        return Ok(None);
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the callers file {name} can't be read"))?;
    let callers = Callers::parse(&name, &text);
    let callers = callers.with_context(|| format!("the callers file {name} is refused"))?;
    Ok(Some(callers))
}

/// Lets these callers in, or everyone, which is said where others than this machine reach a port.
///
/// # Errors
///
/// The callers have tokens, which the gRPC port can't take.
pub(super) fn of(callers: Option<Callers>, grpc: Port, http: Port) -> anyhow::Result<Admission> {
    let Some(callers) = callers else {
        if !(grpc.loopback && http.loopback) {
            tracing::warn!(
                "there is no callers file, and a port is not on loopback: whoever reaches the gRPC port may \
                 reserve, settle and release for any organization, and whoever reaches the HTTP port may \
                 read quotas; name the callers with --callers FILE"
            );
        }
        return Ok(Admission::Everyone);
    };
    let count = callers.iter().len();
    let in_force = InForce::new(callers, grpc).context("the callers file is refused")?;
    tracing::info!(callers = count, "only known callers are answered");
    Ok(Admission::Callers(Arc::new(in_force)))
}
