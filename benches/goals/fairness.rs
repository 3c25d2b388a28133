//! One organization's single caller, alone and beside another organization's flood.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use super::{
    Effort,
    load::{self, Figures, Target},
};

pub(crate) const NAME: &str = "fairness";

const QUIET: &str = "--org quiet --callers 1 --connections 1";
const FLOOD: &str = "--org flood --callers 256 --connections 4";

/// How much sooner the flood starts, and how much later it ends.
const MARGIN: Duration = Duration::from_millis(300);

/// What the single caller measured.
pub(crate) struct Fairness {
    pub(crate) alone: Figures,
    /// Beside a closed loop, and how fast that was.
    pub(crate) beside_closed_loop: (Figures, Figures),
    /// Beside an open loop of half that rate.
    pub(crate) beside_open_loop: (Figures, Figures),
}

pub(crate) async fn measure(effort: &Effort, target: Target<'_>) -> anyhow::Result<Fairness> {
    let duration = effort.load;
    load::run(target, FLOOD, effort.warm_up).await?;
    let alone = load::run(target, QUIET, duration).await?;
    let beside_closed_loop = beside(target, FLOOD, duration).await?;
    let half = (beside_closed_loop.1.rate / 2.0) as u64;
    ensure!(half > 0, "the flood was none");
    let open_loop = format!("{FLOOD} --rate {half}");
    let beside_open_loop = beside(target, &open_loop, duration).await?;
    Ok(Fairness {
        alone,
        beside_closed_loop,
        beside_open_loop,
    })
}

async fn beside(
    target: Target<'_>,
    flood: &str,
    duration: Duration,
) -> anyhow::Result<(Figures, Figures)> {
    let quiet = async {
        sleep(MARGIN).await;
        load::run(target, QUIET, duration).await
    };
    // The two cores are the server's and the single caller's before they are the flood's.
    let flood = load::run_giving_way(target, flood, duration + 2 * MARGIN);
    tokio::try_join!(quiet, flood)
}
