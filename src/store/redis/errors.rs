//! What Redis' errors mean for the caller, in the store's own words.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{
    link::Failed,
    message::{is_server_error, message},
    rights,
};
use crate::store::{RefusalReason, StoreError};

/// `redis://` or sentinels lead to a node of a cluster.
pub(super) const CLUSTER_NODE: &str = "this is a cluster node: use redis+cluster://";

/// `redis+cluster://` leads to a server of its own.
const NO_CLUSTER: &str = "this server is not part of a cluster: use redis:// or redis+sentinel://";

/// What a failure means for the caller. Nothing but a server's own answer, or a connection that never
/// came about, proves that nothing was written.
pub(super) fn store_error(failed: &Failed) -> StoreError {
    let error = match failed {
        Failed::Known(error) => return error.clone(),
        // A server that is there, and lets nobody in.
        Failed::Connecting(error) if is_server_error(error) => return refused(error),
        Failed::Connecting(error) => {
            let reason = message(error);
            return StoreError::Unreachable { reason };
        }
        Failed::Asking(error) => error,
    };
    match error.kind() {
        // Our script's own word, and Redis' for a key of another type: no retry mends either.
        ErrorKind::Extension if matches!(error.code(), Some("CORRUPT" | "WRONGTYPE")) => {
            let reason = message(error);
            StoreError::Corrupt { reason }
        }
        // The script asks for its rights before it writes.
        _ if is_server_error(error) && rights::is_denial(&error.to_string()) => refused(error),
        // A script that failed on its way may have written before.
        _ if error.to_string().contains("@user_script") => {
            let reason = message(error);
            StoreError::OutcomeUnknown { reason }
        }
        _ if is_server_error(error) => refused(error),
        _ => {
            let reason = message(error);
            StoreError::OutcomeUnknown { reason }
        }
    }
}

fn refused(error: &RedisError) -> StoreError {
    let said = message(error);
    let topologies = [
        ("cluster support disabled", NO_CLUSTER),
        ("SELECT is not allowed in cluster mode", CLUSTER_NODE),
    ];
    if let Some((_, reason)) = topologies.iter().find(|(sign, _)| said.contains(sign)) {
        let reason = (*reason).to_owned();
        return StoreError::Unsuitable { reason };
    }
    let why = hindrance(error, &said);
    let reason = match why {
        RefusalReason::NoRight => rights::denied(&said),
        _ => said,
    };
    StoreError::Refused { why, reason }
}

/// Redis' first word says which it is. The script says before its first line whether it writes, so Redis
/// finds all of these before anything has run.
fn hindrance(error: &RedisError, said: &str) -> RefusalReason {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return RefusalReason::NotLoggedIn;
    }
    if rights::is_denial(said) {
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
        Some("ERR") if said.contains("max number of clients") => RefusalReason::TooManyClients,
        _ => RefusalReason::Other,
    }
}

/// One server of those that serve all organizations said that the key is another's: it is a node of a cluster.
pub(super) fn not_in_a_cluster(failed: Failed) -> Failed {
    use ServerErrorKind::{Ask, CrossSlot, Moved};
    match &failed {
        Failed::Asking(error)
            if matches!(error.kind(), ErrorKind::Server(Moved | Ask | CrossSlot)) =>
        {
            let reason = CLUSTER_NODE.to_owned();
            Failed::Known(StoreError::Unsuitable { reason })
        }
        _ => failed,
    }
}

/// Why none of several servers is of use: the failure that tells most, an answer rather than none.
pub(super) fn most_specific(failures: Vec<StoreError>, context: &str) -> StoreError {
    let rank = |error: &StoreError| match error {
        StoreError::Unsuitable { .. } => 2,
        StoreError::Refused { .. } => 1,
        _ => 0,
    };
    let most = failures.iter().map(rank).max().unwrap_or_default();
    let mut telling = failures.into_iter().filter(|error| rank(error) == most);
    match telling.next() {
        None => StoreError::Unreachable {
            reason: context.to_owned(),
        },
        Some(StoreError::Unreachable { reason } | StoreError::OutcomeUnknown { reason }) => {
            let mut reasons = vec![reason];
            for error in telling {
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

#[cfg(test)]
mod tests {
    use std::io;

    use redis::parse_redis_value;

    use super::*;

    /// An error as Redis says it on the wire.
    fn answer(text: &str) -> RedisError {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("a reply");
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn each_of_redis_refusals_has_its_word_and_proves_that_nothing_was_written() {
        use RefusalReason as H;
        for (said, word) in [
            ("OOM allow-oom flag is not set on the script", H::Full),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                H::CannotSave,
            ),
            ("BUSY Redis is busy running a script.", H::Busy),
            ("LOADING Redis is loading the dataset in memory", H::Loading),
            (
                "READONLY You can't write against a read only replica.",
                H::ReadOnly,
            ),
            ("MASTERDOWN Link with MASTER is down", H::CutOff),
            (
                "NOREPLICAS Not enough good replicas to write.",
                H::TooFewReplicas,
            ),
            ("CLUSTERDOWN The cluster is down", H::Incomplete),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                H::Moving,
            ),
            (
                "NOPERM this user has no permissions to run the 'eval' command",
                H::NoRight,
            ),
            ("NOAUTH Authentication required.", H::NotLoggedIn),
            ("WRONGPASS invalid username-password pair", H::NotLoggedIn),
            ("ERR max number of clients reached", H::TooManyClients),
            ("ERR unknown command 'EVALSHA'", H::Other),
        ] {
            for failed in [
                Failed::Asking(answer(said)),
                Failed::Connecting(answer(said)),
            ] {
                match store_error(&failed) {
                    StoreError::Refused { why, .. } => assert_eq!(why, word, "{said}"),
                    other => panic!("{said}: {other}"),
                }
            }
        }
    }

    #[test]
    fn a_database_number_at_a_node_of_a_cluster_gets_the_hint_that_it_is_one() {
        let said = "ERR SELECT is not allowed in cluster mode";
        let error = store_error(&Failed::Connecting(answer(said)));
        let reason = CLUSTER_NODE.to_owned();
        assert_eq!(error, StoreError::Unsuitable { reason });
    }

    #[test]
    fn a_script_that_failed_on_its_way_may_have_written() {
        let said = "OOM command not allowed when used memory > 'maxmemory'. script: 8ac1, on @user_script:7.";
        let error = store_error(&Failed::Asking(answer(said)));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_ours_is_corrupt() {
        for said in ["CORRUPT usage: abc", "WRONGTYPE Operation against a key"] {
            let error = store_error(&Failed::Asking(answer(said)));
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_connection_that_breaks_tells_nothing_and_one_that_never_was_proves_that_nothing_was_written()
     {
        let broken = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let error = store_error(&Failed::Asking(broken()));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
        let error = store_error(&Failed::Connecting(broken()));
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
}
