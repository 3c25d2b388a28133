//! The settings of the service. A flag takes precedence over the environment, the environment over the settings file,
//! the file over the default. A file is accepted or refused as a whole.
//!
//! A new setting is a field of [`Settings`] and a line in `Settings::read` with its key and its default. A setting that
//! changes from day to day is also a flag in [`ServeArgs`], which gives it a variable.

pub(crate) mod args;
mod envoy;
mod error;
mod file;
mod metrics;
mod notify;
mod reconcile;

use std::{path::PathBuf, time::Duration};

use self::file::{choice, timeout};
pub use self::{args::ServeArgs, error::SettingsError};
use crate::{
    envoy::EnvoySettings,
    files::{
        read::read_once,
        toml::{self, Entry, Section},
    },
    grpc::ReflectionFor,
    ledger::{GaugedOrganizations, OnStoreFailure},
    net::{Limits, ListenerTls},
    notify::WebhookUrl,
    policy::{DEFAULT_FILE_BYTES, FILE_BYTES},
    reconcile::ReconcileSettings,
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
    /// Passwords that the store does not use, and why not.
    unused_passwords: Vec<(&'static str, &'static str)>,
    /// The policy file; none: the built-in policy.
    pub policy: Option<PathBuf>,
    /// The size of the largest policy file.
    pub policy_bytes: u64,
    /// The callers file; none: everyone may do everything.
    pub callers: Option<PathBuf>,
    /// Who may call server reflection.
    pub reflection: ReflectionFor,
    /// Whether the HTTP port serves the RPCs as JSON.
    pub http_api: bool,
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
    /// Which of Envoy's services are served, and how.
    pub envoy: EnvoySettings,
    /// Which organizations are compared with the provider all the time; none: no organization is.
    pub reconcile: Option<ReconcileSettings>,
    /// Where notifications are posted; none: they are only logged.
    pub notify_url: Option<WebhookUrl>,
    /// The organizations that have gauges.
    pub gauged: GaugedOrganizations,
}

/// Where the counters are. The setting `store` alone has only the URL of a Redis.
#[derive(Debug, Clone)]
pub enum StoreChoice<R = Box<RedisConfig>> {
    /// In this process; lost when it ends.
    Memory,
    /// In this file, which one process has open.
    File(PathBuf),
    /// In Redis.
    Redis(R),
}

const DEFAULT_FILE: &str = "./tollgate.db";

const MAX_GRACE_PERIOD: Duration = Duration::from_secs(60 * 60);

/// The size of the largest settings file.
const MAX_BYTES: u64 = 1 << 20;

impl Settings {
    /// Combines flags, environment, file and defaults.
    ///
    /// # Errors
    ///
    /// The file can't be read, or a value in it, in a flag or in the environment is wrong.
    pub fn load(flags: ServeArgs) -> Result<Self, SettingsError> {
        let store_name = flags.store.as_ref().map_or("TOLLGATE_STORE", |_| "--store");
        let flags = flags.or_environment()?;
        let store = flags.store.as_deref().map(StoreChoice::parse).transpose();
        let store = store.map_err(|fault| SettingsError::value(store_name, fault))?;
        let config = flags.config.as_deref();
        let name = config.map_or_else(String::new, |path| path.display().to_string());
        let bytes = config.map_or(Ok(Vec::new()), |path| read_once(path, MAX_BYTES));
        let file = format!("the settings file {name}");
        let bytes = bytes.map_err(|error| SettingsError::value(&file, error))?;
        toml::read(&name, &bytes, |root| Some(Self::read(flags, store, root)))?
    }

