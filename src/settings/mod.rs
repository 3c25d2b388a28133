//! What an operator can set, from flags, environment, a file and defaults, in that order of
//! precedence. Owns the defaults. A file is taken whole or not at all.

pub(crate) mod args;
mod choices;
pub(crate) mod environment;
mod file;
mod listeners;
mod redis;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, ValueEnum,
    builder::{EnumValueParser, PathBufValueParser, StringValueParser, TypedValueParser as _},
};

use self::{
    args::TrimmedParser,
    environment::Variable,
    file::{FileSettings, StoreKind},
    redis::{redis_config, unused_passwords},
};
pub use self::{environment::warn_of_unknown_variables, redis::UnusedPassword};
use crate::{
    files::toml::Faults,
    grpc::access::ReflectionFor,
    ledger::{Ledger, OnStoreFailure},
    net::{Limits, ListenerTls},
    store::{UsageLimits, redis::RedisConfig},
    telemetry::logs::LogFormat,
    telemetry::traces::OtlpEndpoint,
};

/// The flags of `tollgate serve`. Each is also an environment variable, which [`Settings::load`] reads:
/// the client's subcommands must not stumble over what is set for the service.
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
    /// What Reserve answers when the store can't be asked [default: error] [env: TOLLGATE_ON_STORE_FAILURE]
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

/// The settings in force, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to serve gRPC.
    pub listen: String,
    /// Where to serve HTTP.
    pub http_listen: String,
    /// Where the counters are.
    pub store: StoreChoice,
    /// Passwords that are set, and that the store has no use for.
    pub unused_passwords: Vec<UnusedPassword>,
    /// The policy file; none: the built-in policy.
    pub policy: Option<PathBuf>,
    /// The callers file; none: everyone may do everything.
    pub callers: Option<PathBuf>,
    /// Who may ask server reflection.
    pub reflection: ReflectionFor,
    /// What Reserve answers when the store can't be asked.
    pub on_store_failure: OnStoreFailure,
    /// How long a call waits for the store, whose caller does not say.
    pub call_timeout: Duration,
    /// How to log.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log: String,
    /// Where to send traces; none: there are none.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Which share of the calls is traced whose callers have no trace, 0 to 1. In a caller's trace the
    /// caller decides.
    pub trace_ratio: f64,
    /// After SIGTERM: how long to go on serving as NOT_SERVING, so that load balancers can follow.
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
    /// In this process; forgotten when it ends.
    Memory,
    /// In this file, which one process has open.
    File(PathBuf),
    /// In Redis.
    Redis(Box<RedisConfig>),
}

/// Settings that can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{}: can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// A flag, an environment variable, or a setting beside the others has a fault.
    #[error("{name}: {fault}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        fault: String,
    },
}

/// Where the counters are kept where nothing else is said.
const DEFAULT_FILE: &str = "./tollgate.db";

/// The longest that a stop may take.
const MAX_GRACE_PERIOD: Duration = Duration::from_secs(60 * 60);

impl Settings {
    /// Puts flags, environment, file and defaults together.
    ///
    /// # Errors
    ///
    /// The file can't be read, or anything in it, in a flag or in the environment is wrong.
    pub fn load(flags: ServeArgs) -> Result<Self, SettingsError> {
        let args = Sourced { flags };
        let file = match args.config()? {
            None => FileSettings::default(),
            Some(path) => FileSettings::read(&path)?,
        };
        let usage_limits = usage_limits(&file);
        let store = args.store()?.or(file.store);
        let unused_passwords = unused_passwords(store.as_ref(), &file.redis);
        let store = match store {
            None => StoreChoice::File(PathBuf::from(DEFAULT_FILE)),
            Some(StoreKind::Memory) => StoreChoice::Memory,
            Some(StoreKind::File(path)) => StoreChoice::File(path),
            Some(StoreKind::Redis(url)) => {
                let config = redis_config(url, file.redis, usage_limits)?;
                StoreChoice::Redis(Box::new(config))
            }
        };
        let listen = args.listen()?.or(file.listen);
        let http_listen = args.http_listen()?.or(file.http_listen);
        let on_store_failure = args.on_store_failure()?.or(file.on_store_failure);
        let log_format = args.log_format()?.or(file.log_format);
        let log = args.log()?.or(file.log);
        let settings = Self {
            listen: listen.unwrap_or_else(|| "127.0.0.1:50051".to_owned()),
            http_listen: http_listen.unwrap_or_else(|| "127.0.0.1:9464".to_owned()),
            store,
            unused_passwords,
            policy: args.policy()?.or(file.policy),
            callers: args.callers()?.or(file.callers),
            reflection: file.reflection.unwrap_or(ReflectionFor::Everyone),
            on_store_failure: on_store_failure.unwrap_or(OnStoreFailure::Error),
            call_timeout: file.call_timeout.unwrap_or(Duration::from_secs(1)),
            log_format: log_format.unwrap_or(LogFormat::Auto),
            log: log.unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: args.otlp_endpoint()?.or(file.otlp_endpoint),
            trace_ratio: file.trace_ratio.unwrap_or(0.0),
            drain_delay: file.drain_delay.unwrap_or(Duration::from_secs(2)),
            grace_period: file.grace_period.unwrap_or(Duration::from_secs(25)),
            usage_limits,
            tls: file.tls,
            http_tls: file.http_tls,
            limits: file.limits,
            waiting_decisions: file.waiting_decisions.unwrap_or(Ledger::MOST_WAITING),
        };
        settings.with_callers_for_reflection()?.with_time_to_stop()
    }

