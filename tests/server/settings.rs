//! The sources of settings, and their log lines.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::NamedTempFile;
use tollgate::{
    grpc::ReflectionFor,
    ledger::OnStoreFailure,
    settings::{ServeArgs, Settings, StoreChoice},
    store::{UsageLimits, redis::UnsafeEviction},
};

use crate::support::{calls::TextFile, tollgate::program, world::small_policy};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `tollgate` until it serves. Gives its log as text.
pub(super) fn log_of(command: &mut Command) -> String {
    let log = NamedTempFile::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    command
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(log.reopen().unwrap());
    let mut process = command.spawn().unwrap();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let text = fs::read_to_string(log.path()).unwrap();
        let ended = process.try_wait().unwrap();
        let serves = text.contains("SERVING");
        if serves || ended.is_some() || Instant::now() > deadline {
            process.kill().unwrap();
            process.wait().unwrap();
            assert!(serves, "{ended:?}: {text}");
            return text;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The JSON log line with the listening addresses.
pub(super) fn start_line(log: &str) -> Value {
    let mut lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .find(|line: &Value| line["listen"].is_string())
        .unwrap()
}

/// `tollgate serve` with a settings file of this content.
pub(super) fn serve_with(settings: &str) -> (TextFile, Command) {
    let file = TextFile::new(settings);
    let mut command = program();
    command.args(["serve", "--config", file.path()]);
    (file, command)
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    // Each source names another loopback address, and the log shows which one is used.
    let file = "listen = \"127.0.0.2:0\"\nhttp_listen = \"127.0.0.2:0\"\n";
    let listens = |log: String| {
        let line = start_line(&log);
        ["listen", "http_listen"].map(|name| {
            let address = line[name].as_str().unwrap();
            address.split(':').next().unwrap().to_owned()
        })
    };
    let (_file, mut command) = serve_with(file);
    assert_eq!(listens(log_of(&mut command)), ["127.0.0.2", "127.0.0.2"]);
    command.env("TOLLGATE_LISTEN", "127.0.0.3:0");
    assert_eq!(listens(log_of(&mut command)), ["127.0.0.3", "127.0.0.2"]);
    command.env("TOLLGATE_HTTP_LISTEN", "127.0.0.3:0");
    command.args(["--listen", "127.0.0.4:0"]);
    assert_eq!(listens(log_of(&mut command)), ["127.0.0.4", "127.0.0.3"]);
}

#[test]
fn the_settings_file_can_be_named_by_the_environment_and_serve_be_left_out() {
    let policy = TextFile::new(&small_policy("keep_open"));
    let file = TextFile::new(&format!(
        "listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\npolicy = \"{}\"\n",
        policy.path()
    ));
    let log = log_of(program().env("TOLLGATE_CONFIG", file.path()));
    assert_eq!(start_line(&log)["policy"], policy.path());
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = Settings::load(ServeArgs::default()).unwrap();
    assert_eq!(settings.listen, "127.0.0.1:50051");
    assert_eq!(settings.http_listen, "127.0.0.1:9464");
    match settings.store {
        StoreChoice::File(path) => assert_eq!(path.to_str(), Some("./tollgate.db")),
        other => panic!("{other:?}"),
    }
    assert_eq!(settings.policy, None);
    let UsageLimits {
        retention_days,
        max_rows,
    } = settings.usage_limits;
    assert_eq!((retention_days, max_rows), (35, 10_000));
    assert_eq!(settings.callers, None);
    assert_eq!(settings.reflection, ReflectionFor::Everyone);
    assert_eq!(settings.on_store_failure, OnStoreFailure::Error);
    assert_eq!(settings.call_timeout, Duration::from_secs(1));
}

/// Parses the settings of a file without starting the service.
pub fn settings_of(text: &str) -> Result<Settings, String> {
    let file = TextFile::new(text);
    let flags = ServeArgs {
        config: Some(file.path().into()),
        ..ServeArgs::default()
    };
    Settings::load(flags).map_err(|error| error.to_string())
}

#[test]
fn how_long_calls_wait_and_what_to_do_with_an_evicting_redis_are_in_the_file() {
    let settings = "call_timeout = \"250ms\"\nstore = \"redis://127.0.0.1\"\n\
                    [redis]\nunsafe_eviction = \"warn\"\n";
    let settings = settings_of(settings).unwrap();
    assert_eq!(settings.call_timeout, Duration::from_millis(250));
    let StoreChoice::Redis(redis) = settings.store else {
        panic!("the store is Redis");
    };
    assert_eq!(redis.unsafe_eviction, UnsafeEviction::Warn);
    for (wrong, expected) in [
        ("call_timeout = \"0s\"", "must be more than 0"),
        ("call_timeout = \"61s\"", "at most 60s"),
        (
            "[redis]\nunsafe_eviction = \"ignore\"",
            "is none of \"refuse\", \"warn\"",
        ),
    ] {
        let fault = settings_of(wrong).unwrap_err();
        assert!(fault.contains(expected), "{fault}");
    }
}

#[test]
fn the_log_names_what_is_served_and_never_a_password() {
    let policy = TextFile::new(&small_policy("keep_open"));
    let (_file, mut command) = serve_with(&format!(
        "listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\nlog = \"trace\"\n\
         store = \"redis://someone:hunter2@127.0.0.1:1/3\"\npolicy = \"{}\"\n",
        policy.path()
    ));
    let log = log_of(&mut command);
    let line = start_line(&log);
    let address = line["listen"].as_str().unwrap();
    assert!(
        address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
        "{line}"
    );
    assert_eq!(line["store"], "redis://127.0.0.1:1/3");
    assert_eq!(line["policy"], policy.path());
    assert_eq!(line["organizations"], 2);
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn the_log_is_json_where_it_goes_to_no_terminal_and_for_people_on_request() {
    let (_file, mut command) =
        serve_with("listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n");
    let log = log_of(&mut command);
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
    let log = log_of(command.args(["--log-format", "human"]));
    assert!(serde_json::from_str::<Value>(log.lines().next().unwrap()).is_err());
    assert!(
        log.contains("tollgate serves tollgate.v1.QuotaService"),
        "{log}"
    );
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log}");
}

#[test]
fn an_empty_variable_is_an_unset_one_and_a_wrong_one_is_named() {
    let served = "listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n";
    let (_file, mut command) = serve_with(served);
    for name in [
        "LISTEN",
        "STORE",
        "POLICY",
        "ON_STORE_FAILURE",
        "LOG_FORMAT",
        "LOG",
    ] {
        command.env(format!("TOLLGATE_{name}"), "");
    }
    assert_eq!(
        start_line(&log_of(&mut command))["store"],
        "file:./tollgate.db"
    );
    for (name, value, expected) in [
        (
            "TOLLGATE_STORE",
            "nowhere",
            "TOLLGATE_STORE: is none of file:PATH, memory: and redis://",
        ),
        (
            "TOLLGATE_ON_STORE_FAILURE",
            "free",
            "TOLLGATE_ON_STORE_FAILURE: \"free\" is none of \"error\", \"billed\"",
        ),
    ] {
        let (_file, mut command) = serve_with(served);
        let ended = command.env(name, value).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(
            stderr.starts_with(&format!("tollgate: {expected}")),
            "{stderr}"
        );
    }
}

#[test]
fn open_calls_are_left_time_to_end() {
    for (settings, expected) in [
        (
            "drain_delay = \"5s\"\ngrace_period = \"5s\"",
            "drain_delay: must be less than",
        ),
        (
            "grace_period = \"400000000000years\"",
            "grace_period: must be at most 1h",
        ),
    ] {
        let (_file, mut command) = serve_with(settings);
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(
            stderr.starts_with(&format!("tollgate: {expected}")),
            "{stderr}"
        );
    }
}