    fn read(
        flags: ServeArgs,
        store: Option<StoreChoice<RedisUrl>>,
        root: &Section<'_>,
    ) -> Result<Self, SettingsError> {
        let in_file = root.get("store", |entry| entry.parse(StoreChoice::parse));
        let default_file = || StoreChoice::File(PathBuf::from(DEFAULT_FILE));
        let store = store.or(in_file).unwrap_or_else(default_file);
        let url = match &store {
            StoreChoice::Redis(url) => Some(url),
            StoreChoice::Memory | StoreChoice::File(_) => None,
        };
        let usage_limits = file::usage_limits(root);
        let redis = root.section("redis");
        let unused_passwords = file::unused_passwords(&redis, url);
        let redis = file::redis(&redis, url, usage_limits);
        let (limits, waiting_decisions) = file::bounds(&root.section("bounds"));
        let notify_url = notify::receiver(&root.section("notify"));
        let text = |flag: Option<String>, key, default: &str| {
            let in_file = root.get(key, Entry::value);
            flag.or(in_file).unwrap_or_else(|| default.to_owned())
        };
        let on_store_failure = root.get_or("on_store_failure", OnStoreFailure::Error, choice);
        let policy_bytes = root.get_or("policy_bytes", DEFAULT_FILE_BYTES, |it| {
            it.number(*FILE_BYTES.start(), *FILE_BYTES.end())
        });
        let otlp_endpoint = root.get("otlp_endpoint", Entry::value);
        let log_format = root.get_or("log_format", LogFormat::Auto, choice);
        let mut settings = Self {
            listen: text(flags.listen, "listen", "127.0.0.1:50051"),
            http_listen: text(flags.http_listen, "http_listen", "127.0.0.1:9464"),
            // Redis follows below, with its section.
            store: match store {
                StoreChoice::Memory | StoreChoice::Redis(_) => StoreChoice::Memory,
                StoreChoice::File(path) => StoreChoice::File(path),
            },
            unused_passwords,
            policy: flags.policy.or(root.get("policy", Entry::value)),
            policy_bytes: flags.policy_bytes.unwrap_or(policy_bytes),
            callers: flags.callers.or(root.get("callers", Entry::value)),
            reflection: root.get_or("reflection", ReflectionFor::Everyone, choice),
            http_api: root.get_or("http_api", false, Entry::flag),
            on_store_failure: flags.on_store_failure.unwrap_or(on_store_failure),
            call_timeout: root.get_or("call_timeout", Duration::from_secs(1), timeout),
            log_format: flags.log_format.unwrap_or(log_format),
            log: text(flags.log, "log", "info"),
            otlp_endpoint: flags.otlp_endpoint.or(otlp_endpoint),
            trace_ratio: root.get_or("trace_ratio", 0.0, Entry::share),
            drain_delay: root.get_or("drain_delay", Duration::from_secs(2), Entry::duration),
            grace_period: root.get_or("grace_period", Duration::from_secs(25), Entry::duration),
            usage_limits,
            tls: file::tls(root, WatchedFile::Tls),
            http_tls: file::tls(root, WatchedFile::HttpTls),
            limits,
            waiting_decisions,
            envoy: envoy::settings(&root.section("envoy")),
            reconcile: reconcile::settings(root, usage_limits.retention_days),
            // It follows below, as Redis: an error of the variable is not one of the file.
            notify_url: None,
            gauged: metrics::organizations(&root.section("metrics")),
        };
        root.finish();
        settings.notify_url = notify_url?;
        if let Some(config) = redis? {
            settings.store = StoreChoice::Redis(Box::new(config));
        }
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

    /// Warns of passwords that are not used, and of unknown variables `TOLLGATE_…`: after a misspelling the default is
    /// in force.
    pub fn log_warnings(&self) {
        args::warn_of_unknown_variables(&keys());
        for (name, why) in &self.unused_passwords {
            let is_variable = name.starts_with("TOLLGATE_");
            let variable = is_variable.then_some(name);
            let setting = (!is_variable).then_some(name);
            tracing::warn!(variable, setting, "{why}");
        }
    }
}

/// Every key of the settings file, with its section before it.
fn keys() -> Vec<String> {
    let settings = |root: &Section<'_>| Settings::read(ServeArgs::default(), None, root).ok();
    toml::keys("[tls]\n[http_tls]\n[reconcile]\n", settings)
}

impl StoreChoice<RedisUrl> {
    /// Reads `file:PATH`, `memory:` or a Redis URL. The text may hold a password, so faults don't repeat it.
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("file", "")) => Err("names no file: file:PATH".to_owned()),
            Some(("file", path)) => Ok(Self::File(PathBuf::from(path))),
            Some((scheme, _)) if scheme.starts_with("redis") => {
                RedisUrl::parse(text).map(Self::Redis)
            }
            _ => Err(
                "is none of file:PATH, memory: and redis://[user:password@]host[:port][/db]"
                    .to_owned(),
            ),
        }
    }
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
            ("TOLLGATE_RECONCILE_EVERY", "reconcile.every"),
        ] {
            assert!(args::nearest_known(name).is_some());
            assert_eq!(file_setting(name, &keys).map(String::as_str), Some(key));
        }
        assert_eq!(file_setting("TOLLGATE_STROE", &keys), None);
    }
}
