//! A gRPC client of a running service, for the subcommands and `tollgate bench`: connection, TLS, explanations of
//! failed calls, output.

pub(crate) mod connection;
pub(crate) mod failure;
pub(crate) mod output;
mod tls;

/// Arguments that contradict each other.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub(crate) String);
