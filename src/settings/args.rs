//! The flags of `tollgate serve`, and their environment variables.

use std::{
    env::{self, VarError},
    ffi::OsStr,
    path::PathBuf,
};

use clap::{
    Arg, Args, Command, Error,
    builder::{
        EnumValueParser, PathBufValueParser, PossibleValue, StringValueParser, TypedValueParser,
    },
    error::ErrorKind,
    parser::ValueSource,
};

use super::error::SettingsError;
use crate::{
    files::{read::trimmed, toml::nearest},
    ledger::OnStoreFailure,
    telemetry::{logs::LogFormat, traces::OtlpEndpoint},
};

pub(crate) const REDIS_PASSWORD: &str = "TOLLGATE_REDIS_PASSWORD";
pub(crate) const SENTINEL_PASSWORD: &str = "TOLLGATE_REDIS_SENTINEL_PASSWORD";
/// A variable of the client.
pub(crate) const ADDR: &str = "TOLLGATE_ADDR";
/// A variable of the client.
pub(crate) const TOKEN: &str = "TOLLGATE_TOKEN";

/// The variables of the project's tests.
const TEST_VARIABLES: &[&str] = &[
    "TOLLGATE_CLOCK_FILE",
    "TOLLGATE_LONG",
    "TOLLGATE_PROPERTY_CASES",
    "TOLLGATE_SEED",
    "TOLLGATE_SIMULATIONS",
];

/// The flags of `tollgate serve`. Each also has a [variable](variable_name), which [`Settings::load`](super::Settings)
/// reads instead of clap: a fault in it must not fail the client's subcommands.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Where to serve gRPC: HOST:PORT, :PORT for all addresses, or unix:PATH [default: 127.0.0.1:50051]
    /// [env: TOLLGATE_LISTEN]
    #[arg(long, value_name = "ADDRESS", value_parser = TrimmedParser(StringValueParser::new()))]
    pub listen: Option<String>,
    /// Where to serve HTTP: probes and the dashboard [default: 127.0.0.1:9464] [env: TOLLGATE_HTTP_LISTEN]
    #[arg(long, value_name = "ADDRESS", value_parser = TrimmedParser(StringValueParser::new()))]
    pub http_listen: Option<String>,
    /// Where the counters are.
    #[arg(
        long,
        help = "Where the counters are: file:PATH, memory: or redis://[user:password@]host[:port][/db], \
                also rediss://, redis+sentinel://…/master-name, redis+cluster:// and redis+unix:///PATH \
                [default: file:./tollgate.db] [env: TOLLGATE_STORE]",
        value_name = "URL",
        value_parser = TrimmedParser(StringValueParser::new())
    )]
    pub store: Option<String>,
    /// The policy file [default: the built-in policy] [env: TOLLGATE_POLICY]
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    pub policy: Option<PathBuf>,
    /// Who may call, and what [default: everyone, everything] [env: TOLLGATE_CALLERS]
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    pub callers: Option<PathBuf>,
    /// The settings file (TOML) [env: TOLLGATE_CONFIG]
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    pub config: Option<PathBuf>,
    /// What Reserve answers during an outage of the store [default: error] [env: TOLLGATE_ON_STORE_FAILURE]
    #[arg(long, value_name = "WHAT", value_parser = TrimmedParser(EnumValueParser::<OnStoreFailure>::new()))]
    pub on_store_failure: Option<OnStoreFailure>,
    /// How to log: human, json, or auto (human on a terminal) [default: auto] [env: TOLLGATE_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", value_parser = TrimmedParser(EnumValueParser::<LogFormat>::new()))]
    pub log_format: Option<LogFormat>,
    /// Which log lines, as tracing's filter says it, such as debug or tollgate=debug [default: info] [env: TOLLGATE_LOG]
    #[arg(long, value_name = "FILTER", value_parser = TrimmedParser(StringValueParser::new()))]
    pub log: Option<String>,
    /// Where to send traces: a collector that takes OTLP over gRPC [default: nowhere] [env: TOLLGATE_OTLP_ENDPOINT]
    #[arg(long, value_name = "http://HOST:PORT", value_parser = TrimmedParser(StringValueParser::new().try_map(|it| it.parse::<OtlpEndpoint>())))]
    pub otlp_endpoint: Option<OtlpEndpoint>,
}

/// The variable of a flag or setting: `TOLLGATE_LISTEN` for `listen`.
pub(super) fn variable_name(key: &str) -> String {
    format!("TOLLGATE_{}", key.to_uppercase())
}

