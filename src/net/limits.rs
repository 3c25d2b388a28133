//! The limits of a listener: they bound all that a caller can hold open or make the service keep in memory.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The section `[bounds]` of the settings. Applies to both ports unless a field names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest gRPC request message, in bytes.
    pub message_bytes: usize,
    /// The largest request message of Estimate, in bytes: it has the body of a request to the provider.
    pub estimate_bytes: usize,
    /// The headers of a request, in bytes.
    pub header_list_bytes: u32,
    /// Calls that one gRPC connection may have open.
    pub streams_per_connection: u32,
    /// Calls that one gRPC connection may cancel in a second. If it cancels more, it is read more slowly.
    pub cancelled_per_second: u32,
    /// Connections that one port may have open. At the limit, the longest idle ones are closed.
    pub connections: usize,
    /// How long the TLS handshake, the first frame of HTTP/2, and the headers of each HTTP/1 request may take.
    pub handshake_time: Duration,
    /// A connection without a call for this long is closed.
    pub idle_time: Duration,
    /// An older connection takes no new calls: its caller reconnects, perhaps to another replica. The maximum age is
    /// varied by up to 10 % for each connection, so that not all reconnect at once.
    pub connection_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            estimate_bytes: 2 * 1024 * 1024,
            header_list_bytes: 16 * 1024,
            streams_per_connection: 1024,
            cancelled_per_second: 2_000,
            connections: 8_000,
            handshake_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(15 * 60),
            connection_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// File descriptors besides the connections of both ports: the store's, the logs', and those of files being read.
const OTHER_FILES: u64 = 512;

impl Limits {
    /// Raises the process's limit of open files to what the connections need: the default is 1024 on many systems. If
    /// that fails, lowers `connections` and logs it.
    pub(crate) fn fitted_to_open_files(self) -> Self {
        let wanted = 2 * self.connections as u64 + OTHER_FILES;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let allowed = maximum.unwrap_or(u64::MAX).min(wanted);
        let mut files = current.unwrap_or(u64::MAX);
        if files < allowed {
            let raised = Rlimit {
                current: Some(allowed),
                maximum,
            };
            if setrlimit(Resource::Nofile, raised).is_ok() {
                files = allowed;
            }
        }
        if files >= wanted {
            return self;
        }
        let connections = files.saturating_sub(OTHER_FILES) / 2;
        let connections = usize::try_from(connections).unwrap_or(1).max(1);
        tracing::info!(
            open_files = files,
            bound = self.connections,
            connections,
            "bounds.connections is more than the system lets the service open: fewer are taken"
        );
        Self {
            connections,
            ..self
        }
    }
}