    fn with_callers_for_reflection(self) -> Result<Self, SettingsError> {
        if self.reflection == ReflectionFor::Callers && self.callers.is_none() {
            return Err(SettingsError::Value {
                name: "reflection",
                fault: "\"callers\" needs a callers file: callers = \"FILE\"".to_owned(),
            });
        }
        Ok(self)
    }

    fn with_time_to_stop(self) -> Result<Self, SettingsError> {
        let wrong = |name, fault: &str| {
            let fault = fault.to_owned();
            Err(SettingsError::Value { name, fault })
        };
        if self.grace_period > MAX_GRACE_PERIOD {
            return wrong("grace_period", "must be at most 1h");
        }
        if self.drain_delay >= self.grace_period {
            return wrong(
                "drain_delay",
                "must be less than grace_period, which open calls share",
            );
        }
        Ok(self)
    }
}

fn usage_limits(file: &FileSettings) -> UsageLimits {
    let default = UsageLimits::default();
    UsageLimits {
        retention_days: file.usage_retention_days.unwrap_or(default.retention_days),
        max_rows: file.usage_rows.unwrap_or(default.max_rows),
    }
}

/// The flags over the environment. An empty variable is an unset one.
struct Sourced {
    flags: ServeArgs,
}

impl Sourced {
    fn listen(&self) -> Result<Option<String>, SettingsError> {
        text(self.flags.listen.as_ref(), environment::LISTEN)
    }

    fn http_listen(&self) -> Result<Option<String>, SettingsError> {
        text(self.flags.http_listen.as_ref(), environment::HTTP_LISTEN)
    }

    fn log(&self) -> Result<Option<String>, SettingsError> {
        text(self.flags.log.as_ref(), environment::LOG)
    }

    fn policy(&self) -> Result<Option<PathBuf>, SettingsError> {
        path(self.flags.policy.as_ref(), environment::POLICY)
    }

    fn callers(&self) -> Result<Option<PathBuf>, SettingsError> {
        path(self.flags.callers.as_ref(), environment::CALLERS)
    }

    fn config(&self) -> Result<Option<PathBuf>, SettingsError> {
        path(self.flags.config.as_ref(), environment::CONFIG)
    }

    fn on_store_failure(&self) -> Result<Option<OnStoreFailure>, SettingsError> {
        choice(self.flags.on_store_failure, environment::ON_STORE_FAILURE)
    }

    fn log_format(&self) -> Result<Option<LogFormat>, SettingsError> {
        choice(self.flags.log_format, environment::LOG_FORMAT)
    }

    fn otlp_endpoint(&self) -> Result<Option<OtlpEndpoint>, SettingsError> {
        let variable = environment::OTLP_ENDPOINT;
        match &self.flags.otlp_endpoint {
            Some(given) => Ok(Some(given.clone())),
            None => {
                let given = variable.value()?.map(|given| given.parse());
                given.transpose().map_err(|fault| SettingsError::Value {
                    name: variable.name(),
                    fault,
                })
            }
        }
    }

    fn store(&self) -> Result<Option<StoreKind>, SettingsError> {
        let (name, given) = match &self.flags.store {
            Some(given) => ("--store", Some(given.clone())),
            None => (environment::STORE.name(), environment::STORE.value()?),
        };
        let store = given.map(|given| StoreKind::parse(&given)).transpose();
        store.map_err(|fault| SettingsError::Value { name, fault })
    }
}

fn text(flag: Option<&String>, variable: Variable) -> Result<Option<String>, SettingsError> {
    flag.map_or_else(|| variable.value(), |flag| Ok(Some(flag.clone())))
}

fn path(flag: Option<&PathBuf>, variable: Variable) -> Result<Option<PathBuf>, SettingsError> {
    match flag {
        Some(flag) => Ok(Some(flag.clone())),
        None => Ok(variable.value()?.map(PathBuf::from)),
    }
}

fn choice<T: ValueEnum>(flag: Option<T>, variable: Variable) -> Result<Option<T>, SettingsError> {
    match (flag, variable.value()?) {
        (Some(flag), _) => Ok(Some(flag)),
        (None, None) => Ok(None),
        (None, Some(given)) => chosen(&given)
            .map(Some)
            .map_err(|fault| SettingsError::Value {
                name: variable.name(),
                fault,
            }),
    }
}

/// One of the values of a choice, by its name.
fn chosen<T: ValueEnum>(given: &str) -> Result<T, String> {
    T::from_str(given, false).map_err(|_| {
        let values = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = values.map(|it| format!("{:?}", it.get_name())).collect();
        format!("{given:?} is none of {}", names.join(", "))
    })
}
