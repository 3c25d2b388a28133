//! The settings of the service. A flag takes precedence over the environment, the environment over the settings file,
//! the file over the default. A file is accepted or refused as a whole.
//!
//! A new setting is a field of [`Settings`] and a line in [`Settings::load`] with its key and its default. A setting
//! that changes from day to day is also a flag in [`ServeArgs`], which gives it a variable.

pub(crate) mod args;
mod error;
mod file;

use std::{cell::RefCell, fs, path::PathBuf, time::Duration};

pub use self::{args::ServeArgs, error::SettingsError, file::UnusedPassword};
use self::{
    args::{variable, variable_name},
    file::{RedisSettings, choice, retention, timeout},
};
use crate::{
    files::toml::{self, Entry, Section},
    grpc::ReflectionFor,
    ledger::OnStoreFailure,
    net::{Limits, ListenerTls},
    store::{
        UsageLimits,
        redis::{RedisConfig, RedisUrl},
    },
    telemetry::{logs::LogFormat, metrics::WatchedFile, traces::OtlpEndpoint},
};

/// The settings in force, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to serve gRPC.
    pub listen: String,
    /// Where to serve HTTP.
    pub http_listen: String,
    /// Where the counters are.
    pub store: StoreChoice,
    /// Passwords that the store does not use.
    pub unused_passwords: Vec<UnusedPassword>,
    /// The policy file; none: the built-in policy.
    pub policy: Option<PathBuf>,
    /// The callers file; none: everyone may do everything.
    pub callers: Option<PathBuf>,
    /// Who may call server reflection.
    pub reflection: ReflectionFor,
    /// What Reserve answers during an outage of the store.
    pub on_store_failure: OnStoreFailure,
    /// How long a call without a deadline may wait for the store.
    pub call_timeout: Duration,
    /// How to log.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log: String,
    /// Where to send traces; none: there are no traces.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// The share of calls to trace, 0 to 1, of those whose callers have no trace. Otherwise the caller decides.
    pub trace_ratio: f64,
    /// After SIGTERM: how long to keep serving as NOT_SERVING, so that load balancers can react.
    pub drain_delay: Duration,
    /// After SIGTERM: when to exit at the latest.
    pub grace_period: Duration,
    /// How much of the usage history is kept.
    pub usage_limits: UsageLimits,
    /// TLS of gRPC; none: plaintext.
    pub tls: Option<ListenerTls>,
    /// TLS of HTTP; none: plaintext.
    pub http_tls: Option<ListenerTls>,
    /// What callers may take.
    pub limits: Limits,
    /// How many decisions may wait for the store.
    pub waiting_decisions: usize,
}

/// Where the counters are.
#[derive(Debug, Clone)]
pub enum StoreChoice {
    /// In this process; lost when it ends.
    Memory,
    /// In this file, which one process has open.
    File(PathBuf),
    /// In Redis.
    Redis(Box<RedisConfig>),
}

/// The parsed setting `store`.
enum StoreUrl {
    Memory,
    File(PathBuf),
    Redis(RedisUrl),
}

const DEFAULT_FILE: &str = "./tollgate.db";

const MAX_GRACE_PERIOD: Duration = Duration::from_secs(60 * 60);

/// More rows make listing a day's usage slow.
const MAX_USAGE_ROWS: u64 = 1_000_000;

impl Settings {
    /// Combines flags, environment, file and defaults.
    ///
    /// # Errors
    ///
    /// The file can't be read, or a value in it, in a flag or in the environment is wrong.
    pub fn load(flags: ServeArgs) -> Result<Self, SettingsError> {
        let path = match &flags.config {
            Some(path) => Some(path.clone()),
            None => variable(&variable_name("config"))?.map(PathBuf::from),
        };
        let (name, bytes) = match path {
            None => (String::new(), Vec::new()),
            Some(path) => {
                let name = path.display().to_string();
                let read = fs::read(&path);
                let bytes = read.map_err(|source| SettingsError::Unreadable { path, source })?;
                (name, bytes)
            }
        };
        toml::read(&name, &bytes, |root| Some(Self::read(flags, root)))?
    }

