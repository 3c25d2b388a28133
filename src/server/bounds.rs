//! What callers may take of the service: everything that they can hold open or make it keep is bounded.

use std::time::Duration;

use crate::ledger::Ledger;

/// The section `[bounds]` of the settings, for both ports unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The largest request message of gRPC, in bytes.
    pub message_bytes: usize,
    /// The headers of a request, in bytes.
    pub header_list_bytes: u32,
    /// Calls that one gRPC connection may have open.
    pub streams_per_connection: u32,
    /// Connections that one port may have open. Where there are more, the ones that have been idle longest make room.
    pub connections: usize,
    /// How long a connection may take to begin: with TLS, with HTTP/2, and with the first headers of HTTP/1.
    pub handshake_time: Duration,
    /// A connection without a call for so long is closed.
    pub idle_time: Duration,
    /// A connection that is older takes no new calls: its caller opens another one, perhaps to another replica.
    /// A tenth more or less, so that not all are renewed at once.
    pub connection_age: Duration,
    /// Decisions that may wait for the store.
    pub waiting_decisions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            header_list_bytes: 16 * 1024,
            streams_per_connection: 1024,
            connections: 10_000,
            handshake_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(15 * 60),
            connection_age: Duration::from_secs(60 * 60),
            waiting_decisions: Ledger::MOST_WAITING,
        }
    }
}
