//! The settings file's schema, walked by hand so that every fault is reported at once.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;

use super::{SettingsError, chosen, listeners};
use crate::{
    files::toml::{Entry, Section},
    grpc::access::ReflectionFor,
    ledger::OnStoreFailure,
    net::{GRPC_TLS, HTTP_TLS, Limits, ListenerTls},
    store::redis::{Login, Password, RedisUrl, UnsafeEviction},
    telemetry::logs::LogFormat,
    telemetry::traces::OtlpEndpoint,
};

/// The keys outside of sections, and the sections.
const KEYS: &[&str] = &[
    "listen",
    "http_listen",
    "store",
    "policy",
    "callers",
    "reflection",
    "on_store_failure",
    "call_timeout",
    "log_format",
    "log",
    "otlp_endpoint",
    "trace_ratio",
    "drain_delay",
    "grace_period",
    "usage_retention",
    "usage_rows",
    "redis",
    "tls",
    "http_tls",
    "bounds",
];

/// The keys of `[redis]`.
const REDIS_KEYS: &[&str] = &[
    "key_prefix",
    "connect_timeout",
    "response_timeout",
    "unsafe_eviction",
    "wait_replicas",
    "ca_file",
    "cert_file",
    "key_file",
    "username",
    "password",
    "password_file",
    "database",
    "sentinel_user",
    "sentinel_password",
];

/// Every key, with its section before it.
pub(super) fn keys() -> impl Iterator<Item = String> {
    let sections = [
        ("", KEYS),
        ("redis.", REDIS_KEYS),
        ("tls.", listeners::TLS_KEYS),
        ("http_tls.", listeners::TLS_KEYS),
        ("bounds.", listeners::BOUNDS_KEYS),
    ];
    let keys = |(section, keys): (&'static str, &'static [&'static str])| {
        keys.iter().map(move |key| format!("{section}{key}"))
    };
    sections.into_iter().flat_map(keys)
}

/// What a settings file says; what it leaves out is `None`.
#[derive(Debug, Default)]
pub(super) struct FileSettings {
    pub(super) listen: Option<String>,
    pub(super) http_listen: Option<String>,
    pub(super) store: Option<StoreKind>,
    pub(super) policy: Option<PathBuf>,
    pub(super) callers: Option<PathBuf>,
    pub(super) reflection: Option<ReflectionFor>,
    pub(super) on_store_failure: Option<OnStoreFailure>,
    pub(super) call_timeout: Option<Duration>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log: Option<String>,
    pub(super) otlp_endpoint: Option<OtlpEndpoint>,
    pub(super) trace_ratio: Option<f64>,
    pub(super) drain_delay: Option<Duration>,
    pub(super) grace_period: Option<Duration>,
    pub(super) usage_retention_days: Option<u32>,
    pub(super) usage_rows: Option<u64>,
    pub(super) redis: RedisSettings,
    pub(super) tls: Option<ListenerTls>,
    pub(super) http_tls: Option<ListenerTls>,
    pub(super) limits: Limits,
    pub(super) waiting_decisions: Option<usize>,
}

/// The section `[redis]`.
#[derive(Debug, Default)]
pub(super) struct RedisSettings {
    pub(super) key_prefix: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) response_timeout: Option<Duration>,
    pub(super) unsafe_eviction: Option<UnsafeEviction>,
    pub(super) wait_replicas: Option<u16>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) login: RedisLoginSettings,
    pub(super) sentinel_login: Login,
}

/// How to log in to Redis, as far as the file says it.
#[derive(Default)]
pub(super) struct RedisLoginSettings {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) database: Option<i64>,
}

impl fmt::Debug for RedisLoginSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLoginSettings").finish_non_exhaustive()
    }
}

/// Which store, and where.
#[derive(Debug)]
pub(super) enum StoreKind {
    Memory,
    File(PathBuf),
    Redis(RedisUrl),
}

/// More replicas than anybody has.
const MAX_WAIT_REPLICAS: u64 = 100;

/// Redis counts its databases with 32 bits.
const MAX_DATABASE: u64 = i32::MAX as u64;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl FileSettings {
    /// Reads a file, whole or not at all.
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let name = path.display().to_string();
        Ok(crate::files::toml::read(&name, &text, |root| {
            Some(file_settings(root))
        })?)
    }
}

impl StoreKind {
    /// Reads `file:PATH`, `memory:` or a Redis URL. The text may hold a password, so faults don't repeat it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some("memory") if text == "memory:" => Ok(Self::Memory),
            Some("file") => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
                _ => Err("names no file: file:PATH".to_owned()),
            },
            Some(scheme) if scheme.starts_with("redis") => Ok(Self::Redis(RedisUrl::parse(text)?)),
            _ => Err(
                "is none of file:PATH, memory: and redis://[user:password@]host[:port][/db]"
                    .to_owned(),
            ),
        }
    }
}

