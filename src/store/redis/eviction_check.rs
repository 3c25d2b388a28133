//! Whether a Redis may be trusted with the counters at all: one that evicts would delete them.
//!
//! Asked with INFO at every probe, since an operator can change it at any time. A user without the right
//! to INFO (`+info`) is served all the same: the log says, once, that it can't be known.

use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use redis::{ErrorKind, ServerErrorKind};

use super::conn::{
    RedisClient,
    config::UnsafeEviction,
    connection::retry_if_cut,
    errors::{CLUSTER_NODE, SendError},
};
use crate::store::StoreError;

/// The oldest version that knows the scripts' first line.
const OLDEST_MAJOR: u32 = 7;

/// Asks, and tells the log what changed.
pub(super) struct EvictionCheck {
    unsafe_eviction: UnsafeEviction,
    /// What the log was told last.
    told: Mutex<Suitability>,
}

/// What INFO says of a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Suitability {
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

impl EvictionCheck {
    pub(super) fn new(unsafe_eviction: UnsafeEviction) -> Self {
        Self {
            unsafe_eviction,
            told: Mutex::new(Suitability::Fit),
        }
    }

    /// Whether all servers that answer are fit: a key of each is given.
    pub(super) async fn check(
        &self,
        client: &RedisClient,
        keys: &[String],
    ) -> Result<(), StoreError> {
        let found = join_all(keys.iter().map(|key| ask(client, key))).await;
        // Where none answers, the first one's failure tells as much as another's.
        let (found, failures): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        let worst = found.into_iter().flatten().max_by_key(Suitability::weight);
        let Some(finding) = worst else {
            return failures
                .into_iter()
                .next()
                .map_or(Ok(()), |failed| failed.map(drop));
        };
        self.tell(&finding);
        match finding {
            Suitability::ClusterNode => {
                let reason = CLUSTER_NODE.to_owned();
                Err(StoreError::Unfit { reason })
            }
            Suitability::Evicts(reason) if self.unsafe_eviction == UnsafeEviction::Refuse => {
                Err(StoreError::Unfit { reason })
            }
            Suitability::TooOld(reason) => Err(StoreError::Unfit { reason }),
            Suitability::Fit
            | Suitability::Unknown
            | Suitability::WouldEvict(_)
            | Suitability::Evicts(_) => Ok(()),
        }
    }

    /// Tells the log what changed. What is refused, whoever asks tells.
    fn tell(&self, finding: &Suitability) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == *finding {
            return;
        }
        match finding {
            Suitability::Unknown => tracing::warn!(
                "whether Redis may evict counters can't be known: its user lacks the right +info"
            ),
            Suitability::WouldEvict(reason) => tracing::warn!(reason, "Redis has a risky setting"),
            Suitability::Evicts(reason) if self.unsafe_eviction == UnsafeEviction::Warn => {
                tracing::warn!(
                    reason,
                    "UNSAFE: what Redis evicts is granted again, and is served all the same \
                     (redis.unsafe_eviction = \"warn\")"
                );
            }
            Suitability::Fit
                if matches!(*told, Suitability::WouldEvict(_) | Suitability::Evicts(_)) =>
            {
                tracing::info!("Redis does not evict any more");
            }
            Suitability::Fit
            | Suitability::Evicts(_)
            | Suitability::TooOld(_)
            | Suitability::ClusterNode => {}
        }
        *told = finding.clone();
    }
}

impl Suitability {
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

async fn ask(client: &RedisClient, key: &str) -> Result<Suitability, StoreError> {
    let command = redis::cmd("INFO");
    match retry_if_cut(|| client.read(key, &command)).await {
        Ok(reply) => match redis::from_redis_value::<String>(reply) {
            Ok(info) if !client.is_sharded() && is_of_a_cluster(&info) => {
                Ok(Suitability::ClusterNode)
            }
            Ok(info) => Ok(judge(&info)),
            Err(_) => Ok(Suitability::Unknown),
        },
        Err(failed) if may_not_ask(&failed) => Ok(Suitability::Unknown),
        Err(failed) => Err(failed.into()),
    }
}

/// Without the right to INFO, or where a provider has taken INFO away.
fn may_not_ask(failed: &SendError) -> bool {
    let SendError::Rejected(error) = failed else {
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
fn judge(info: &str) -> Suitability {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    };
    if let Some(version) = field("redis_version") {
        let major = version.split('.').next().unwrap_or_default().parse::<u32>();
        if major.is_ok_and(|major| major < OLDEST_MAJOR) {
            return Suitability::TooOld(format!(
                "Redis is version {version}, and {OLDEST_MAJOR}.0 or later is needed"
            ));
        }
    }
    let policy = field("maxmemory_policy").unwrap_or_default();
    // Every key of ours expires, so a policy for volatile keys is one for them.
    if !policy.starts_with("allkeys-") && !policy.starts_with("volatile-") {
        return Suitability::Fit;
    }
    if field("maxmemory").is_none_or(|limit| limit == "0") {
        return Suitability::WouldEvict(format!(
            "maxmemory-policy is {policy}: with a maxmemory it would delete counters"
        ));
    }
    Suitability::Evicts(format!(
        "maxmemory-policy is {policy}: it may delete counters; it must be noeviction"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, limit: &str, policy: &str) -> Suitability {
        judge(&format!(
            "# Server\r\nredis_version:{version}\r\n# Snapshots\r\nmaxmemory:{limit}\r\n\
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
            assert!(matches!(found, Suitability::Evicts(why) if why.contains(policy)));
            let found = info("7.0.15", "0", policy);
            assert!(matches!(found, Suitability::WouldEvict(why) if why.contains(policy)));
        }
        for limit in ["0", "1048576"] {
            assert_eq!(info("7.0.15", limit, "noeviction"), Suitability::Fit);
        }
    }

    #[test]
    fn a_server_that_is_too_old_for_the_scripts_is_refused() {
        for old in ["6.2.14", "5.0.7"] {
            let found = info(old, "0", "noeviction");
            assert!(matches!(found, Suitability::TooOld(why) if why.contains(old)));
        }
        for new in ["7.0.0", "7.4.1", "8.2.0", "10.0.0"] {
            assert_eq!(info(new, "0", "noeviction"), Suitability::Fit);
        }
    }

    #[test]
    fn what_info_leaves_out_is_nothing_against_a_redis() {
        assert_eq!(judge(""), Suitability::Fit);
        assert_eq!(judge("redis_version:unknown\r\n"), Suitability::Fit);
    }
}
