//! The program `tollgate`: arguments, signals, exit codes. Everything else is in the library.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tollgate::{
    cli::{self, Arguments, Command},
    files::watched::ReloadSignal,
    server::{Server, Shutdown},
    settings::{ServeArgs, Settings},
    telemetry::logs,
};

/// How long the program waits at its end for tasks that still run, such as a write to a disk that hangs.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let Arguments { serve, command } = Arguments::parse();
    let done = Runtime::new().context("no runtime").and_then(|runtime| {
        let done = runtime.block_on(async {
            match command.unwrap_or(Command::Serve(serve)) {
                Command::Serve(serve) => run(serve).await,
                Command::CheckPolicy { file, against } => {
                    cli::check_policy(&file, against.as_deref())
                }
                Command::CheckCallers { file } => cli::check_callers(&file),
                Command::NewToken => cli::print_new_token(),
                Command::Client(client) => cli::run(client).await,
            }
        });
        runtime.shutdown_timeout(EXIT_TIMEOUT);
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate: {error:#}");
            cli::exit_code(&error)
        }
    }
}

async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    logs::start(&settings.log, settings.log_format)?;
    // From here on a signal ends the service cleanly, also while it starts.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let reload = ReloadSignal::new();
    tokio::spawn(reload_on_hup(signal(SignalKind::hangup())?, reload.clone()));
    let server = Server::bind(&settings).await?;
    let stop = async move {
        let stop = tokio::select! {
            _ = terminate.recv() => Shutdown::Draining,
            _ = interrupt.recv() => Shutdown::AtOnce,
        };
        // A second Ctrl-C: do not wait for open calls.
        tokio::spawn(async move {
            interrupt.recv().await;
            tracing::warn!("interrupted again: exiting at once");
            std::process::exit(1);
        });
        stop
    };
    server.run(reload, stop).await
}

/// Reloads the files at each SIGHUP.
async fn reload_on_hup(mut hangup: Signal, reload: ReloadSignal) {
    while hangup.recv().await.is_some() {
        reload.send();
    }
}
