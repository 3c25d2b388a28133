//! The latency of one organization's single caller, alone and under a hostile caller's flood (tests/support/floods.rs).

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{process::Command, time::sleep};

use super::{
    Scale,
    load::{self, Target},
    log_progress,
    processes::{PolicyFile, Service},
};

#[allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]
#[path = "../../tests/support/certificates.rs"]
pub(crate) mod certificates;
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]
#[path = "../../tests/support/floods.rs"]
mod kinds;

use self::certificates::Authority;

pub(crate) const NAME: &str = "floods";

/// The floods of a hostile caller.
pub(crate) const KINDS: [&str; 5] = [
    "calls that are reset at once",
    "headers without an end",
    "10,000 idle connections",
    "5,000 held streams",
    "10,000 handshakes of TLS that stand still",
];

/// The start of a TLS record, whose rest never comes.
const PARTIAL_HANDSHAKE: [u8; 6] = [0x16, 3, 1, 2, 0, 1];

const SINGLE_CALLER: &str = "--org quiet --callers 1 --connections 1";

/// How much earlier a flood starts, and how much later it ends.
const MARGIN: Duration = Duration::from_millis(500);

/// The single caller's latency in one round.
pub(crate) struct FloodLatency {
    pub(crate) kind: &'static str,
    /// p99, in microseconds.
    pub(crate) baseline: f64,
    pub(crate) flooded: f64,
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<Vec<FloodLatency>> {
    let mut measurements = Vec::new();
    if !scale.wants(NAME) {
        return Ok(measurements);
    }
    let policy = PolicyFile::of(["quiet".to_owned()])?;
    let authority = Authority::new();
    for number in 1..=scale.rounds {
        log_progress(&format!("round {number} of {}: {NAME}", scale.rounds));
        for kind in KINDS {
            // A new service for each flood, so that none affects the next.
            let service = match kind.contains("TLS") {
                false => Service::tollgate("memory:", Some(&policy)).await?,
                true => Service::encrypted(authority.encryption("127.0.0.1"), &policy).await?,
            };
            let target = Target {
                service: &service,
                redis: None,
            };
            load::run(target, SINGLE_CALLER, scale.warm_up).await?;
            let baseline = load::run(target, SINGLE_CALLER, scale.load).await?.p99;
            let mut flood = start(kind, &service.addr, scale.load + 2 * MARGIN)?;
            sleep(MARGIN).await;
            let flooded = load::run(target, SINGLE_CALLER, scale.load).await?.p99;
            let ended = flood.wait().await?;
            ensure!(ended.success(), "the flood failed: {kind}");
            measurements.push(FloodLatency {
                kind,
                baseline,
                flooded,
            });
        }
    }
    Ok(measurements)
}

/// A process of its own with a lower priority, as if it ran on another machine.
fn start(kind: &str, addr: &str, lasts: Duration) -> anyhow::Result<tokio::process::Child> {
    let this = std::env::current_exe().context("the name of this program")?;
    let mut flood = Command::new("nice");
    flood
        .args(["-n", "19"])
        .arg(this)
        .args(["--flood", kind, "--flood-addr", addr])
        .args(["--flood-lasts", &lasts.as_millis().to_string()])
        .stdout(Stdio::null())
        .kill_on_drop(true);
    flood.spawn().context("a flood can't be started")
}

/// Runs a flood, which ends by itself.
pub(crate) async fn run(kind: &str, addr: &str, lasts: Duration) -> anyhow::Result<()> {
    match KINDS.iter().position(|known| *known == kind) {
        Some(0) => drop(kinds::rapid_reset(addr, lasts).await),
        Some(1) => {
            let addr = addr.to_owned();
            let flood = move || kinds::continuation_flood(&addr, lasts);
            tokio::task::spawn_blocking(flood).await?;
        }
        Some(2) => silent(addr, kinds::PREFACE, lasts).await?,
        Some(3) => {
            let held = kinds::held_streams(addr, 5, 1_000).await;
            sleep(lasts).await;
            drop(held);
        }
        Some(4) => silent(addr, &PARTIAL_HANDSHAKE, lasts).await?,
        _ => anyhow::bail!("{kind:?} is no flood"),
    }
    Ok(())
}

/// Connections that send this, and then nothing until all of them end.
async fn silent(addr: &str, beginning: &'static [u8], lasts: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let addr = addr.to_owned();
    let flood = move || kinds::silent_connections(&addr, 10_000, beginning);
    let held = tokio::task::spawn_blocking(flood).await?;
    sleep(lasts.saturating_sub(begun.elapsed())).await;
    drop(held);
    Ok(())
}
