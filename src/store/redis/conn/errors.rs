//! **Redis' errors → the store's errors.** What is known about a failed command decides: only a server's reply,
//! or a failure to connect, proves that nothing was written.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::message::{is_server_error, message};
use crate::store::{RefusalReason, StoreError};

/// The URL is for one server or sentinels, and the server is a node of a cluster.
pub(crate) const CLUSTER_NODE: &str = "this is a cluster node: use redis+cluster://";

/// The URL is `redis+cluster://`, and the server is not part of a cluster.
const NO_CLUSTER: &str = "this server is not part of a cluster: use redis:// or redis+sentinel://";

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
        // The script's own code, and Redis' for a key of another type: a retry does not help.
        if error.kind() == ErrorKind::Extension
            && matches!(error.code(), Some("CORRUPT" | "WRONGTYPE"))
        {
            let reason = message(&error);
            return Self::Corrupt { reason };
        }
        // The script checks its permissions before it writes.
        if failed_in_script(&error) && !is_denial(&error.to_string()) {
            let reason = message(&error);
            return Self::OutcomeUnknown { reason };
        }
        refused(&error)
    }
}

/// Whether a script failed while it ran.
fn failed_in_script(error: &RedisError) -> bool {
    error.to_string().contains("@user_script")
}

/// Why there is no connection.
pub(crate) fn connect_error(error: &RedisError) -> StoreError {
    // The server answered, and refused the connection.
    if is_server_error(error) {
        return refused(error);
    }
    let reason = message(error);
    StoreError::Unreachable { reason }
}

fn refused(error: &RedisError) -> StoreError {
    let words = message(error);
    let topologies = [
        ("cluster support disabled", NO_CLUSTER),
        ("SELECT is not allowed in cluster mode", CLUSTER_NODE),
    ];
    if let Some((_, reason)) = topologies.iter().find(|(sign, _)| words.contains(sign)) {
        let reason = (*reason).to_owned();
        return StoreError::Unsuitable { reason };
    }
    match refusal_reason(error, &words) {
        RefusalReason::NoRight => permission_denied(&words),
        why => StoreError::Refused { why, reason: words },
    }
}

/// The first word of Redis' error decides. The script declares that it writes, so Redis finds all of these before
/// it runs anything.
fn refusal_reason(error: &RedisError, words: &str) -> RefusalReason {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return RefusalReason::NotLoggedIn;
    }
    if is_denial(words) {
        return RefusalReason::NoRight;
    }
    match error.code() {
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
        Some("ERR") if words.contains("max number of clients") => RefusalReason::TooManyClients,
        _ => RefusalReason::Other,
    }
}

/// The most specific failure of several servers: a reply rather than none.
pub(crate) fn most_specific(failures: Vec<StoreError>, context: &str) -> StoreError {
    let rank = |error: &StoreError| match error {
        StoreError::Unsuitable { .. } => 2,
        StoreError::Refused { .. } => 1,
        _ => 0,
    };
    let most = failures.iter().map(rank).max().unwrap_or_default();
    let mut candidates = failures.into_iter().filter(|error| rank(error) == most);
    match candidates.next() {
        None => StoreError::Unreachable {
            reason: context.to_owned(),
        },
        Some(StoreError::Unreachable { reason } | StoreError::OutcomeUnknown { reason }) => {
            let mut reasons = vec![reason];
            for error in candidates {
                if let StoreError::Unreachable { reason } | StoreError::OutcomeUnknown { reason } =
                    error
                    && !reasons.contains(&reason)
                {
                    reasons.push(reason);
                }
            }
            let reason = format!("{context}: {}", reasons.join("; "));
            StoreError::Unreachable { reason }
        }
        Some(StoreError::Refused { why, reason }) => {
            let reason = format!("{reason} ({context})");
            StoreError::Refused { why, reason }
        }
        Some(error) => error,
    }
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

#[cfg(test)]
mod tests {
    use std::io;

    use redis::parse_redis_value;

    use super::*;

    /// An error reply of Redis.
    fn redis_error(text: &str) -> RedisError {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("a reply");
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn each_refusal_of_redis_has_its_reason_and_proves_that_nothing_was_written() {
        use RefusalReason as R;
        for (words, word) in [
            ("OOM allow-oom flag is not set on the script", R::Full),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                R::CannotSave,
            ),
            ("BUSY Redis is busy running a script.", R::Busy),
            ("LOADING Redis is loading the dataset in memory", R::Loading),
            (
                "READONLY You can't write against a read only replica.",
                R::ReadOnly,
            ),
            ("MASTERDOWN Link with MASTER is down", R::CutOff),
            (
                "NOREPLICAS Not enough good replicas to write.",
                R::TooFewReplicas,
            ),
            ("CLUSTERDOWN The cluster is down", R::Incomplete),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                R::Moving,
            ),
            (
                "NOPERM this user has no permissions to run the 'eval' command",
                R::NoRight,
            ),
            ("NOAUTH Authentication required.", R::NotLoggedIn),
            ("WRONGPASS invalid username-password pair", R::NotLoggedIn),
            ("ERR max number of clients reached", R::TooManyClients),
            ("ERR unknown command 'EVALSHA'", R::Other),
        ] {
            let sent = StoreError::from(SendError::of_sent(redis_error(words)));
            for error in [sent, connect_error(&redis_error(words))] {
                match error {
                    StoreError::Refused { why, .. } => assert_eq!(why, word, "{words}"),
                    other => panic!("{words}: {other}"),
                }
            }
        }
    }

    #[test]
    fn a_database_number_at_a_node_of_a_cluster_gets_the_hint_that_it_is_one() {
        let words = "ERR SELECT is not allowed in cluster mode";
        let reason = CLUSTER_NODE.to_owned();
        let error = connect_error(&redis_error(words));
        assert_eq!(error, StoreError::Unsuitable { reason });
    }

    #[test]
    fn a_script_that_failed_while_it_ran_may_have_written() {
        let words = "OOM command not allowed when used memory > 'maxmemory'. script: 8ac1, on @user_script:7.";
        let error = StoreError::from(SendError::of_sent(redis_error(words)));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_foreign_value_is_corrupt() {
        for words in ["CORRUPT usage: abc", "WRONGTYPE Operation against a key"] {
            let error = StoreError::from(SendError::of_sent(redis_error(words)));
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown_and_a_failed_connect_proves_that_nothing_ran()
    {
        let broken = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let error = StoreError::from(SendError::of_sent(broken()));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
        let error = connect_error(&broken());
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn a_missing_permission_is_named_for_every_version_of_redis() {
        for (words, named) in [
            (
                "NOPERM this user has no permissions to run the 'eval' command",
                "lacks +eval",
            ),
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
                "lacks access to keys",
            ),
            (
                "NOPERM No permissions to access a key",
                "lacks access to keys",
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command \
                 arguments",
                "lacks access to keys",
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                "ERR The user executing the script can't run this command or subcommand",
            ),
        ] {
            assert!(is_denial(words), "{words}");
            let reason = named.to_owned();
            let why = RefusalReason::NoRight;
            assert_eq!(
                permission_denied(words),
                StoreError::Refused { why, reason }
            );
        }
        assert!(!is_denial("ERR unknown command 'get'"));
    }
}
