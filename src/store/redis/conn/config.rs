//! The configuration of the Redis store.

use std::time::Duration;

use super::{
    login::Login,
    url::{RedisUrl, Topology},
};
use crate::{store::UsageLimits, tls::TlsFiles};

/// How to reach Redis, and how to use it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Its URL.
    pub url: RedisUrl,
    /// The files of a connection over TLS.
    pub tls: TlsFiles,
    /// How to log in to sentinels.
    pub sentinel_login: Login,
    /// The prefix of every key.
    pub key_prefix: String,
    /// How long Redis may take.
    pub timeouts: Timeouts,
    /// How many replicas of Redis must have a decision before it is answered.
    pub wait_replicas: u16,
    /// How much of the usage history is kept.
    pub usage_limits: UsageLimits,
    /// Whether a Redis that may evict counters is used.
    pub unsafe_eviction: UnsafeEviction,
}

/// How long Redis may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To connect and log in.
    pub connect: Duration,
    /// To answer a command.
    pub response: Duration,
}

/// Whether a Redis that may evict counters is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UnsafeEviction {
    /// No call is answered by it.
    Refuse,
    /// It is used; the log warns.
    Warn,
}

impl RedisConfig {
    /// The commands that are sent outside scripts.
    pub(crate) fn commands_beside_scripts(&self) -> Vec<&'static str> {
        let mut commands = Vec::new();
        match self.url.topology {
            Topology::One => {}
            Topology::Sentinel(_) => commands.push("role"),
            Topology::Cluster => commands.extend(["cluster|slots", "asking"]),
        }
        if self.url.login.database.unwrap_or(0) != 0 {
            commands.push("select");
        }
        if self.wait_replicas > 0 {
            commands.push("wait");
        }
        commands
    }
}
