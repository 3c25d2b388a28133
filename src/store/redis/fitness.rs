//! Whether a Redis may be trusted with the counters at all: one that evicts would delete them.
//!
//! Asked with INFO at every probe, since an operator can change it at any time. A user without the right
//! to INFO (`+info`) is served all the same: the log says, once, that it can't be known.

use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use redis::{ErrorKind, ServerErrorKind};

use super::{
    errors::{CLUSTER_NODE, store_error},
    link::{Failed, again_if_cut},
    links::Links,
};
use crate::store::StoreError;

/// What to do with a Redis that may evict what Tollgate counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UnsafeEviction {
    /// No call is answered by it.
    Refuse,
    /// It is used; the log warns.
    Warn,
}

/// The oldest version that knows the scripts' first line.
const OLDEST_MAJOR: u32 = 7;

/// Asks, and tells the log what changed.
pub(super) struct Fitness {
    unsafe_eviction: UnsafeEviction,
    /// What the log was told last.
    told: Mutex<Finding>,
}

/// What INFO says of a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// Nothing against it.
    Fit,
    /// The user may not ask.
    Unknown,
    /// A policy that would evict, where a limit would make it.
    WouldEvict(String),
    /// It may delete what was counted.
    Evicts(String),
    /// It can't run the scripts.
    TooOld(String),
    /// It has some of the organizations, and is to have all.
    ClusterNode,
}

impl Fitness {
    pub(super) fn new(unsafe_eviction: UnsafeEviction) -> Self {
        Self {
            unsafe_eviction,
            told: Mutex::new(Finding::Fit),
        }
    }

    /// Whether all servers that answer are fit: a key of each is given.
    pub(super) async fn check(&self, links: &Links, keys: &[String]) -> Result<(), StoreError> {
        let found = join_all(keys.iter().map(|key| ask(links, key))).await;
        // Where none answers, the first one's failure tells as much as another's.
        let (found, failures): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        let worst = found.into_iter().flatten().max_by_key(Finding::weight);
        let Some(finding) = worst else {
            return failures
                .into_iter()
                .next()
                .map_or(Ok(()), |failed| failed.map(drop));
        };
        self.tell(&finding);
        match finding {
            Finding::ClusterNode => {
                let reason = CLUSTER_NODE.to_owned();
                Err(StoreError::Unsuitable { reason })
            }
            Finding::Evicts(reason) if self.unsafe_eviction == UnsafeEviction::Refuse => {
                Err(StoreError::Unsuitable { reason })
            }
            Finding::TooOld(reason) => Err(StoreError::Unsuitable { reason }),
            Finding::Fit | Finding::Unknown | Finding::WouldEvict(_) | Finding::Evicts(_) => Ok(()),
        }
    }

    /// Tells the log what changed. What is refused, whoever asks tells.
    fn tell(&self, finding: &Finding) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == *finding {
            return;
        }
        match finding {
            Finding::Unknown => tracing::warn!(
                "whether Redis may evict counters can't be known: its user lacks the right +info"
            ),
            Finding::WouldEvict(reason) => tracing::warn!(reason, "Redis has a risky setting"),
            Finding::Evicts(reason) if self.unsafe_eviction == UnsafeEviction::Warn => {
                tracing::warn!(
                    reason,
                    "UNSAFE: what Redis evicts is granted again, and is served all the same \
                     (redis.unsafe_eviction = \"warn\")"
                );
            }
            Finding::Fit if matches!(*told, Finding::WouldEvict(_) | Finding::Evicts(_)) => {
                tracing::info!("Redis does not evict any more");
            }
            Finding::Fit | Finding::Evicts(_) | Finding::TooOld(_) | Finding::ClusterNode => {}
        }
        *told = finding.clone();
    }
}

impl Finding {
    /// Of two findings, the one that weighs more is told.
    fn weight(&self) -> u8 {
        match self {
            Self::Fit => 0,
            Self::Unknown => 1,
            Self::WouldEvict(_) => 2,
            Self::Evicts(_) => 3,
            Self::TooOld(_) => 4,
            Self::ClusterNode => 5,
        }
    }
}

