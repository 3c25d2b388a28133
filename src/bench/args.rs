//! The arguments of `tollgate bench`.

use std::time::Duration;

use super::cpu::Process;
use crate::client::connection::ConnectionArgs;

/// The arguments of a load.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The number of callers over all connections. Each has one request in flight, and sends the next when it has
    /// the answer. With --stream, a connection's share of the callers is its stream's number of requests in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) callers: u32,
    /// The number of HTTP/2 connections that the callers share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: u32,
    /// Use ReserveStream, one stream a connection, instead of unary Reserve calls
    #[arg(long)]
    pub(super) stream: bool,
    /// The organization; with --orgs, the prefix of their names
    #[arg(long, default_value = "org-demo")]
    pub(super) org: String,
    /// The number of organizations: ORG-0, ORG-1, …. The policy must have them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) orgs: Option<u32>,
    /// The model
    #[arg(long, default_value = "gpt-4o")]
    pub(super) model: String,
    /// The tokens of each request
    #[arg(long, default_value_t = 1)]
    pub(super) tokens: u64,
    /// Give each request a unique id
    #[arg(long)]
    pub(super) ids: bool,
    /// Requests a second, evenly spaced (open loop). Default: as fast as the callers can
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// The duration, such as 10s
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) duration: Duration,
    /// A process whose CPU time per request is reported, such as server=1234; can be repeated
    #[arg(long = "pid", value_name = "NAME=PID")]
    pub(super) processes: Vec<Process>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}
