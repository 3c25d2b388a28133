//! **Redis' errors → the store's errors.** What is known about a failed command decides: only a server's reply,
//! or a failure to connect, proves that nothing was written.
//!
//! A message is one line of bounded length, without arguments that Redis repeats: these may hold a password, or the
//! names of other organizations. Hosts and keys stand in square brackets, which callers do not get
//! ([`StoreError::public_message`]).

use std::{error::Error, io, net::IpAddr, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::{RefusalReason, StoreError};

/// The URL is for one server or sentinels, and the server is a node of a cluster.
pub(crate) const CLUSTER_NODE: &str = "this is a cluster node: use redis+cluster://";

/// The URL is `redis+cluster://`, and the server is not part of a cluster.
const NO_CLUSTER: &str = "this server is not part of a cluster: use redis:// or redis+sentinel://";

pub(crate) const CONNECTION_RESET: &str = "connection reset";
const MAX_MESSAGE_BYTES: usize = 300;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum SendError {
    /// No server was found, there was no connection, or every server redirected it. Nothing ran.
    NotSent(StoreError),
    /// The server replied with an error.
    Rejected(RedisError),
    /// It was, or may have been, sent, and no reply came.
    OutcomeUnknown(RedisError),
}

impl SendError {
    /// The failure of a command that was, or may have been, sent.
    pub(crate) fn of_sent(error: RedisError) -> Self {
        if is_server_error(&error) {
            Self::Rejected(error)
        } else {
            Self::OutcomeUnknown(error)
        }
    }

    /// The error that the server replied with, if nothing had run: a script may fail after it wrote.
    pub(crate) fn rejection(&self) -> Option<ServerErrorKind> {
        match self {
            Self::Rejected(error) if !failed_in_script(error) => match error.kind() {
                ErrorKind::Server(kind) => Some(kind),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the connection was cut during the command, which may have run.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(error) if error.is_connection_dropped())
    }

    /// Whether a script failed while it ran.
    pub(crate) fn is_of_script(&self) -> bool {
        matches!(self, Self::Rejected(error) if failed_in_script(error))
    }

    /// If a server that should have all organizations redirects, it is a node of a cluster.
    pub(crate) fn outside_a_cluster(self) -> Self {
        use ServerErrorKind::{Ask, CrossSlot, Moved};
        match &self {
            Self::Rejected(error)
                if matches!(error.kind(), ErrorKind::Server(Moved | Ask | CrossSlot)) =>
            {
                let reason = CLUSTER_NODE.to_owned();
                Self::NotSent(StoreError::Unsuitable { reason })
            }
            _ => self,
        }
    }
}

impl From<SendError> for StoreError {
    fn from(failed: SendError) -> Self {
        let error = match failed {
            SendError::NotSent(error) => return error,
            SendError::Rejected(error) => error,
            SendError::OutcomeUnknown(error) => {
                let reason = message(&error);
                return Self::OutcomeUnknown { reason };
            }
        };
        let reason = message(&error);
        match error.code() {
            // The script's own code, and Redis' for a key of another type: a retry does not help.
            Some("CORRUPT" | "WRONGTYPE") => Self::Corrupt { reason },
            // The script checks its permissions before it writes.
            _ if failed_in_script(&error) && !is_denial(&error.to_string()) => {
                Self::OutcomeUnknown { reason }
            }
            _ => refused(&error),
        }
    }
}

/// Whether a server replied with this error.
fn is_server_error(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_)
            | ErrorKind::Extension
            | ErrorKind::AuthenticationFailed
            | ErrorKind::RESP3NotSupported
    )
}

/// Whether a script failed while it ran.
fn failed_in_script(error: &RedisError) -> bool {
    error.to_string().contains("@user_script")
}

/// Why there is no connection. `explain` is the reason if no server refused it.
pub(crate) fn connect_error(
    error: &RedisError,
    explain: impl FnOnce(&RedisError) -> String,
) -> StoreError {
    if is_server_error(error) {
        return refused(error);
    }
    let reason = explain(error);
    StoreError::Unreachable { reason }
}

