//! What an operator can set, from flags, environment, a file and defaults, in that order of
//! precedence. Owns the defaults. A file is taken whole or not at all.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{
    document::{Entry, Faults, Section},
    ledger::OnStoreFailure,
    store::redis::{RedisConfig, RedisUrl, Timeouts},
};

/// The flags of `tollgate serve`, each also an environment variable.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Where to serve gRPC [default: 127.0.0.1:50051]
    #[arg(long, env = "TOLLGATE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where to serve HTTP: probes and the dashboard [default: 127.0.0.1:9464]
    #[arg(long, env = "TOLLGATE_HTTP_LISTEN", value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Where the counters are.
    #[arg(
        long,
        help = "Where the counters are: memory: or redis://[user:password@]host[:port][/db] \
                [default: memory:]",
        env = "TOLLGATE_STORE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub store: Option<String>,
    /// The policy file [default: the built-in policy]
    #[arg(long, env = "TOLLGATE_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The settings file (TOML)
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What Reserve answers when the store can't be asked [default: error]
    #[arg(long, env = "TOLLGATE_ON_STORE_FAILURE", value_name = "WHAT")]
    pub on_store_failure: Option<OnStoreFailure>,
    /// How to log: human, json, or auto (human on a terminal) [default: auto]
    #[arg(long, env = "TOLLGATE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines, as tracing's filter says it, such as debug or tollgate=debug [default: info]
    #[arg(long, env = "TOLLGATE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl ValueEnum for OnStoreFailure {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Error, Self::Billed]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Self::Error => "error".into(),
            Self::Billed => "billed".into(),
        })
    }
}

/// The settings in force, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to serve gRPC.
    pub listen: String,
    /// Where to serve HTTP.
    pub http_listen: String,
    /// Where the counters are.
    pub store: StoreChoice,
    /// The policy file; none: the built-in policy.
    pub policy: Option<PathBuf>,
    /// What Reserve answers when the store can't be asked.
    pub on_store_failure: OnStoreFailure,
    /// How to log.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log: String,
    /// After SIGTERM: how long to go on serving as NOT_SERVING, so that load balancers can follow.
    pub drain_delay: Duration,
    /// After SIGTERM: when to exit at the latest.
    pub grace_period: Duration,
    /// How many days usage is kept after its day.
    pub usage_retention_days: u32,
}

/// Where the counters are.
#[derive(Debug, Clone)]
pub enum StoreChoice {
    /// In this process; forgotten when it ends.
    Memory,
    /// In Redis.
    Redis(Box<RedisConfig>),
}

/// Settings that can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// A flag or an environment variable has a fault.
    #[error("{name}: {fault}")]
    Flag {
        /// The flag.
        name: &'static str,
        /// What is wrong.
        fault: String,
    },
}

/// What a settings file says; what it leaves out is `None`.
#[derive(Debug, Default)]
struct FileSettings {
    listen: Option<String>,
    http_listen: Option<String>,
    store: Option<StoreKind>,
    policy: Option<PathBuf>,
    on_store_failure: Option<OnStoreFailure>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    drain_delay: Option<Duration>,
    grace_period: Option<Duration>,
    usage_retention_days: Option<u32>,
    key_prefix: Option<String>,
    connect_timeout: Option<Duration>,
    response_timeout: Option<Duration>,
}

