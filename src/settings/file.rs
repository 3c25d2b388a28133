//! The sections of the settings file, and the parsers of its values.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

use super::{
    args::{REDIS_PASSWORD, SENTINEL_PASSWORD, variable},
    error::SettingsError,
};
use crate::{
    files::toml::{Entry, Section},
    ledger::Ledger,
    net::{ClientCertificates, Limits, ListenerTls},
    store::{
        UsageLimits,
        redis::{Login, Password, RedisConfig, RedisUrl, Timeouts, TlsFiles, UnsafeEviction},
    },
    telemetry::metrics::WatchedFile,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a section of TLS, if there is one.
pub(super) fn tls(root: &Section<'_>, file: WatchedFile) -> Option<ListenerTls> {
    let section = root.get(file.into(), Entry::section)?;
    let client_ca_file = section.entry("client_ca_file");
    let client_certificates = section.get("client_certificates", |entry| {
        if client_ca_file.is_none() {
            entry.fault("needs client_ca_file beside it: whose certificates?");
        }
        entry.parse(choice)
    });
    let client_ca_file = client_ca_file.and_then(|entry| path(&entry));
    let cert_file = section.require("cert_file", path);
    let key_file = section.require("key_file", path);
    section.finish();
    Some(ListenerTls {
        section: file,
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificates: client_certificates.unwrap_or(ClientCertificates::Required),
    })
}

/// Reads the limits on callers. An absent key has its default.
pub(super) fn bounds(section: &Section<'_>) -> (Limits, usize) {
    fn number<T: TryFrom<u64>>(
        section: &Section<'_>,
        key: &'static str,
        default: T,
        (min, max): (u64, u64),
    ) -> T {
        let given = section.get(key, |entry| entry.number(min, max));
        given.unwrap_or(default)
    }
    let time = |key, default, max| {
        let given = section.get(key, |entry| time(entry, max));
        given.unwrap_or(default)
    };
    let default = Limits::default();
    let limits = Limits {
        // The largest legal message is under 2 KiB.
        message_bytes: number(
            section,
            "message_bytes",
            default.message_bytes,
            (2 * KIB, MIB),
        ),
        header_list_bytes: number(
            section,
            "header_list_bytes",
            default.header_list_bytes,
            (KIB, MIB),
        ),
        streams_per_connection: number(
            section,
            "streams_per_connection",
            default.streams_per_connection,
            (1, 100_000),
        ),
        connections: number(section, "connections", default.connections, (16, 1_000_000)),
        handshake_time: time("handshake_time", default.handshake_time, 60 * SECOND),
        idle_time: time("idle_time", default.idle_time, 7 * DAY),
        connection_age: time("connection_age", default.connection_age, 7 * DAY),
    };
    // Two of the largest batches at least.
    let waiting = number(
        section,
        "waiting_decisions",
        Ledger::MAX_WAITING,
        (KIB, MIB),
    );
    section.finish();
    (limits, waiting)
}

/// The section `[redis]`.
pub(super) struct RedisSettings {
    key_prefix: String,
    timeouts: Timeouts,
    unsafe_eviction: UnsafeEviction,
    wait_replicas: u16,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    login: RedisLogin,
    sentinel_login: Login,
}

/// The login of Redis in the file. The URL may have one too.
struct RedisLogin {
    username: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    database: Option<i64>,
}

/// A password that is set, but not used by the store. Mostly `store` is missing or wrong then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusedPassword {
    name: &'static str,
    why: &'static str,
}

impl UnusedPassword {
    /// Logs a warning.
    pub fn warn(self) {
        let Self { name, why } = self;
        let is_variable = name.starts_with("TOLLGATE_");
        let variable = is_variable.then_some(name);
        let setting = (!is_variable).then_some(name);
        tracing::warn!(variable, setting, "{why}");
    }
}

/// More than any Redis has in practice.
const MAX_WAIT_REPLICAS: u64 = 100;

/// Redis counts its databases with 32 bits.
const MAX_DATABASE: u64 = i32::MAX as u64;

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