/// The first word of Redis' error decides. The script declares that it writes, so Redis finds all of these before
/// it runs anything.
fn refused(error: &RedisError) -> StoreError {
    let reason = message(error);
    let unsuitable = |reason: &str| StoreError::Unsuitable {
        reason: reason.to_owned(),
    };
    let why = match error.code() {
        _ if reason.contains("cluster support disabled") => return unsuitable(NO_CLUSTER),
        _ if reason.contains("SELECT is not allowed in cluster mode") => {
            return unsuitable(CLUSTER_NODE);
        }
        _ if error.kind() == ErrorKind::AuthenticationFailed => RefusalReason::NotLoggedIn,
        _ if is_denial(&reason) => return permission_denied(&reason),
        Some("OOM") => RefusalReason::Full,
        Some("MISCONF") => RefusalReason::CannotSave,
        Some("BUSY") => RefusalReason::Busy,
        Some("LOADING") => RefusalReason::Loading,
        Some("READONLY") => RefusalReason::ReadOnly,
        Some("MASTERDOWN") => RefusalReason::CutOff,
        Some("NOREPLICAS") => RefusalReason::TooFewReplicas,
        Some("CLUSTERDOWN") => RefusalReason::Incomplete,
        Some("TRYAGAIN") => RefusalReason::Moving,
        Some("NOAUTH" | "WRONGPASS") => RefusalReason::NotLoggedIn,
        Some("ERR") if reason.contains("max number of clients") => RefusalReason::TooManyClients,
        _ => RefusalReason::Other,
    };
    StoreError::Refused { why, reason }
}

/// The most specific failure of several servers: a reply rather than none.
pub(crate) fn most_specific(failures: Vec<StoreError>, context: &str) -> StoreError {
    let mut reasons = Vec::new();
    let mut refusal = None;
    for failure in failures {
        match failure {
            StoreError::Unsuitable { .. } => return failure,
            StoreError::Refused { why, reason } => {
                let reason = format!("{reason} ({context})");
                refusal = refusal.or(Some(StoreError::Refused { why, reason }));
            }
            StoreError::Unreachable { reason } | StoreError::OutcomeUnknown { reason }
                if !reasons.contains(&reason) =>
            {
                reasons.push(reason);
            }
            _ => {}
        }
    }
    refusal.unwrap_or_else(|| StoreError::Unreachable {
        reason: match reasons.is_empty() {
            true => context.to_owned(),
            false => format!("{context}: {}", reasons.join("; ")),
        },
    })
}

/// The reason if keys can't be accessed. `AclCheck` adds the pattern.
pub(crate) const NO_KEYS: &str = "lacks access to keys";

/// The error of a missing permission. Names it if these words do.
pub(crate) fn permission_denied(words: &str) -> StoreError {
    let command = words.split_once("to run the '");
    let command = command.and_then(|(_, rest)| rest.split_once('\''));
    let of_keys = ["keys used as arguments", "keys mentioned", "access a key"];
    let reason = match command {
        Some((command, _)) => format!("lacks +{command}"),
        None if of_keys.iter().any(|sign| words.contains(sign)) => NO_KEYS.to_owned(),
        None => words.to_owned(),
    };
    let why = RefusalReason::NoRight;
    StoreError::Refused { why, reason }
}

/// Whether it failed because the user lacks a permission.
pub(crate) fn is_permission_denied(error: &StoreError) -> bool {
    let denied = RefusalReason::NoRight;
    matches!(error, StoreError::Refused { why, .. } if *why == denied)
}

/// Whether a server's error is about a missing permission. Redis 7.0 calls it `ERR` within a script.
pub(crate) fn is_denial(words: &str) -> bool {
    let signs = [
        "NOPERM",
        "has no permissions to",
        "The user executing the script can't",
    ];
    signs.iter().any(|sign| words.contains(sign))
}

/// The message of an error. A server's error keeps the server's words.
pub(crate) fn message(error: &RedisError) -> String {
    let source: Option<&Arc<dyn Error + Send + Sync>> =
        error.source().and_then(<dyn Error>::downcast_ref);
    if let Some(error) = source.and_then(|source| source.downcast_ref()) {
        return io_message(error);
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => sanitize(&format!("{code} {detail}")),
        // Our own message.
        (_, Some(detail)) if error.kind() == ErrorKind::Client => detail.to_owned(),
        (_, Some(detail)) => sanitize(detail),
        _ => sanitize(&error.to_string()),
    }
}

fn io_message(error: &io::Error) -> String {
    use io::ErrorKind as K;
    let known = match error.kind() {
        K::ConnectionRefused => "connection refused",
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => {
            CONNECTION_RESET
        }
        K::TimedOut => "timed out",
        K::HostUnreachable => "no route to host",
        K::NetworkUnreachable => "network unreachable",
        K::NotFound => "there is no such unix socket",
        K::PermissionDenied => "permission denied",
        _ => {
            let text = error.to_string();
            return match text.split_once("failed to lookup address information: ") {
                Some((_, why)) => format!("no such host ({})", sanitize(why)),
                None => sanitize(&text),
            };
        }
    };
    known.to_owned()
}

