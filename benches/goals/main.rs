//! `cargo bench --bench goals`: measures speed and size in one run, and checks the goals.
//!
//! It runs on loopback: a floor (tonic with the same messages and no store), the real program on its stores, and a
//! redis-server; `tollgate bench` is the client. Rates on shared machines drift, so what is compared is measured
//! alternately, in several rounds: the program beside the floor, and Redis' cost of a decision beside that of a bare
//! INCRBY. A ratio is computed within a round, and the report has the medians over the rounds. A run takes some minutes;
//! `--quick` only checks that everything can be measured.
//!
//! Exit code 0 means that everything was measured, not that the goals are met. With `--instructions` it means that each
//! count of instructions is within its budget.

mod checks;
mod estimates;
mod fairness;
mod fixed_load;
mod floods;
mod floor;
mod footprint;
mod goals;
mod instructions;
mod load;
mod processes;
mod rates;
mod redis_load;
mod report;
mod start;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::{fairness::Fairness, footprint::Footprint, rates::Round, start::Start};

/// Longer than any run takes, also on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Measures the goals.
#[derive(Debug, Parser)]
struct Options {
    /// Measures everything once and briefly: checks the benchmark, not the speed
    #[arg(long)]
    quick: bool,
    /// Measures only what has this in its name: "redis", "C=256", "fairness", "floods", "footprint", "estimate", "start", …
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Counts the instructions of a Reserve, and fails if one is not within its budget. Needs valgrind
    #[arg(long)]
    instructions: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs as a flood
    #[arg(long, hide = true, value_name = "KIND", requires = "flood_addr")]
    flood: Option<String>,
    #[arg(long, hide = true, value_name = "HOST:PORT")]
    flood_addr: Option<String>,
    /// Milliseconds
    #[arg(long, hide = true, default_value_t = 1_000)]
    flood_lasts: u64,
    /// Runs as the floor
    #[arg(long, hide = true, value_name = "HOST:PORT")]
    serve_floor: Option<SocketAddr>,
}

/// The amount of each measurement.
struct Scale {
    rounds: usize,
    warm_up: Duration,
    load: Duration,
    /// How long after the start a policy's memory is measured.
    settle: Duration,
    /// The number of reserves after which the server's memory is compared with its early value.
    reserves: u64,
    ids: u64,
    organizations: u64,
    policy_organizations: u64,
    starts: usize,
    /// A part of the names of what to measure.
    only: String,
}

/// The measurements; what was not selected is empty.
#[derive(Default)]
struct Measurements {
    rounds: Vec<Round>,
    fairness: Vec<Fairness>,
    floods: Vec<floods::FloodLatency>,
    checks: Vec<checks::CheckCost>,
    footprint: Footprint,
    start: Option<Start>,
    /// Milliseconds of the slowest estimate.
    estimate: Option<f64>,
}

impl Scale {
    fn of(options: &Options) -> Self {
        let only = options.only.clone();
        if options.quick {
            return Self {
                rounds: 1,
                warm_up: Duration::from_millis(300),
                load: Duration::from_millis(400),
                settle: Duration::from_secs(1),
                reserves: 100_000,
                ids: 100_000,
                organizations: 10_000,
                policy_organizations: 10_000,
                starts: 3,
                only,
            };
        }
        Self {
            rounds: 3,
            warm_up: Duration::from_millis(500),
            load: Duration::from_millis(2500),
            settle: Duration::from_secs(10),
            reserves: 10_000_000,
            ids: 1_000_000,
            organizations: 100_000,
            policy_organizations: 1_000_000,
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
        _ if options.instructions => instructions::run(&Scale::of(&options)).await,
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

/// If the measuring ends early, the started processes end, too.
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
        estimate: estimates::measure(scale)?,
        footprint: footprint::measure(scale).await?,
        floods: floods::measure(scale).await?,
        checks: checks::measure(scale).await?,
        ..Measurements::default()
    };
    (measurements.rounds, measurements.fairness) = rates::measure(scale).await?;
    Ok(measurements)
}

/// Logs to stderr what is being measured.
fn log_progress(what: &str) {
    eprintln!("goals: {what}");
}

/// The median; `None` of no values.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}
