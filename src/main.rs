//! The program `tollgate`: arguments, signals, exit codes. Everything else is in the library.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
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
                Command::Tool(command) => cli::run(command).await,
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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = ReloadSignal::default();
    let requests = reload.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            requests.send();
        }
    });
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