    fn read(flags: ServeArgs, root: &Section<'_>) -> Result<Self, SettingsError> {
        let sources = Sources::new(root);
        let usage_limits = usage_limits(root);
        let redis = RedisSettings::read(&root.section("redis"));
        let store = sources.store(flags.store);
        let unused_passwords = redis.unused_passwords(match &store {
            Some(StoreUrl::Redis(url)) => Some(url),
            _ => None,
        });
        let store = match store {
            Some(StoreUrl::Redis(url)) => {
                let config = sources.check(redis.into_config(url, usage_limits));
                config.map_or(StoreChoice::Memory, |config| {
                    StoreChoice::Redis(Box::new(config))
                })
            }
            Some(StoreUrl::Memory) => StoreChoice::Memory,
            Some(StoreUrl::File(path)) => StoreChoice::File(path),
            None => StoreChoice::File(PathBuf::from(DEFAULT_FILE)),
        };
        let (limits, waiting_decisions) = file::bounds(&root.section("bounds"));
        let settings = Self {
            listen: sources
                .get("listen", flags.listen, text)
                .unwrap_or_else(|| "127.0.0.1:50051".to_owned()),
            http_listen: sources
                .get("http_listen", flags.http_listen, text)
                .unwrap_or_else(|| "127.0.0.1:9464".to_owned()),
            store,
            unused_passwords,
            policy: sources.get("policy", flags.policy, path),
            callers: sources.get("callers", flags.callers, path),
            reflection: root
                .get("reflection", |entry| entry.parse(choice))
                .unwrap_or(ReflectionFor::Everyone),
            on_store_failure: sources
                .get("on_store_failure", flags.on_store_failure, choice)
                .unwrap_or(OnStoreFailure::Error),
            call_timeout: root
                .get("call_timeout", timeout)
                .unwrap_or(Duration::from_secs(1)),
            log_format: sources
                .get("log_format", flags.log_format, choice)
                .unwrap_or(LogFormat::Auto),
            log: sources
                .get("log", flags.log, text)
                .unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: sources.get("otlp_endpoint", flags.otlp_endpoint, str::parse),
            trace_ratio: root.get("trace_ratio", Entry::share).unwrap_or(0.0),
            drain_delay: root
                .get("drain_delay", Entry::duration)
                .unwrap_or(Duration::from_secs(2)),
            grace_period: root
                .get("grace_period", Entry::duration)
                .unwrap_or(Duration::from_secs(25)),
            usage_limits,
            tls: file::tls(root, WatchedFile::Tls),
            http_tls: file::tls(root, WatchedFile::HttpTls),
            limits,
            waiting_decisions,
        };
        root.finish();
        sources.error.take().map_or(Ok(()), Err)?;
        settings.check()
    }

    /// Checks settings against each other.
    fn check(self) -> Result<Self, SettingsError> {
        if self.reflection == ReflectionFor::Callers && self.callers.is_none() {
            let fault = "\"callers\" needs a callers file: callers = \"FILE\"";
            return Err(SettingsError::value("reflection", fault));
        }
        if self.grace_period > MAX_GRACE_PERIOD {
            return Err(SettingsError::value("grace_period", "must be at most 1h"));
        }
        if self.drain_delay >= self.grace_period {
            let fault = "must be less than grace_period, which open calls share";
            return Err(SettingsError::value("drain_delay", fault));
        }
        Ok(self)
    }
}

fn usage_limits(root: &Section<'_>) -> UsageLimits {
    let default = UsageLimits::default();
    let days = root.get("usage_retention", retention);
    let rows = root.get("usage_rows", |entry| entry.number(2, MAX_USAGE_ROWS));
    UsageLimits {
        retention_days: days.unwrap_or(default.retention_days),
        max_rows: rows.unwrap_or(default.max_rows),
    }
}

/// Warns of each unknown variable `TOLLGATE_…`: after a misspelling the default is in force.
pub fn warn_of_unknown_variables() {
    args::warn_of_unknown_variables(&keys());
}

/// Every key of the settings file, with its section before it.
fn keys() -> Vec<String> {
    toml::keys("[tls]\n[http_tls]\n", |root| {
        // Only the keys matter, not the values.
        let _ = Settings::read(ServeArgs::default(), root);
    })
}

/// The sources of a setting, in the order of their precedence: its flag, its variable, and its key in the file.
struct Sources<'d> {
    root: &'d Section<'d>,
    /// The first fault of a flag or variable. Those of the file are reported to the section.
    error: RefCell<Option<SettingsError>>,
}

impl<'d> Sources<'d> {
    fn new(root: &'d Section<'d>) -> Self {
        Self {
            root,
            error: RefCell::new(None),
        }
    }

    fn get<T>(
        &self,
        key: &'static str,
        flag: Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let in_file = self.root.get(key, |entry| entry.parse(&parse));
        let name = variable_name(key);
        let in_variable = || {
            let parse =
                |text: String| parse(&text).map_err(|fault| SettingsError::value(&name, fault));
            variable(&name)?.map(parse).transpose()
        };
        flag.or_else(|| self.check(in_variable()).flatten())
            .or(in_file)
    }

    fn store(&self, flag: Option<String>) -> Option<StoreUrl> {
        let flag = flag.map(|text| {
            let parsed = StoreUrl::parse(&text);
            parsed.map_err(|fault| SettingsError::value("--store", fault))
        });
        let flag = flag.and_then(|parsed| self.check(parsed));
        self.get("store", flag, StoreUrl::parse)
    }

    fn check<T>(&self, result: Result<T, SettingsError>) -> Option<T> {
        let mut first = self.error.borrow_mut();
        result.map_err(|error| first.get_or_insert(error)).ok()
    }
}

impl StoreUrl {
    /// Reads `file:PATH`, `memory:` or a Redis URL. The text may hold a password, so faults don't repeat it.
    fn parse(text: &str) -> Result<Self, String> {
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

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::{args::file_setting, *};

    #[test]
    fn a_variable_for_a_setting_of_the_file_only_is_reported_with_that_setting() {
        let keys = keys();
        for (name, key) in [
            ("TOLLGATE_REDIS_PASSWORD_FILE", "redis.password_file"),
            ("TOLLGATE_CALL_TIMEOUT", "call_timeout"),
            ("TOLLGATE_TLS_CERT_FILE", "tls.cert_file"),
            ("TOLLGATE_HTTP_TLS_KEY_FILE", "http_tls.key_file"),
            ("TOLLGATE_BOUNDS_CONNECTIONS", "bounds.connections"),
        ] {
            assert!(args::nearest_known(name).is_some());
            assert_eq!(file_setting(name, &keys), Some(key));
        }
        assert_eq!(file_setting("TOLLGATE_STROE", &keys), None);
    }
}