/// A variable's value, trimmed. An empty variable counts as unset.
pub(super) fn variable(name: &str) -> Result<Option<String>, SettingsError> {
    let value = match env::var(name) {
        Ok(value) => trimmed(&value).map(str::to_owned),
        Err(VarError::NotPresent) => return Ok(None),
        Err(VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
    };
    let value = value.map_err(|fault| SettingsError::value(name, fault))?;
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// Warns of each unknown variable `TOLLGATE_…`; `keys` are those of the settings file.
pub(super) fn warn_of_unknown_variables(keys: &[String]) {
    for (name, _) in env::vars_os() {
        let variable = name.to_string_lossy();
        match (nearest_known(&variable), file_setting(&variable, keys)) {
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

/// The key of the settings file whose variable would have this name.
pub(super) fn file_setting<'k>(variable: &str, keys: &'k [String]) -> Option<&'k str> {
    let mut keys = keys.iter();
    let key = keys.find(|key| variable_name(&key.replace('.', "_")) == variable)?;
    Some(key)
}

/// The nearest known variable, if this is an unknown variable `TOLLGATE_…`.
pub(super) fn nearest_known(name: &str) -> Option<String> {
    if !name.starts_with("TOLLGATE_") || name.starts_with("TOLLGATE_TEST_") {
        return None;
    }
    let flags = serve_flags();
    let flags = flags.get_arguments().map(Arg::get_id);
    let flags: Vec<String> = flags.map(|id| variable_name(id.as_str())).collect();
    let others = [REDIS_PASSWORD, SENTINEL_PASSWORD, ADDR, TOKEN];
    let known: Vec<&str> = flags.iter().map(String::as_str).chain(others).collect();
    let is_known = known.contains(&name) || TEST_VARIABLES.contains(&name);
    if is_known || is_service_link(name) {
        return None;
    }
    nearest(name, &known).map(str::to_owned)
}

fn serve_flags() -> Command {
    ServeArgs::augment_args(Command::new("serve"))
}

/// Whether Kubernetes sets it in pods, for a Service with a name that begins with `tollgate`.
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
            .any(|(at, infix)| is_port(&name[at + infix.len()..]))
}

/// Trims the value of a flag, or of a variable that clap reads, before the inner parser.
#[derive(Debug, Clone)]
pub(crate) struct TrimmedParser<P>(pub(crate) P);

impl<P: TypedValueParser> TypedValueParser for TrimmedParser<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<P::Value, Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<P::Value, Error> {
        let value = match value.to_str().map(trimmed) {
            None => value,
            Some(Ok(value)) => OsStr::new(value),
            Some(Err(fault)) => {
                let name = arg.map(|arg| name(arg, source)).unwrap_or_default();
                let fault = format!("{name}: {fault}\n");
                return Err(Error::raw(ErrorKind::ValueValidation, fault).with_cmd(command));
            }
        };
        self.0.parse_ref_(command, arg, value, source)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

/// The source of a value: its variable, its flag, or its positional argument.
fn name(arg: &Arg, source: ValueSource) -> String {
    match (source, arg.get_env(), arg.get_long()) {
        (ValueSource::EnvVariable, Some(variable), _) => variable.to_string_lossy().into_owned(),
        (_, _, Some(flag)) => format!("--{flag}"),
        _ => arg.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_every_flag_names_its_variable() {
        for flag in serve_flags().get_arguments() {
            let help = flag.get_help().expect("help").to_string();
            let variable = variable_name(flag.get_id().as_str());
            assert!(help.ends_with(&format!("[env: {variable}]")), "{help}");
        }
    }

    #[test]
    fn an_unknown_variable_of_ours_has_a_nearest_known_one() {
        assert_eq!(
            nearest_known("TOLLGATE_STROE").as_deref(),
            Some("TOLLGATE_STORE")
        );
        assert_eq!(
            nearest_known("TOLLGATE_REDIS_PASSWD").as_deref(),
            Some("TOLLGATE_REDIS_PASSWORD")
        );
        assert!(nearest_known("TOLLGATE_PORT_X_TCP").is_some());
        assert_eq!(nearest_known("REDIS_URL"), None);
    }

    #[test]
    fn service_links_and_variables_of_the_client_and_the_tests_are_not_unknown() {
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
            assert_eq!(nearest_known(name), None, "{name}");
        }
    }
}
