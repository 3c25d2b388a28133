//! The arguments of `tollgate bench`.

use std::time::Duration;

use super::cpu::Process;
use crate::client::connection::ConnectionArgs;

/// The load.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// How many requests are under way at most, over all connections: each caller has one, and sends the
    /// next when it has the answer. With --stream, each connection's stream has its share of the callers as
    /// the number of requests that it sends ahead of their answers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) callers: u32,
    /// How many HTTP/2 connections the callers share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: u32,
    /// Send the requests over ReserveStream, one stream a connection, instead of a Reserve each
    #[arg(long)]
    pub(super) stream: bool,
    /// The organization; with --orgs, the first part of their names
    #[arg(long, default_value = "org-demo")]
    pub(super) org: String,
    /// How many organizations: ORG-0, ORG-1, …; the policy has to know them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) orgs: Option<u32>,
    /// The model
    #[arg(long, default_value = "gpt-4o")]
    pub(super) model: String,
    /// The tokens of each request
    #[arg(long, default_value_t = 1)]
    pub(super) tokens: u64,
    /// Give every request an id of its own
    #[arg(long)]
    pub(super) ids: bool,
    /// Requests a second, evenly spaced (open loop); without it each caller goes as fast as it can
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// How long, such as 10s
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) duration: Duration,
    /// A process whose CPU time is told per request, such as server=1234; may be given again
    #[arg(long = "pid", value_name = "NAME=PID")]
    pub(super) processes: Vec<Process>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}