#[derive(Debug)]
enum StoreKind {
    Memory,
    Redis(RedisUrl),
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Settings {
    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    ///
    /// The file can't be read, or anything in it or in a flag is wrong.
    pub fn load(args: ServeArgs) -> Result<Self, SettingsError> {
        let file = match &args.config {
            None => FileSettings::default(),
            Some(path) => {
                let text =
                    fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
                        path: path.clone(),
                        source,
                    })?;
                crate::document::read(&path.display().to_string(), &text, |root| {
                    Some(file_settings(root))
                })?
            }
        };
        let store = match &args.store {
            None => file.store,
            Some(text) => Some(store_kind(text).map_err(|fault| SettingsError::Flag {
                name: "--store",
                fault,
            })?),
        };
        let usage_retention_days = file.usage_retention_days.unwrap_or(35);
        let store = match store {
            None | Some(StoreKind::Memory) => StoreChoice::Memory,
            Some(StoreKind::Redis(url)) => StoreChoice::Redis(Box::new(RedisConfig {
                url,
                key_prefix: file.key_prefix.unwrap_or_else(|| "tollgate:".to_owned()),
                timeouts: Timeouts {
                    connect: file.connect_timeout.unwrap_or(Duration::from_millis(500)),
                    response: file.response_timeout.unwrap_or(Duration::from_millis(500)),
                },
                usage_retention_days,
            })),
        };
        let listen = args.listen.or(file.listen);
        let http_listen = args.http_listen.or(file.http_listen);
        let on_store_failure = args.on_store_failure.or(file.on_store_failure);
        Ok(Self {
            listen: listen.unwrap_or_else(|| "127.0.0.1:50051".to_owned()),
            http_listen: http_listen.unwrap_or_else(|| "127.0.0.1:9464".to_owned()),
            store,
            policy: args.policy.or(file.policy),
            on_store_failure: on_store_failure.unwrap_or(OnStoreFailure::Error),
            log_format: args
                .log_format
                .or(file.log_format)
                .unwrap_or(LogFormat::Auto),
            log: args.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            drain_delay: file.drain_delay.unwrap_or(Duration::from_secs(2)),
            grace_period: file.grace_period.unwrap_or(Duration::from_secs(25)),
            usage_retention_days,
        })
    }
}

fn file_settings(root: &Section<'_>) -> FileSettings {
    root.only(&[
        "listen",
        "http_listen",
        "store",
        "policy",
        "on_store_failure",
        "log_format",
        "log",
        "drain_delay",
        "grace_period",
        "usage_retention",
        "redis",
    ]);
    let text = |key| {
        root.get(key)
            .and_then(|entry| entry.text())
            .map(str::to_owned)
    };
    let mut file = FileSettings {
        listen: text("listen"),
        http_listen: text("http_listen"),
        store: root.get("store").and_then(|entry| store_setting(&entry)),
        policy: text("policy").map(PathBuf::from),
        on_store_failure: root
            .get("on_store_failure")
            .and_then(|entry| choice(&entry)),
        log_format: root.get("log_format").and_then(|entry| choice(&entry)),
        log: text("log"),
        drain_delay: root.get("drain_delay").and_then(|entry| entry.duration()),
        grace_period: root.get("grace_period").and_then(|entry| entry.duration()),
        usage_retention_days: root
            .get("usage_retention")
            .and_then(|entry| retention(&entry)),
        ..FileSettings::default()
    };
    if let Some(redis) = root.section("redis") {
        redis.only(&["key_prefix", "connect_timeout", "response_timeout"]);
        file.key_prefix = redis.get("key_prefix").and_then(|entry| key_prefix(&entry));
        file.connect_timeout = redis
            .get("connect_timeout")
            .and_then(|entry| timeout(&entry));
        file.response_timeout = redis
            .get("response_timeout")
            .and_then(|entry| timeout(&entry));
    }
    file
}

fn choice<T: ValueEnum>(entry: &Entry<'_>) -> Option<T> {
    let text = entry.text()?;
    let chosen = T::from_str(text, false).ok();
    if chosen.is_none() {
        let values = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = values
            .map(|value| format!("{:?}", value.get_name()))
            .collect();
        entry.fault(format!("{text:?} is none of {}", names.join(", ")));
    }
    chosen
}

fn store_setting(entry: &Entry<'_>) -> Option<StoreKind> {
    store_kind(entry.text()?)
        .map_err(|fault| entry.fault(fault))
        .ok()
}

/// Reads `memory:` or a Redis URL. The text may hold a password, so faults don't repeat it.
fn store_kind(text: &str) -> Result<StoreKind, String> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    match scheme {
        Some("memory") if text == "memory:" => Ok(StoreKind::Memory),
        Some("redis") => Ok(StoreKind::Redis(RedisUrl::parse(text)?)),
        Some(scheme @ ("file" | "rediss" | "redis+sentinel" | "redis+cluster")) => Err(format!(
            "this version does not have the store {scheme}: yet; there are memory: and redis://"
        )),
        _ => Err("is none of memory: and redis://[user:password@]host[:port][/db]".to_owned()),
    }
}

/// Not in a key's hash tag, and no control characters.
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
