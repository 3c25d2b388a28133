//! `cargo bench --bench goals`: measures speed and size in one run, and says of each goal whether it is
//! met.
//!
//! tonic's floor (a service of the same messages without any store), the real program on its stores and
//! a redis-server of this run's own are started on loopback, and `tollgate bench` puts load on them.
//! Rates drift on shared machines, so floor and program are measured in turns, several rounds long; a
//! ratio is taken within a round, and the medians over the rounds are told. It takes some minutes;
//! `--quick` only shows that everything can be measured.
//!
//! Exit code 0 says that everything was measured, not that the goals are met.

mod fairness;
mod floods;
mod floor;
mod footprint;
mod goals;
mod load;
mod processes;
mod rates;
mod report;
mod start;
mod stream_load;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::{fairness::Fairness, footprint::Footprint, rates::Round, start::Start};

/// No run takes nearly as long, however busy the machine is.
const RUN_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Measures the goals.
#[derive(Debug, Parser)]
struct Options {
    /// Everything once and very short: shows that it can be measured, and says nothing of speed
    #[arg(long)]
    quick: bool,
    /// Only what has this in its name: "redis", "C=256", "fairness", "floods", "footprint", "start", …
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
    /// Be a flood
    #[arg(long, hide = true, value_name = "KIND", requires = "flood_addr")]
    flood: Option<String>,
    #[arg(long, hide = true, value_name = "HOST:PORT")]
    flood_addr: Option<String>,
    /// Milliseconds
    #[arg(long, hide = true, default_value_t = 1_000)]
    flood_lasts: u64,
    /// Be the floor
    #[arg(long, hide = true, value_name = "HOST:PORT")]
    serve_floor: Option<SocketAddr>,
}

/// How much of everything.
struct Scale {
    rounds: usize,
    warm_up: Duration,
    load: Duration,
    /// How many reserves, at the end of which the server's memory is compared with what it was early on.
    reserves: u64,
    ids: u64,
    organizations: u64,
    starts: usize,
    /// What is measured has this in its name.
    only: String,
}

/// What was measured; what was not asked for is not there.
#[derive(Default)]
struct Measurements {
    rounds: Vec<Round>,
    fairness: Vec<Fairness>,
    floods: Vec<floods::FloodLatency>,
    footprint: Footprint,
    start: Option<Start>,
}

impl Scale {
    fn of(options: &Options) -> Self {
        let only = options.only.clone();
        if options.quick {
            return Self {
                rounds: 1,
                warm_up: Duration::from_millis(100),
                load: Duration::from_millis(400),
                reserves: 100_000,
                ids: 100_000,
                organizations: 10_000,
                starts: 3,
                only,
            };
        }
        Self {
            rounds: 3,
            warm_up: Duration::from_millis(500),
            load: Duration::from_millis(2500),
            reserves: 10_000_000,
            ids: 1_000_000,
            organizations: 100_000,
            starts: 10,
            only,
        }
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = match (options.serve_floor, &options.flood, &options.flood_addr) {
        (Some(address), ..) => floor::serve(address).await,
        (None, Some(kind), Some(addr)) => {
            floods::run(kind, addr, Duration::from_millis(options.flood_lasts)).await
        }
        _ => run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("goals: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever ends the measuring early, the processes that it started end with it.
async fn run(options: &Options) -> anyhow::Result<()> {
    let scale = Scale::of(options);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let measurements = tokio::select! {
        measurements = measure(&scale) => measurements?,
        _ = terminate.recv() => bail!("terminated"),
        _ = interrupt.recv() => bail!("interrupted"),
        () = tokio::time::sleep(RUN_TIMEOUT) => bail!("not done after {RUN_TIMEOUT:?}"),
    };
    println!("{}\n", report::rows(&measurements));
    println!("{}", report::goals(&goals::of(&measurements)));
    Ok(())
}

async fn measure(scale: &Scale) -> anyhow::Result<Measurements> {
    let mut measurements = Measurements {
        start: start::measure(scale).await?,
        footprint: footprint::measure(scale).await?,
        floods: floods::measure(scale).await?,
        ..Measurements::default()
    };
    (measurements.rounds, measurements.fairness) = rates::measure(scale).await?;
    Ok(measurements)
}

/// Says on stderr what is being measured.
fn log_progress(what: &str) {
    eprintln!("goals: {what}");
}

/// The middle one, or the mean of the middle two; none of none.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}
