//! The flags of `tollgate serve`, and their environment variables.

use std::{
    env::{self, VarError},
    ffi::OsStr,
    path::PathBuf,
};

use clap::{
    Arg, Args, Command, Error, ValueEnum,
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
    policy::{DEFAULT_FILE_BYTES, FILE_BYTES},
    telemetry::{logs::LogFormat, traces::OtlpEndpoint},
};

pub(crate) const REDIS_PASSWORD: &str = "TOLLGATE_REDIS_PASSWORD";
pub(crate) const SENTINEL_PASSWORD: &str = "TOLLGATE_REDIS_SENTINEL_PASSWORD";
pub(crate) const NOTIFY_URL: &str = "TOLLGATE_NOTIFY_URL";
// Variables of the client.
pub(crate) const ADDR: &str = "TOLLGATE_ADDR";
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
    /// The size of the largest policy file [default: 134217728] [env: TOLLGATE_POLICY_BYTES]
    #[arg(long, value_name = "BYTES", value_parser = policy_bytes())]
    pub policy_bytes: Option<u64>,
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

impl ServeArgs {
    /// Takes what is not given from the environment.
    pub(super) fn or_environment(self) -> Result<Self, SettingsError> {
        Ok(Self {
            listen: or_variable(self.listen, "listen", str::parse)?,
            http_listen: or_variable(self.http_listen, "http_listen", str::parse)?,
            store: or_variable(self.store, "store", str::parse)?,
            policy: or_variable(self.policy, "policy", str::parse)?,
            policy_bytes: or_variable(self.policy_bytes, "policy_bytes", parse_policy_bytes)?,
            callers: or_variable(self.callers, "callers", str::parse)?,
            config: or_variable(self.config, "config", str::parse)?,
            on_store_failure: or_variable(self.on_store_failure, "on_store_failure", parse_choice)?,
            log_format: or_variable(self.log_format, "log_format", parse_choice)?,
            log: or_variable(self.log, "log", str::parse)?,
            otlp_endpoint: or_variable(self.otlp_endpoint, "otlp_endpoint", str::parse)?,
        })
    }
}

fn or_variable<T, E: ToString>(
    flag: Option<T>,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, SettingsError> {
    let name = variable_name(key);
    match flag {
        Some(_) => Ok(flag),
        None => variable(&name)?
            .map(|text| parse(&text).map_err(|fault| SettingsError::value(name, fault)))
            .transpose(),
    }
}

/// The parser of the size of the largest policy file.
pub(crate) fn policy_bytes() -> impl TypedValueParser<Value = u64> {
    TrimmedParser(StringValueParser::new().try_map(|it| parse_policy_bytes(&it)))
}

/// The size of the largest policy file, by a flag, its variable or the default.
pub(crate) fn policy_bytes_in_force(flag: Option<u64>) -> Result<u64, SettingsError> {
    let bytes = or_variable(flag, "policy_bytes", parse_policy_bytes)?;
    Ok(bytes.unwrap_or(DEFAULT_FILE_BYTES))
}

fn parse_policy_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().filter(|it| FILE_BYTES.contains(it));
    let (least, most) = (FILE_BYTES.start(), FILE_BYTES.end());
    bytes.ok_or_else(|| format!("is {text}, allowed are {least} to {most}"))
}

pub(super) fn parse_choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter();
        let values = values.filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = values.map(|it| format!("{:?}", it.get_name())).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

/// The variable of a flag or setting: `TOLLGATE_LISTEN` for `listen`.
pub(super) fn variable_name(key: &str) -> String {
    format!("TOLLGATE_{}", key.to_uppercase().replace('.', "_"))
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
        let Some(nearest) = nearest_known(&variable) else {
            continue;
        };
        match file_setting(&variable, keys) {
            Some(setting) => tracing::warn!(
                %variable,
                setting,
                "an unknown environment variable is not read; {setting} is a setting of the settings file only"
            ),
            None => tracing::warn!(
                %variable,
                nearest,
                "an unknown environment variable is not read; the nearest known one is {nearest}"
            ),
        }
    }
}

/// The key of the settings file whose variable would have this name.
pub(super) fn file_setting<'k>(variable: &str, keys: &'k [String]) -> Option<&'k String> {
    keys.iter().find(|key| variable_name(key) == variable)
}

/// The nearest known variable, if this is an unknown variable `TOLLGATE_…`.
pub(super) fn nearest_known(name: &str) -> Option<String> {
    let flags = serve_flags();
    let flags = flags.get_arguments().map(Arg::get_id);
    let flags: Vec<String> = flags.map(|id| variable_name(id.as_str())).collect();
    let others = [REDIS_PASSWORD, SENTINEL_PASSWORD, NOTIFY_URL, ADDR, TOKEN];
    let known: Vec<&str> = flags.iter().map(String::as_str).chain(others).collect();
    let is_ours = name.starts_with("TOLLGATE_") && !name.starts_with("TOLLGATE_TEST_");
    let is_known = known.contains(&name) || TEST_VARIABLES.contains(&name) || is_service_link(name);
    let nearest = nearest(name, &known).filter(|_| is_ours && !is_known);
    nearest.map(str::to_owned)
}

fn serve_flags() -> Command {
    ServeArgs::augment_args(Command::new("serve"))
}

/// Whether Kubernetes sets it in pods, for a Service with a name that begins with `tollgate`.
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| {
        let protocol = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let protocols = ["_TCP", "_UDP", "_SCTP"];
        protocol.len() < rest.len() && protocols.iter().any(|it| protocol.starts_with(it))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split("_PORT_").skip(1).any(is_port)
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
        let nearest = |name| nearest_known(name).unwrap_or_default();
        assert_eq!(nearest("TOLLGATE_STROE"), "TOLLGATE_STORE");
        assert_eq!(nearest("TOLLGATE_REDIS_PASSWD"), REDIS_PASSWORD);
        assert_ne!(nearest("TOLLGATE_PORT_X_TCP"), "");
        assert_ne!(nearest("TOLLGATE_LISTEN_PORT_50051"), "");
        for name in [
            "REDIS_URL",
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
            "TOLLGATE_NOTIFY_URL",
            "TOLLGATE_LONG",
            "TOLLGATE_TEST_REDIS",
        ] {
            assert_eq!(nearest(name), "", "{name}");
        }
    }
}
