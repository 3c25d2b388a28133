//! The sections of the settings file, and the parsers of its values.

use std::{env, path::PathBuf, time::Duration};

use clap::ValueEnum;

use super::{
    args::{REDIS_PASSWORD, SENTINEL_PASSWORD, parse_choice, variable},
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

pub(super) fn tls(root: &Section<'_>, file: WatchedFile) -> Option<ListenerTls> {
    let section = root.get(file.into(), Entry::section)?;
    let client_ca_file = section.entry("client_ca_file");
    let client_certificates = section.get("client_certificates", |entry| {
        if client_ca_file.is_none() {
            entry.fault("needs client_ca_file beside it: whose certificates?");
        }
        choice(entry)
    });
    let client_ca_file = client_ca_file.and_then(|entry| entry.value());
    let cert_file = section.require("cert_file", Entry::value);
    let key_file = section.require("key_file", Entry::value);
    section.finish();
    Some(ListenerTls {
        section: file,
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificates: client_certificates.unwrap_or(ClientCertificates::Required),
    })
}

/// Sets each field from the key of its name. If the key is absent, the field keeps its default.
macro_rules! set {
    ($fields:ident, $section:ident, $($key:ident: $read:expr;)*) => {
        $($fields.$key = $section.get_or(stringify!($key), $fields.$key, $read);)*
    };
}

/// Reads the limits on callers, and how many decisions may wait.
pub(super) fn bounds(section: &Section<'_>) -> (Limits, usize) {
    let mut limits = Limits::default();
    set!(limits, section,
        // The largest legal message is under 2 KiB.
        message_bytes: |it| it.number(2 * KIB, MIB);
        estimate_bytes: |it| it.number(64 * KIB, 32 * MIB);
        header_list_bytes: |it| it.number(KIB, MIB);
        streams_per_connection: |it| it.number(1, 100_000);
        cancelled_per_second: |it| it.number(10, 1_000_000);
        connections: |it| it.number(16, 1_000_000);
        handshake_time: |it| time(it, 60 * SECOND);
        idle_time: |it| time(it, 7 * DAY);
        connection_age: |it| time(it, 7 * DAY);
    );
    // Two of the largest batches at least.
    let waiting = |it: &Entry<'_>| it.number(KIB, MIB);
    let waiting = section.get_or("waiting_decisions", Ledger::MAX_WAITING, waiting);
    section.finish();
    (limits, waiting)
}

pub(super) fn usage_limits(root: &Section<'_>) -> UsageLimits {
    let default = UsageLimits::default();
    let rows = |it: &Entry<'_>| it.number(2, MAX_USAGE_ROWS);
    UsageLimits {
        retention_days: root.get_or("usage_retention", default.retention_days, retention),
        max_rows: root.get_or("usage_rows", default.max_rows, rows),
    }
}

/// More rows make listing a day's usage slow.
const MAX_USAGE_ROWS: u64 = 1_000_000;

/// More than any Redis has in practice.
const MAX_WAIT_REPLICAS: u64 = 100;

/// Redis counts its databases with 32 bits.
const MAX_DATABASE: u64 = i32::MAX as u64;

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads the section `[redis]`: the configuration, if the store is at a URL of Redis. A setting that does not apply to
/// the URL is an error: it would be ignored, and what it should protect would be unprotected.
pub(super) fn redis(
    section: &Section<'_>,
    url: Option<&RedisUrl>,
    usage_limits: UsageLimits,
) -> Result<Option<RedisConfig>, SettingsError> {
    let timeout = |key| section.get_or(key, DEFAULT_TIMEOUT, timeout);
    let replicas = |it: &Entry<'_>| it.number(0, MAX_WAIT_REPLICAS);
    let wait_replicas = section.get_or("wait_replicas", 0, replicas);
    let key_prefix = section.get_or("key_prefix", "tollgate:".to_owned(), key_prefix);
    let unsafe_eviction = section.get_or("unsafe_eviction", UnsafeEviction::Refuse, choice);
    let timeouts = Timeouts {
        connect: timeout("connect_timeout"),
        response: timeout("response_timeout"),
    };
    let tls = tls_files(section, url);
    let sentinel_login = sentinel_login(section, url);
    let login = login(section, url);
    section.finish();
    let Some(url) = url else {
        return Ok(None);
    };
    Ok(Some(RedisConfig {
        tls: tls?,
        sentinel_login: sentinel_login?,
        url: RedisUrl {
            login: login?,
            ..url.clone()
        },
        key_prefix,
        timeouts,
        wait_replicas,
        usage_limits,
        unsafe_eviction,
    }))
}

/// The passwords that are set, but not used by the store, and why not. Mostly `store` is missing or wrong then.
pub(super) fn unused_passwords(
    redis: &Section<'_>,
    url: Option<&RedisUrl>,
) -> Vec<(&'static str, &'static str)> {
    let for_redis = [REDIS_PASSWORD, "redis.password", "redis.password_file"];
    let for_sentinels = [SENTINEL_PASSWORD, "redis.sentinel_password"];
    let (mut unused, why) = match url {
        None => (
            [&for_redis[..], &for_sentinels].concat(),
            "a password for Redis is set, and the store is not Redis",
        ),
        Some(url) if url.has_sentinels() => return Vec::new(),
        Some(_) => (
            for_sentinels.to_vec(),
            "a password for sentinels is set, and no sentinels watch the store",
        ),
    };
    unused.retain(|name| match name.strip_prefix("redis.") {
        Some(key) => redis.entry(key).is_some(),
        None => env::var_os(name).is_some_and(|value| !value.is_empty()),
    });
    unused.into_iter().map(|name| (name, why)).collect()
}

fn wrong<T>(name: &'static str, fault: &str) -> Result<T, SettingsError> {
    Err(SettingsError::value(name, fault))
}

fn tls_files(section: &Section<'_>, url: Option<&RedisUrl>) -> Result<TlsFiles, SettingsError> {
    let files = ["ca_file", "cert_file", "key_file"].map(|key| section.get(key, Entry::value));
    let names = ["redis.ca_file", "redis.cert_file", "redis.key_file"];
    let mut named = names.iter().zip(&files);
    if let Some((name, _)) = named.find(|(_, file)| file.is_some())
        && url.is_some_and(|url| !url.is_encrypted)
    {
        return wrong(name, "is for a store that is reached over TLS: rediss://…");
    }
    match files {
        [_, Some(_), None] => wrong("redis.cert_file", "needs redis.key_file beside it"),
        [_, None, Some(_)] => wrong("redis.key_file", "needs redis.cert_file beside it"),
        [ca_file, cert, key] => Ok(TlsFiles {
            ca_file,
            client: cert.zip(key),
        }),
    }
}

fn sentinel_login(section: &Section<'_>, url: Option<&RedisUrl>) -> Result<Login, SettingsError> {
    let password = section.get("sentinel_password", Entry::value);
    let mut login = Login {
        username: section.get("sentinel_user", Entry::value),
        password: password.map(Password::Text),
        database: None,
    };
    if login != Login::default() && !url.is_some_and(RedisUrl::has_sentinels) {
        return wrong(
            "redis.sentinel_password",
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

/// Merges the login of the URL with that of the settings.
fn login(section: &Section<'_>, url: Option<&RedisUrl>) -> Result<Login, SettingsError> {
    let username: Option<String> = section.get("username", Entry::value);
    let (text, file) = (
        section.get("password", Entry::value),
        section.get("password_file", Entry::value),
    );
    let database: Option<u32> = section.get("database", |entry| entry.number(0, MAX_DATABASE));
    let (source, password) = password(text, file)?.unzip();
    let in_url = url.map(|url| url.login.clone()).unwrap_or_default();
    let has_user = username.is_some();
    let login = Login {
        username: either("redis.username", in_url.username, username)?,
        password: either(source.unwrap_or_default(), in_url.password, password)?,
        database: either("redis.database", in_url.database, database.map(i64::from))?,
    };
    if has_user && login.password.is_none() {
        return wrong(
            "redis.username",
            "names a user without a password: set redis.password, redis.password_file or \
             TOLLGATE_REDIS_PASSWORD",
        );
    }
    if url.is_some_and(RedisUrl::is_cluster) && login.database > Some(0) {
        return wrong("redis.database", "must be 0: a cluster has one database");
    }
    Ok(login)
}

/// The password of the settings, and the name of its source.
fn password(
    text: Option<String>,
    file: Option<PathBuf>,
) -> Result<Option<(&'static str, Password)>, SettingsError> {
    let variable = variable(REDIS_PASSWORD)?.map(|text| (REDIS_PASSWORD, text));
    let text = variable.or(text.map(|text| ("redis.password", text)));
    match (text, file) {
        (Some((other, _)), Some(_)) => {
            let fault = format!("is set, and {other}, too: remove one of them");
            wrong("redis.password_file", &fault)
        }
        (None, Some(path)) => Ok(Some(("redis.password_file", Password::File(path)))),
        (text, None) => Ok(text.map(|(name, text)| (name, Password::Text(text)))),
    }
}

/// The value of the URL or that of the settings. Of both, one would be ignored.
fn either<T>(
    name: &'static str,
    in_url: Option<T>,
    setting: Option<T>,
) -> Result<Option<T>, SettingsError> {
    if in_url.is_some() && setting.is_some() {
        let fault = "is set, and the URL of the store names one, too: remove one of them";
        return wrong(name, fault);
    }
    Ok(in_url.or(setting))
}

/// Reads the prefix, which must not change the hash tag. Not trimmed: under another prefix counters begin at zero.
fn key_prefix(entry: &Entry<'_>) -> Option<String> {
    let prefix = entry.text()?;
    let is_allowed = |c: char| !matches!(c, '{' | '}') && !c.is_control();
    let prefix = prefix.chars().all(is_allowed).then(|| prefix.to_owned());
    entry.check(
        prefix
            .ok_or("must not hold braces (the organization is the hash tag) or control characters"),
    )
}

pub(super) fn timeout(entry: &Entry<'_>) -> Option<Duration> {
    let timeout = entry.duration()?;
    let is_allowed = !timeout.is_zero() && timeout <= 60 * SECOND;
    let timeout = is_allowed.then_some(timeout);
    entry.check(timeout.ok_or("must be more than 0 and at most 60s"))
}

pub(super) fn time(entry: &Entry<'_>, max: Duration) -> Option<Duration> {
    let time = entry.duration()?;
    let time = (SECOND..=max).contains(&time).then_some(time);
    let fault = || format!("must be 1s to {}", humantime::format_duration(max));
    entry.check(time.ok_or_else(fault))
}

/// Reads a number of days. At least one: a reservation can be settled until the end of the following day.
fn retention(entry: &Entry<'_>) -> Option<u32> {
    let retention = entry.duration()?;
    let days = u32::try_from(retention.as_secs() / DAY.as_secs()).ok();
    let whole = days.filter(|days| DAY.saturating_mul(*days) == retention);
    let whole = whole.filter(|days| (1..=3660).contains(days));
    entry.check(whole.ok_or("must be whole days, 1day to 3660days"))
}

pub(super) fn choice<T: ValueEnum>(entry: &Entry<'_>) -> Option<T> {
    entry.parse(parse_choice)
}
