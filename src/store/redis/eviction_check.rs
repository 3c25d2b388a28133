//! Refuses a Redis that can't keep the counters: it may evict them, is too old, or is a node of a cluster.
//!
//! Each probe sends INFO, since an operator can change the policy at any time. If the user lacks `+info`, the
//! store is used all the same, and the log warns once.

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

/// The oldest version that accepts the scripts' first line, `#!lua`.
const MIN_MAJOR_VERSION: u32 = 7;

pub(super) struct EvictionCheck {
    unsafe_eviction: UnsafeEviction,
    logged: Mutex<Suitability>,
}

/// What INFO says about a Redis. Of several servers the greatest counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Suitability {
    Suitable,
    /// The user may not run INFO.
    Unknown,
    /// The policy evicts, but memory has no limit.
    WouldEvict(String),
    /// It may delete counters.
    Evicts(String),
    /// It can't run the scripts.
    TooOld(String),
    /// The URL names a single server, and this is a node of a cluster.
    ClusterNode,
}

impl EvictionCheck {
    pub(super) fn new(unsafe_eviction: UnsafeEviction) -> Self {
        Self {
            unsafe_eviction,
            logged: Mutex::new(Suitability::Suitable),
        }
    }

    /// Checks that all servers that answer are suitable. `keys` has a key of each.
    pub(super) async fn check(
        &self,
        client: &RedisClient,
        keys: &[String],
    ) -> Result<(), StoreError> {
        let found = join_all(keys.iter().map(|key| query_info(client, key))).await;
        let Some(worst) = found.iter().flatten().max() else {
            // If none answers, any of the failures will do.
            return found.into_iter().try_for_each(|failed| failed.map(drop));
        };
        self.log(worst);
        let reason = match worst {
            Suitability::ClusterNode => CLUSTER_NODE,
            Suitability::Evicts(reason) if self.unsafe_eviction == UnsafeEviction::Refuse => reason,
            Suitability::TooOld(reason) => reason,
            _ => return Ok(()),
        };
        let reason = reason.to_owned();
        Err(StoreError::Unsuitable { reason })
    }

    /// Logs a change. The caller logs refusals.
    fn log(&self, found: &Suitability) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if *logged == *found {
            return;
        }
        match found {
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
            Suitability::Suitable
                if matches!(*logged, Suitability::WouldEvict(_) | Suitability::Evicts(_)) =>
            {
                tracing::info!("Redis does not evict any more");
            }
            _ => {}
        }
        *logged = found.clone();
    }
}

async fn query_info(client: &RedisClient, key: &str) -> Result<Suitability, StoreError> {
    let command = redis::cmd("INFO");
    match retry_if_cut(|| client.read(key, &command)).await {
        Ok(reply) => Ok(match redis::from_redis_value::<String>(reply) {
            Ok(info) => suitability(&info, client.is_sharded()),
            Err(_) => Suitability::Unknown,
        }),
        Err(failed) if is_info_denied(&failed) => Ok(Suitability::Unknown),
        Err(failed) => Err(failed.into()),
    }
}

/// The user lacks `+info`, or the provider disabled INFO.
fn is_info_denied(failed: &SendError) -> bool {
    let SendError::Rejected(error) = failed else {
        return false;
    };
    let words = error.detail().unwrap_or_default();
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) || words.contains("unknown command")
}

/// Judges a reply to INFO. A missing field is no reason to refuse.
fn suitability(info: &str, is_sharded: bool) -> Suitability {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    };
    let is_node = field("redis_mode") == Some("cluster") || field("cluster_enabled") == Some("1");
    if is_node && !is_sharded {
        return Suitability::ClusterNode;
    }
    if let Some(version) = field("redis_version") {
        let major = version.split('.').next().unwrap_or_default().parse::<u32>();
        if major.is_ok_and(|major| major < MIN_MAJOR_VERSION) {
            return Suitability::TooOld(format!(
                "Redis is version {version}, and {MIN_MAJOR_VERSION}.0 or later is needed"
            ));
        }
    }
    let policy = field("maxmemory_policy").unwrap_or_default();
    // All our keys expire, so a policy for volatile keys evicts them too.
    if !policy.starts_with("allkeys-") && !policy.starts_with("volatile-") {
        return Suitability::Suitable;
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

    #[test]
    fn a_later_version_and_a_field_that_info_leaves_out_are_no_reason_to_refuse() {
        for info in [
            "# Server\r\nredis_version:10.0.0\r\nmaxmemory:1048576\r\nmaxmemory_policy:noeviction\r\n",
            "redis_version:7.0.0\r\nmaxmemory_human:1M\r\n",
            "redis_version:unknown\r\n",
            "",
        ] {
            assert_eq!(suitability(info, false), Suitability::Suitable, "{info}");
        }
    }
}