/// One bounded line, without arguments that Redis repeats and positions in our scripts; hosts and keys in
/// brackets.
pub(crate) fn sanitize(text: &str) -> String {
    let text = text.split(", with args beginning with").next();
    let text = without_position(text.unwrap_or_default());
    let mut cleaned = String::new();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.replace('[', "(").replace(']', ")");
        let is_cut = cleaned.len() + word.len() > MAX_MESSAGE_BYTES;
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        if is_cut {
            cleaned.push('…');
            break;
        }
        cleaned += &match is_internal(&word) {
            true => format!("[{word}]"),
            false => word,
        };
    }
    cleaned
}

/// Without the position in our script: ` script: <hash>, on @user_script:<line>.`
fn without_position(text: &str) -> &str {
    let position = text.rfind("user_script").map(|at| &text[..at]);
    let start = position.and_then(|before| before.rfind(" script: "));
    start.map_or(text, |start| &text[..start])
}

/// Whether it is a key, which has a hash tag, or a server's address.
fn is_internal(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && !"[]{}".contains(c));
    if word.contains('{') || bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let port = bare.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    /// An error reply of Redis.
    fn redis_error(text: &str) -> RedisError {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("a reply");
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn a_reply_proves_that_nothing_was_written_unless_a_script_was_running() {
        use RefusalReason as R;
        for (words, wanted) in [
            ("OOM allow-oom flag is not set on the script", Some(R::Full)),
            ("CLUSTERDOWN The cluster is down", Some(R::Incomplete)),
            ("TRYAGAIN Multiple keys request", Some(R::Moving)),
            ("NOAUTH Authentication required.", Some(R::NotLoggedIn)),
            ("ERR unknown command 'EVALSHA'", Some(R::Other)),
            (
                "OOM command not allowed. script: 8ac1, on @user_script:7.",
                None,
            ),
        ] {
            match StoreError::from(SendError::of_sent(redis_error(words))) {
                StoreError::Refused { why, .. } => assert_eq!(Some(why), wanted, "{words}"),
                StoreError::OutcomeUnknown { .. } => assert_eq!(wanted, None, "{words}"),
                other => panic!("{words}: {other}"),
            }
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown_and_a_failed_connect_proves_that_nothing_ran()
    {
        let broken = RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let error = connect_error(&broken, message);
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        let error = StoreError::from(SendError::of_sent(broken));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_missing_permission_is_named_for_every_version_of_redis() {
        let unnamed = "ERR The user executing the script can't run this command or subcommand";
        for (words, named) in [
            (
                "NOPERM User gate has no permissions to run the 'cluster|slots' command",
                "lacks +cluster|slots",
            ),
            (
                "NOPERM ACL failure in script: User gate has no permissions to run the 'get' command",
                "lacks +get",
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                NO_KEYS,
            ),
            ("NOPERM No permissions to access a key", NO_KEYS),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command \
                 arguments",
                NO_KEYS,
            ),
            (unnamed, unnamed),
        ] {
            let (why, reason) = (RefusalReason::NoRight, named.to_owned());
            let error = refused(&redis_error(words));
            assert_eq!(error, StoreError::Refused { why, reason });
        }
    }

    #[test]
    fn a_message_is_one_bounded_line_with_keys_and_hosts_in_brackets() {
        for (text, wanted) in [
            (
                "ERR ACL failure in script: User a has no permissions script: 5e61e08d, on @user_script:2.",
                "ERR ACL failure in script: User a has no permissions",
            ),
            (
                "ERR no tollgate:{acme}:usage here, ask 10.0.0.7:6379 or [::1]:6380",
                "ERR no [tollgate:{acme}:usage] here, ask [10.0.0.7:6379] or [(::1):6380]",
            ),
            ("ERR a\u{1b}[31m\u{7}b", "ERR a (31m b"),
            (&"y".repeat(1_000), "…"),
        ] {
            assert_eq!(sanitize(text), wanted);
        }
        let long = sanitize(&"x ".repeat(1_000));
        assert!(long.len() <= MAX_MESSAGE_BYTES + 8, "{long}");
        assert!(long.ends_with('…'), "{long}");
        let reason = "no [tollgate:{acme}:usage] at [[::1]:6379]".to_owned();
        let public = StoreError::Unreachable { reason }.public_message();
        assert_eq!(public, "it can't be reached: no at");
    }
}