async fn ask(links: &Links, key: &str) -> Result<Finding, StoreError> {
    let command = redis::cmd("INFO");
    match again_if_cut(|| links.read(key, &command)).await {
        Ok(reply) => match redis::from_redis_value::<String>(reply) {
            Ok(info) if !links.are_many() && is_of_a_cluster(&info) => Ok(Finding::ClusterNode),
            Ok(info) => Ok(judge(&info)),
            Err(_) => Ok(Finding::Unknown),
        },
        Err(failed) if may_not_ask(&failed) => Ok(Finding::Unknown),
        Err(failed) => Err(store_error(&failed)),
    }
}

/// Without the right to INFO, or where a provider has taken INFO away.
fn may_not_ask(failed: &Failed) -> bool {
    let Failed::Asking(error) = failed else {
        return false;
    };
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => error
            .detail()
            .is_some_and(|said| said.contains("unknown command")),
        _ => false,
    }
}

/// Whether a reply to INFO is a cluster node's.
fn is_of_a_cluster(info: &str) -> bool {
    let signs = ["redis_mode:cluster", "cluster_enabled:1"];
    info.lines().any(|line| signs.contains(&line.trim_end()))
}

/// What a reply to INFO says. What it leaves out is nothing against it.
fn judge(info: &str) -> Finding {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    };
    if let Some(version) = field("redis_version") {
        let major = version.split('.').next().unwrap_or_default().parse::<u32>();
        if major.is_ok_and(|major| major < OLDEST_MAJOR) {
            return Finding::TooOld(format!(
                "Redis is version {version}, and {OLDEST_MAJOR}.0 or later is needed"
            ));
        }
    }
    let policy = field("maxmemory_policy").unwrap_or_default();
    // Every key of ours expires, so a policy for volatile keys is one for them.
    if !policy.starts_with("allkeys-") && !policy.starts_with("volatile-") {
        return Finding::Fit;
    }
    if field("maxmemory").is_none_or(|limit| limit == "0") {
        return Finding::WouldEvict(format!(
            "maxmemory-policy is {policy}: with a maxmemory it would delete counters"
        ));
    }
    Finding::Evicts(format!(
        "maxmemory-policy is {policy}: it may delete counters; it must be noeviction"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, limit: &str, policy: &str) -> Finding {
        judge(&format!(
            "# Server\r\nredis_version:{version}\r\n# Memory\r\nmaxmemory:{limit}\r\n\
             maxmemory_human:0B\r\nmaxmemory_policy:{policy}\r\n"
        ))
    }

    #[test]
    fn a_policy_that_may_delete_our_keys_is_unsafe_where_there_is_a_limit() {
        for policy in [
            "allkeys-lru",
            "allkeys-random",
            "volatile-ttl",
            "volatile-lfu",
        ] {
            let found = info("7.0.15", "1048576", policy);
            assert!(matches!(found, Finding::Evicts(why) if why.contains(policy)));
            let found = info("7.0.15", "0", policy);
            assert!(matches!(found, Finding::WouldEvict(why) if why.contains(policy)));
        }
        for limit in ["0", "1048576"] {
            assert_eq!(info("7.0.15", limit, "noeviction"), Finding::Fit);
        }
    }

    #[test]
    fn a_server_that_is_too_old_for_the_scripts_is_refused() {
        for old in ["6.2.14", "5.0.7"] {
            let found = info(old, "0", "noeviction");
            assert!(matches!(found, Finding::TooOld(why) if why.contains(old)));
        }
        for new in ["7.0.0", "7.4.1", "8.2.0", "10.0.0"] {
            assert_eq!(info(new, "0", "noeviction"), Finding::Fit);
        }
    }

    #[test]
    fn what_info_leaves_out_is_nothing_against_a_redis() {
        assert_eq!(judge(""), Finding::Fit);
        assert_eq!(judge("redis_version:unknown\r\n"), Finding::Fit);
    }
}