impl RedisSettings {
    pub(super) fn read(redis: &Section<'_>) -> Self {
        let time = |key| redis.get(key, timeout).unwrap_or(DEFAULT_TIMEOUT);
        let prefix = redis.get("key_prefix", key_prefix);
        let eviction = redis.get("unsafe_eviction", |entry| entry.parse(choice));
        let replicas = redis.get("wait_replicas", |entry| entry.number(0, MAX_WAIT_REPLICAS));
        let settings = Self {
            key_prefix: prefix.unwrap_or_else(|| "tollgate:".to_owned()),
            timeouts: Timeouts {
                connect: time("connect_timeout"),
                response: time("response_timeout"),
            },
            unsafe_eviction: eviction.unwrap_or(UnsafeEviction::Refuse),
            wait_replicas: replicas.unwrap_or(0),
            ca_file: redis.get("ca_file", path),
            cert_file: redis.get("cert_file", path),
            key_file: redis.get("key_file", path),
            login: RedisLogin {
                username: redis.get("username", text),
                password: redis.get("password", text),
                password_file: redis.get("password_file", path),
                database: redis
                    .get("database", |entry| entry.number::<u32>(0, MAX_DATABASE))
                    .map(i64::from),
            },
            sentinel_login: Login {
                username: redis.get("sentinel_user", text),
                password: redis.get("sentinel_password", text).map(Password::Text),
                database: None,
            },
        };
        redis.finish();
        settings
    }

    /// The passwords that are set, but not used by this store.
    pub(super) fn unused_passwords(&self, store: Option<&RedisUrl>) -> Vec<UnusedPassword> {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let (login, sentinels) = (&self.login, &self.sentinel_login);
        let passwords = [
            (REDIS_PASSWORD, is_set(REDIS_PASSWORD), false),
            (SENTINEL_PASSWORD, is_set(SENTINEL_PASSWORD), true),
            ("redis.password", login.password.is_some(), false),
            ("redis.password_file", login.password_file.is_some(), false),
            (
                "redis.sentinel_password",
                sentinels.password.is_some(),
                true,
            ),
        ];
        let unused = passwords
            .into_iter()
            .filter_map(|(name, is_set, for_sentinels)| {
                let why = match store {
                    None => "a password for Redis is set, and the store is not Redis",
                    Some(url) if for_sentinels && !url.has_sentinels() => {
                        "a password for sentinels is set, and no sentinels watch the store"
                    }
                    Some(_) => return None,
                };
                is_set.then_some(UnusedPassword { name, why })
            });
        unused.collect()
    }

    /// Combines the settings with the URL. A setting that does not apply to the URL is an error: it would be ignored,
    /// and what it should protect would be unprotected.
    pub(super) fn into_config(
        self,
        url: RedisUrl,
        usage_limits: UsageLimits,
    ) -> Result<RedisConfig, SettingsError> {
        let tls = tls_files(&url, self.ca_file, self.cert_file, self.key_file)?;
        let sentinel_login = with_sentinel_password(&url, self.sentinel_login)?;
        let login = merged_login(&url, self.login)?;
        Ok(RedisConfig {
            url: RedisUrl { login, ..url },
            tls,
            sentinel_login,
            key_prefix: self.key_prefix,
            timeouts: self.timeouts,
            wait_replicas: self.wait_replicas,
            usage_limits,
            unsafe_eviction: self.unsafe_eviction,
        })
    }
}

fn wrong<T>(name: &'static str, fault: &str) -> Result<T, SettingsError> {
    Err(SettingsError::value(name, fault))
}

fn tls_files(
    url: &RedisUrl,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
) -> Result<TlsFiles, SettingsError> {
    for (name, file) in [
        ("redis.ca_file", &ca_file),
        ("redis.cert_file", &cert_file),
        ("redis.key_file", &key_file),
    ] {
        if file.is_some() && !url.is_encrypted {
            return wrong(name, "is for a store that is reached over TLS: rediss://…");
        }
    }
    let client = match (cert_file, key_file) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return wrong("redis.cert_file", "needs redis.key_file beside it"),
        (None, Some(_)) => return wrong("redis.key_file", "needs redis.cert_file beside it"),
    };
    Ok(TlsFiles { ca_file, client })
}

fn with_sentinel_password(url: &RedisUrl, mut login: Login) -> Result<Login, SettingsError> {
    if login != Login::default() && !url.has_sentinels() {
        let name = "redis.sentinel_password";
        return wrong(
            name,
            "is for a store that sentinels watch: redis+sentinel://…",
        );
    }
    if let Some(password) = variable(SENTINEL_PASSWORD)? {
        login.password = Some(Password::Text(password));
    }
    if login.username.is_some() && login.password.is_none() {
        return wrong(
            "redis.sentinel_user",
            "needs redis.sentinel_password beside it",
        );
    }
    Ok(login)
}

