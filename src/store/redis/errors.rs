//! What Redis' errors mean for the caller, in the store's own words.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::link::Failed;
use crate::store::{Hindrance, StoreError};

/// What a failure means for the caller. Nothing but a server's own answer, or a connection that never
/// came about, proves that nothing was written.
pub(super) fn store_error(failed: &Failed) -> StoreError {
    let error = match failed {
        // A server that is there, and lets nobody in.
        Failed::Connecting(error) if is_an_answer(error) => return refused(error),
        Failed::Connecting(error) => {
            let reason = error.to_string();
            return StoreError::Unreachable { reason };
        }
        Failed::Asking(error) => error,
    };
    let reason = error.to_string();
    match error.kind() {
        // Our script's own word, and Redis' for a key of another type: no retry mends either.
        ErrorKind::Extension if matches!(error.code(), Some("CORRUPT" | "WRONGTYPE")) => {
            StoreError::Corrupt { reason }
        }
        // The script asks for its rights before it writes.
        ErrorKind::Server(ServerErrorKind::NoPerm) => refused(error),
        // A script that failed on its way may have written before.
        _ if reason.contains("@user_script") => StoreError::NoAnswer { reason },
        _ if is_an_answer(error) => refused(error),
        _ => StoreError::NoAnswer { reason },
    }
}

fn is_an_answer(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
    )
}

fn refused(error: &RedisError) -> StoreError {
    StoreError::Refused {
        why: hindrance(error),
        reason: error.to_string(),
    }
}

/// Redis' first word says which it is. The script says before its first line whether it writes, so Redis
/// finds all of these before anything has run.
fn hindrance(error: &RedisError) -> Hindrance {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Hindrance::NotLoggedIn;
    }
    match error.code() {
        Some("OOM") => Hindrance::Full,
        Some("MISCONF") => Hindrance::CannotSave,
        Some("BUSY") => Hindrance::Busy,
        Some("LOADING") => Hindrance::Loading,
        Some("READONLY") => Hindrance::ReadOnly,
        Some("MASTERDOWN") => Hindrance::CutOff,
        Some("NOREPLICAS") => Hindrance::TooFewReplicas,
        Some("CLUSTERDOWN") => Hindrance::Incomplete,
        Some("TRYAGAIN") => Hindrance::Moving,
        Some("NOPERM") => Hindrance::NoRight,
        Some("NOAUTH" | "WRONGPASS") => Hindrance::NotLoggedIn,
        Some("ERR") if says(error, "max number of clients") => Hindrance::TooManyClients,
        _ => Hindrance::Other,
    }
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|said| said.contains(words))
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
        use Hindrance as H;
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
    fn a_script_that_failed_on_its_way_may_have_written() {
        let said = "OOM command not allowed when used memory > 'maxmemory'. script: 8ac1, on @user_script:7.";
        let error = store_error(&Failed::Asking(answer(said)));
        assert!(matches!(error, StoreError::NoAnswer { .. }), "{error}");
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
        assert!(matches!(error, StoreError::NoAnswer { .. }), "{error}");
        let error = store_error(&Failed::Connecting(broken()));
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
}
