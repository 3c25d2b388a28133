//! `tollgate top`: organizations and pools, nearest to their end first, live in a terminal or once as a table.
//!
//! [`TopState`] is what is shown, and what keys change in it; [`draw`](view::draw) draws it. Both are pure. [`live`]
//! has the terminal, the signals and the calls.

mod calls;
mod format;
mod live;
mod state;
mod table;
mod view;

use std::{io::IsTerminal as _, time::Duration};

use self::{calls::organizations, state::TopState};
use super::calls::connect;
use crate::{
    client::{
        WrongArguments,
        connection::ConnectionArgs,
        failure::rpc_error,
        output::{json, print},
    },
    grpc::proto::OrganizationOrder,
};

/// Arguments of `tollgate top`.
#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// How often the figures are read
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = interval)]
    every: Duration,
    /// Print all organizations once, as a table or with --json, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The service reads an organization every 5 s, so this is often enough.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        true => Ok(interval),
        false => Err("must be 100ms to 1h".to_owned()),
    }
}

/// Shows organizations until the user quits; with `--once` prints them.
///
/// # Errors
///
/// The arguments contradict each other, there is no terminal, or, with `--once`, the service's answer.
pub(super) async fn run(args: &TopArgs) -> anyhow::Result<()> {
    let connection = &args.connection;
    let client = connect(connection)?;
    if args.once {
        let all = organizations(client, OrganizationOrder::NearestToEnd, "", usize::MAX).await;
        let all = all.map_err(|status| rpc_error(connection, &status))?;
        return print(&match connection.json {
            true => json(&all)?,
            false => table::organizations(&all, crate::wall_clock::now()),
        });
    }
    if connection.json {
        let fault = "--json: prints JSON only with --once";
        return Err(WrongArguments(fault.to_owned()).into());
    }
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        let fault = "tollgate top needs a terminal; to print the figures once, use --once";
        return Err(WrongArguments(fault.to_owned()).into());
    }
    let state = TopState::new(connection.addr.to_string());
    live::run(state, client, connection, args.every).await
}