fn file_settings(root: &Section<'_>) -> FileSettings {
    root.only(KEYS);
    let text = |key| {
        root.get(key)
            .and_then(|entry| entry.trimmed_text())
            .map(str::to_owned)
    };
    let mut file = FileSettings {
        listen: text("listen"),
        http_listen: text("http_listen"),
        store: root.get("store").and_then(|entry| store_setting(&entry)),
        policy: text("policy").map(PathBuf::from),
        callers: text("callers").map(PathBuf::from),
        reflection: root.get("reflection").and_then(|entry| choice(&entry)),
        on_store_failure: root
            .get("on_store_failure")
            .and_then(|entry| choice(&entry)),
        call_timeout: root.get("call_timeout").and_then(|entry| timeout(&entry)),
        log_format: root.get("log_format").and_then(|entry| choice(&entry)),
        log: text("log"),
        otlp_endpoint: root.get("otlp_endpoint").and_then(|entry| endpoint(&entry)),
        trace_ratio: root.get("trace_ratio").and_then(|entry| entry.share()),
        drain_delay: root.get("drain_delay").and_then(|entry| entry.duration()),
        grace_period: root.get("grace_period").and_then(|entry| entry.duration()),
        usage_retention_days: root
            .get("usage_retention")
            .and_then(|entry| retention(&entry)),
        usage_rows: root
            .get("usage_rows")
            .and_then(|entry| entry.number(2, MAX_USAGE_ROWS)),
        ..FileSettings::default()
    };
    if let Some(redis) = root.section("redis") {
        file.redis = redis_settings(&redis);
    }
    file.tls = listeners::tls(root, &GRPC_TLS);
    file.http_tls = listeners::tls(root, &HTTP_TLS);
    if let Some(section) = root.section("bounds") {
        file.limits = listeners::limits(&section);
        file.waiting_decisions = listeners::waiting_decisions(&section);
    }
    file
}

fn redis_settings(redis: &Section<'_>) -> RedisSettings {
    redis.only(REDIS_KEYS);
    let text = |key| {
        let entry = redis.get(key)?;
        Some(entry.trimmed_text()?.to_owned())
    };
    let time = |key| redis.get(key).and_then(|entry| timeout(&entry));
    RedisSettings {
        key_prefix: redis.get("key_prefix").and_then(|entry| key_prefix(&entry)),
        connect_timeout: time("connect_timeout"),
        response_timeout: time("response_timeout"),
        unsafe_eviction: redis
            .get("unsafe_eviction")
            .and_then(|entry| choice(&entry)),
        wait_replicas: redis
            .get("wait_replicas")
            .and_then(|entry| entry.number(0, MAX_WAIT_REPLICAS))
            .and_then(|count| u16::try_from(count).ok()),
        ca_file: text("ca_file").map(PathBuf::from),
        cert_file: text("cert_file").map(PathBuf::from),
        key_file: text("key_file").map(PathBuf::from),
        login: RedisLoginSettings {
            username: text("username"),
            password: text("password"),
            password_file: text("password_file").map(PathBuf::from),
            database: redis
                .get("database")
                .and_then(|entry| entry.number(0, MAX_DATABASE))
                .and_then(|number| i64::try_from(number).ok()),
        },
        sentinel_login: Login {
            username: text("sentinel_user"),
            password: text("sentinel_password").map(Password::Text),
            database: None,
        },
    }
}

fn choice<T: ValueEnum>(entry: &Entry<'_>) -> Option<T> {
    chosen(entry.trimmed_text()?)
        .map_err(|fault| entry.fault(fault))
        .ok()
}

fn store_setting(entry: &Entry<'_>) -> Option<StoreKind> {
    StoreKind::parse(entry.trimmed_text()?)
        .map_err(|fault| entry.fault(fault))
        .ok()
}

fn endpoint(entry: &Entry<'_>) -> Option<OtlpEndpoint> {
    let endpoint = entry.trimmed_text()?.parse();
    endpoint.map_err(|fault: String| entry.fault(fault)).ok()
}

/// Not in a key's hash tag, and no control characters. It is not trimmed: under another prefix counters begin at zero.
fn key_prefix(entry: &Entry<'_>) -> Option<String> {
    let prefix = entry.text()?;
    if prefix.contains(['{', '}']) || prefix.chars().any(char::is_control) {
        entry
            .fault("must not hold braces (the organization is the hash tag) or control characters");
        return None;
    }
    Some(prefix.to_owned())
}

fn timeout(entry: &Entry<'_>) -> Option<Duration> {
    let timeout = entry.duration()?;
    if timeout.is_zero() || timeout > Duration::from_secs(60) {
        entry.fault("must be more than 0 and at most 60s");
        return None;
    }
    Some(timeout)
}

/// More rows than that make listing a day's usage slow.
const MAX_USAGE_ROWS: u64 = 1_000_000;

/// At least a day: a reservation can be settled until the end of the day after its own.
fn retention(entry: &Entry<'_>) -> Option<u32> {
    let retention = entry.duration()?;
    let days = u32::try_from(retention.as_secs() / DAY.as_secs()).ok();
    let whole = days.filter(|days| DAY.saturating_mul(*days) == retention);
    let whole = whole.filter(|days| (1..=3660).contains(days));
    if whole.is_none() {
        entry.fault("must be whole days, 1day to 3660days");
    }
    whole
}
