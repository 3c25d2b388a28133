//! The latency of one organization's single caller, alone and under another organization's flood.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use super::{
    Scale,
    load::{self, LoadStats, Target},
};

pub(crate) const NAME: &str = "fairness";

const SINGLE_CALLER: &str = "--org quiet --callers 1 --connections 1";
const FLOOD: &str = "--org flood --callers 256 --connections 4";

/// How much earlier the flood starts, and how much later it ends.
const MARGIN: Duration = Duration::from_millis(300);

/// The measurements of the single caller.
pub(crate) struct Fairness {
    pub(crate) alone: LoadStats,
    /// Under a closed loop, with the loop's own measurements.
    pub(crate) with_closed_loop: (LoadStats, LoadStats),
    /// Under an open loop of half that rate.
    pub(crate) with_open_loop: (LoadStats, LoadStats),
}

pub(crate) async fn measure(scale: &Scale, target: Target<'_>) -> anyhow::Result<Fairness> {
    let duration = scale.load;
    load::run(target, FLOOD, scale.warm_up).await?;
    let alone = load::run(target, SINGLE_CALLER, duration).await?;
    let with_closed_loop = under_flood(target, FLOOD, duration).await?;
    let half = (with_closed_loop.1.rate / 2.0) as u64;
    ensure!(half > 0, "the flood was none");
    let open_loop = format!("{FLOOD} --rate {half}");
    let with_open_loop = under_flood(target, &open_loop, duration).await?;
    Ok(Fairness {
        alone,
        with_closed_loop,
        with_open_loop,
    })
}

async fn under_flood(
    target: Target<'_>,
    flood: &str,
    duration: Duration,
) -> anyhow::Result<(LoadStats, LoadStats)> {
    let quiet = async {
        sleep(MARGIN).await;
        load::run(target, SINGLE_CALLER, duration).await
    };
    // The flood has a lower priority: the two cores are for the server and the single caller.
    let flood = load::run_giving_way(target, flood, duration + 2 * MARGIN);
    tokio::try_join!(quiet, flood)
}
