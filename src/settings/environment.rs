//! The environment variables that the program and what belongs to it read.

use std::{env, env::VarError, ffi::OsStr};

use super::{SettingsError, file};
use crate::files::{read::trimmed, toml::nearest};

/// A variable that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variable(&'static str);

/// Constants, and the list of their names: what is read is known.
macro_rules! variables {
    ($($constant:ident = $name:literal;)*) => {
        $(pub(crate) const $constant: Variable = Variable($name);)*
        const READ: &[&str] = &[$($name),*];
    };
}

variables! {
    LISTEN = "TOLLGATE_LISTEN";
    HTTP_LISTEN = "TOLLGATE_HTTP_LISTEN";
    STORE = "TOLLGATE_STORE";
    POLICY = "TOLLGATE_POLICY";
    CALLERS = "TOLLGATE_CALLERS";
    CONFIG = "TOLLGATE_CONFIG";
    ON_STORE_FAILURE = "TOLLGATE_ON_STORE_FAILURE";
    LOG_FORMAT = "TOLLGATE_LOG_FORMAT";
    LOG = "TOLLGATE_LOG";
    OTLP_ENDPOINT = "TOLLGATE_OTLP_ENDPOINT";
    REDIS_PASSWORD = "TOLLGATE_REDIS_PASSWORD";
    SENTINEL_PASSWORD = "TOLLGATE_REDIS_SENTINEL_PASSWORD";
    // The client's.
    ADDR = "TOLLGATE_ADDR";
    TOKEN = "TOLLGATE_TOKEN";
}

/// Read by the project's own tests.
const READ_BY_TESTS: &[&str] = &[
    "TOLLGATE_CLOCK_FILE",
    "TOLLGATE_LONG",
    "TOLLGATE_PROPERTY_CASES",
    "TOLLGATE_SEED",
    "TOLLGATE_SIMULATIONS",
];

impl Variable {
    pub(crate) const fn name(self) -> &'static str {
        self.0
    }

    pub(super) fn is_set(self) -> bool {
        env::var_os(self.0).is_some_and(|value| !value.is_empty())
    }

    /// Its value, trimmed. An empty variable is an unset one.
    pub(super) fn value(self) -> Result<Option<String>, SettingsError> {
        let value = match env::var(self.0) {
            Ok(value) => trimmed(&value).map(|value| Some(value.to_owned())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
        };
        let value = value.map(|value| value.filter(|value| !value.is_empty()));
        value.map_err(|fault| SettingsError::Value {
            name: self.0,
            fault,
        })
    }
}

/// Warns of each variable of ours that nobody reads: a misspelt one leaves a default in force.
pub fn warn_of_unknown_variables() {
    for (name, _) in env::vars_os() {
        let variable = name.to_string_lossy();
        match (nearest_known(&name), setting(&variable)) {
            (None, _) => {}
            (Some(_), Some(setting)) => tracing::warn!(
                %variable,
                setting,
                "an unknown environment variable is not read; {setting} is a setting of the settings file only"
            ),
            (Some(nearest), None) => tracing::warn!(
                %variable,
                nearest,
                "an unknown environment variable is not read; the nearest known one is {nearest}"
            ),
        }
    }
}

/// The setting of the file that a variable of this name would set.
fn setting(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("TOLLGATE_")?.to_ascii_lowercase();
    file::keys().find(|key| key.replace('.', "_") == name)
}

/// The nearest known variable, where this is an unknown one of ours.
fn nearest_known(name: &OsStr) -> Option<&'static str> {
    let name = name.to_string_lossy();
    let is_known = |name: &str| {
        READ.contains(&name) || READ_BY_TESTS.contains(&name) || name.starts_with("TOLLGATE_TEST_")
    };
    if !name.starts_with("TOLLGATE_") || is_known(&name) || is_service_link(&name) {
        return None;
    }
    nearest(&name, READ)
}

/// Whether Kubernetes sets it in the pods beside a Service that is called `tollgate…`.
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| {
        let (port, rest) = rest.split_once('_').unwrap_or((rest, ""));
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && ["TCP", "UDP", "SCTP"].iter().any(|protocol| {
                let rest = rest.strip_prefix(protocol);
                matches!(rest, Some("" | "_PROTO" | "_PORT" | "_ADDR"))
            })
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name
            .match_indices("_PORT_")
            .any(|(at, sign)| is_port(&name[at + sign.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest_to(name: &str) -> Option<&'static str> {
        nearest_known(OsStr::new(name))
    }

    #[test]
    fn an_unknown_variable_of_ours_has_a_nearest_known_one() {
        assert_eq!(nearest_to("TOLLGATE_STROE"), Some("TOLLGATE_STORE"));
        assert_eq!(
            nearest_to("TOLLGATE_REDIS_PASSWD"),
            Some("TOLLGATE_REDIS_PASSWORD")
        );
        assert!(nearest_to("TOLLGATE_PORT_X_TCP").is_some());
        assert_eq!(nearest_to("REDIS_URL"), None);
    }

    #[test]
    fn a_variable_that_is_a_setting_of_the_file_only_is_told_so() {
        for (name, key) in [
            ("TOLLGATE_REDIS_PASSWORD_FILE", "redis.password_file"),
            ("TOLLGATE_CALL_TIMEOUT", "call_timeout"),
            ("TOLLGATE_TLS_CERT_FILE", "tls.cert_file"),
            ("TOLLGATE_HTTP_TLS_KEY_FILE", "http_tls.key_file"),
            ("TOLLGATE_BOUNDS_CONNECTIONS", "bounds.connections"),
        ] {
            assert!(nearest_to(name).is_some());
            assert_eq!(setting(name).as_deref(), Some(key));
        }
        assert_eq!(setting("TOLLGATE_STROE"), None);
    }

    #[test]
    fn service_links_and_variables_that_others_read_are_no_mistakes() {
        for name in [
            "TOLLGATE_SERVICE_HOST",
            "TOLLGATE_SERVICE_PORT",
            "TOLLGATE_SERVICE_PORT_GRPC",
            "TOLLGATE_HEADLESS_SERVICE_PORT_HTTP_METRICS",
            "TOLLGATE_PORT",
            "TOLLGATE_PORT_50051_TCP",
            "TOLLGATE_PORT_50051_TCP_ADDR",
            "TOLLGATE_METRICS_PORT_9464_TCP_PROTO",
            "TOLLGATE_PORT_53_UDP_PORT",
            "TOLLGATE_TOKEN",
            "TOLLGATE_LONG",
            "TOLLGATE_TEST_REDIS",
        ] {
            assert_eq!(nearest_to(name), None, "{name}");
        }
    }
}