/// Merges the login of the URL with that of the settings. A value in both is an error: one would be ignored.
fn merged_login(url: &RedisUrl, file: RedisLogin) -> Result<Login, SettingsError> {
    const DUPLICATE: &str = "is set, and the URL of the store names one, too: remove one of them";
    let Login {
        mut username,
        mut password,
        mut database,
    } = url.login.clone();
    let has_user = file.username.is_some();
    if let Some(given) = file.username
        && username.replace(given).is_some()
    {
        return wrong("redis.username", DUPLICATE);
    }
    let variable = variable(REDIS_PASSWORD)?;
    if file.password_file.is_some() {
        let beside = [
            ("redis.password", file.password.is_some()),
            (REDIS_PASSWORD, variable.is_some()),
        ];
        if let Some((other, _)) = beside.into_iter().find(|(_, given)| *given) {
            let fault = format!("is set, and {other}, too: remove one of them");
            return wrong("redis.password_file", &fault);
        }
    }
    let text = |text: String| Some(Password::Text(text));
    let (name, given) = match (variable, file.password, file.password_file) {
        (Some(variable), _, _) => (REDIS_PASSWORD, text(variable)),
        (None, Some(password), _) => ("redis.password", text(password)),
        (None, None, Some(path)) => ("redis.password_file", Some(Password::File(path))),
        (None, None, None) => ("redis.username", None),
    };
    if let Some(given) = given
        && password.replace(given).is_some()
    {
        return wrong(name, DUPLICATE);
    }
    if has_user && password.is_none() {
        return wrong(
            name,
            "names a user without a password: set redis.password, redis.password_file or \
             TOLLGATE_REDIS_PASSWORD",
        );
    }
    if let Some(given) = file.database {
        if url.is_cluster() && given > 0 {
            return wrong("redis.database", "must be 0: a cluster has one database");
        }
        if database.replace(given).is_some() {
            return wrong("redis.database", DUPLICATE);
        }
    }
    Ok(Login {
        username,
        password,
        database,
    })
}

/// Reads the prefix, which must not change the hash tag. Not trimmed: under another prefix counters begin at zero.
fn key_prefix(entry: &Entry<'_>) -> Option<String> {
    let prefix = entry.text()?;
    if prefix.contains(['{', '}']) || prefix.chars().any(char::is_control) {
        entry
            .fault("must not hold braces (the organization is the hash tag) or control characters");
        return None;
    }
    Some(prefix.to_owned())
}

pub(super) fn text(entry: &Entry<'_>) -> Option<String> {
    entry.trimmed().map(str::to_owned)
}

pub(super) fn path(entry: &Entry<'_>) -> Option<PathBuf> {
    entry.trimmed().map(PathBuf::from)
}

pub(super) fn timeout(entry: &Entry<'_>) -> Option<Duration> {
    let timeout = entry.duration()?;
    if timeout.is_zero() || timeout > 60 * SECOND {
        entry.fault("must be more than 0 and at most 60s");
        return None;
    }
    Some(timeout)
}

fn time(entry: &Entry<'_>, max: Duration) -> Option<Duration> {
    let time = entry.duration()?;
    if time < SECOND || time > max {
        let max = humantime::format_duration(max);
        entry.fault(format!("must be 1s to {max}"));
        return None;
    }
    Some(time)
}

/// Reads a number of days. At least one: a reservation can be settled until the end of the following day.
pub(super) fn retention(entry: &Entry<'_>) -> Option<u32> {
    let retention = entry.duration()?;
    let days = u32::try_from(retention.as_secs() / DAY.as_secs()).ok();
    let whole = days.filter(|days| DAY.saturating_mul(*days) == retention);
    let whole = whole.filter(|days| (1..=3660).contains(days));
    if whole.is_none() {
        entry.fault("must be whole days, 1day to 3660days");
    }
    whole
}

/// Parses one of the values of a choice.
pub(super) fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter();
        let values = values.filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = values.map(|it| format!("{:?}", it.get_name())).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}
