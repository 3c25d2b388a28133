//! The settings of `[redis]` and the store's URL, put together.

use std::{path::PathBuf, time::Duration};

use super::{
    SettingsError,
    environment::{REDIS_PASSWORD, SENTINEL_PASSWORD, Variable},
    file::{RedisLoginSettings, RedisSettings, StoreKind},
};
use crate::store::{
    UsageLimits,
    redis::{Login, Password, RedisConfig, RedisUrl, Timeouts, TlsFiles, UnsafeEviction},
};

/// A password that is set, and that the store has no use for: mostly the store's own setting is missing then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusedPassword {
    name: &'static str,
    is_variable: bool,
    why: &'static str,
}

impl UnusedPassword {
    /// Warns of it in the log.
    pub fn warn(self) {
        let Self {
            name,
            is_variable,
            why,
        } = self;
        let variable = is_variable.then_some(name);
        let setting = (!is_variable).then_some(name);
        tracing::warn!(variable, setting, "{why}");
    }
}

/// The passwords that are set, and that this store has no use for.
pub(super) fn unused_passwords(
    store: Option<&StoreKind>,
    file: &RedisSettings,
) -> Vec<UnusedPassword> {
    let has_sentinels = match store {
        Some(StoreKind::Redis(url)) => Some(url.has_sentinels()),
        _ => None,
    };
    let unused = |name, is_variable, is_set: bool, for_sentinels| {
        let why = match has_sentinels {
            None => "a password for Redis is set, and the store is not Redis",
            Some(false) if for_sentinels => {
                "a password for sentinels is set, and no sentinels watch the store"
            }
            Some(_) => return None,
        };
        is_set.then_some(UnusedPassword {
            name,
            is_variable,
            why,
        })
    };
    let variable =
        |it: Variable, for_sentinels| unused(it.name(), true, it.is_set(), for_sentinels);
    let RedisLoginSettings {
        password,
        password_file,
        ..
    } = &file.login;
    let sentinel_password = &file.sentinel_login.password;
    let passwords = [
        variable(REDIS_PASSWORD, false),
        variable(SENTINEL_PASSWORD, true),
        unused("redis.password", false, password.is_some(), false),
        unused("redis.password_file", false, password_file.is_some(), false),
        unused(
            "redis.sentinel_password",
            false,
            sentinel_password.is_some(),
            true,
        ),
    ];
    passwords.into_iter().flatten().collect()
}

/// The settings of `[redis]`, with its defaults. One that the URL has no use for is a mistake: what it
/// should protect would go unprotected.
pub(super) fn redis_config(
    url: RedisUrl,
    file: RedisSettings,
    usage_limits: UsageLimits,
) -> Result<RedisConfig, SettingsError> {
    let RedisSettings {
        key_prefix,
        connect_timeout,
        response_timeout,
        unsafe_eviction,
        wait_replicas,
        ca_file,
        cert_file,
        key_file,
        login,
        sentinel_login,
    } = file;
    let tls = tls_files(&url, ca_file, cert_file, key_file)?;
    let sentinel_login = with_sentinel_password(&url, sentinel_login)?;
    let login = merged_login(&url, login)?;
    let half_a_second = Duration::from_millis(500);
    Ok(RedisConfig {
        url: url.with_login(login),
        tls,
        sentinel_login,
        key_prefix: key_prefix.unwrap_or_else(|| "tollgate:".to_owned()),
        timeouts: Timeouts {
            connect: connect_timeout.unwrap_or(half_a_second),
            response: response_timeout.unwrap_or(half_a_second),
        },
        wait_replicas: wait_replicas.unwrap_or(0),
        usage_limits,
        unsafe_eviction: unsafe_eviction.unwrap_or(UnsafeEviction::Refuse),
    })
}

fn wrong<T>(name: &'static str, fault: &str) -> Result<T, SettingsError> {
    let fault = fault.to_owned();
    Err(SettingsError::Value { name, fault })
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
        if file.is_some() && !url.is_encrypted() {
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
    if let Some(password) = SENTINEL_PASSWORD.value()? {
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

/// Who logs in, and where: what the URL says, and what the settings say instead. What is said twice is a mistake:
/// one of the two would be ignored.
fn merged_login(url: &RedisUrl, file: RedisLoginSettings) -> Result<Login, SettingsError> {
    const TWICE: &str = "is set, and the URL of the store names one, too: remove one of them";
    let Login {
        mut username,
        mut password,
        mut database,
    } = url.login().clone();
    let names_user = file.username.is_some();
    if let Some(given) = file.username
        && username.replace(given).is_some()
    {
        return wrong("redis.username", TWICE);
    }
    let variable = REDIS_PASSWORD.value()?;
    if file.password_file.is_some() {
        let beside = [
            ("redis.password", file.password.is_some()),
            (REDIS_PASSWORD.name(), variable.is_some()),
        ];
        if let Some((other, _)) = beside.into_iter().find(|(_, given)| *given) {
            let fault = format!("is set, and {other}, too: remove one of them");
            return wrong("redis.password_file", &fault);
        }
    }
    let text = |text: String| Some(Password::Text(text));
    let (name, given) = match (variable, file.password, file.password_file) {
        (Some(variable), _, _) => (REDIS_PASSWORD.name(), text(variable)),
        (None, Some(password), _) => ("redis.password", text(password)),
        (None, None, Some(path)) => ("redis.password_file", Some(Password::File(path))),
        (None, None, None) => ("redis.username", None),
    };
    if let Some(given) = given
        && password.replace(given).is_some()
    {
        return wrong(name, TWICE);
    }
    if names_user && password.is_none() {
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
            return wrong("redis.database", TWICE);
        }
    }
    Ok(Login {
        username,
        password,
        database,
    })
}
