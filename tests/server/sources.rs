//! Values from any source: trimmed, without control characters, and with warnings of misspelt names.

use serde_json::Value;

use super::settings::{log_of, serve_with, settings_of, start_line};
use crate::support::{calls::TextFile, tollgate::program};

const LISTENS: &str = "listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n";

#[test]
fn white_space_around_a_variable_a_flag_or_a_setting_of_the_file_is_trimmed() {
    let variables = [
        ("LISTEN", "127.0.0.1:0\n"),
        ("HTTP_LISTEN", " 127.0.0.1:0"),
        ("STORE", "file:./x.db\n"),
        ("ON_STORE_FAILURE", "error\n"),
        ("LOG_FORMAT", "json\n"),
        ("LOG", " info\r\n"),
        ("POLICY", " \n"),
    ];
    let mut command = program();
    for (name, value) in variables {
        command.env(format!("TOLLGATE_{name}"), value);
    }
    let line = start_line(&log_of(&mut command));
    assert_eq!(line["store"], "file:./x.db");
    let (_file, mut command) = serve_with(LISTENS);
    command.args(["--store", "file:./x.db\n", "--log-format", "json "]);
    assert_eq!(start_line(&log_of(&mut command))["store"], "file:./x.db");
    let in_file = "store = \"file:./x.db\\n\"\nlog_format = \" json\"\ncall_timeout = \"1s\\n\"\n";
    let (_file, mut command) = serve_with(&format!("{LISTENS}{in_file}"));
    assert_eq!(start_line(&log_of(&mut command))["store"], "file:./x.db");
}

#[test]
fn a_control_character_within_a_value_is_an_error_that_names_the_setting_and_not_the_value() {
    let fault_of = |command: &mut std::process::Command| {
        let ended = command.output().unwrap();
        assert!(!ended.status.success());
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(stderr.contains("control character"), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
        stderr
    };
    for name in [
        "TOLLGATE_STORE",
        "TOLLGATE_LISTEN",
        "TOLLGATE_POLICY",
        "TOLLGATE_LOG",
    ] {
        let fault = fault_of(program().env(name, "redis://:secret\nx@h"));
        assert!(fault.contains(name), "{fault}");
    }
    let fault = fault_of(program().args(["serve", "--store", "redis://:secret\nx@h"]));
    assert!(fault.contains("--store: holds"), "{fault}");
    let mut client = program();
    let fault = fault_of(
        client
            .args(["quota", "acme"])
            .env("TOLLGATE_TOKEN", "secret\nx"),
    );
    assert!(fault.contains("TOLLGATE_TOKEN: holds"), "{fault}");
    let fault = fault_of(program().args(["quota", "acme", "--token", "secret\nx"]));
    assert!(fault.contains("--token: holds"), "{fault}");
    let fault = fault_of(program().args(["check-policy", "secret\nx"]));
    assert!(fault.contains("<FILE>: holds"), "{fault}");
    for setting in ["store", "policy", "log", "listen"] {
        let fault = settings_of(&format!("{setting} = \"secret\\nx\"")).unwrap_err();
        assert!(fault.contains("control character"), "{fault}");
        assert!(
            fault.contains(setting) && !fault.contains("secret"),
            "{fault}"
        );
    }
    let fault = settings_of("[redis]\npassword = \"secret\\u0000x\"").unwrap_err();
    assert!(fault.contains("redis.password: holds"), "{fault}");
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_known_one_and_without_its_value() {
    let (_file, mut command) = serve_with(LISTENS);
    for (name, value) in [
        ("TOLLGATE_STROE", "redis://:hunter2@h"),
        ("TOLLGATE_TOKEN", "tg_x"),
        ("TOLLGATE_LONG", "1"),
        ("TOLLGATE_SERVICE_HOST", "10.0.0.1"),
        ("TOLLGATE_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
    ] {
        command.env(name, value);
    }
    let log = log_of(&mut command);
    assert!(!log.contains("hunter2"), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let named: Vec<Value> = lines
        .filter(|line: &Value| line["variable"].is_string())
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(named[0]["level"], "WARN");
    assert_eq!(named[0]["variable"], "TOLLGATE_STROE");
    assert_eq!(named[0]["nearest"], "TOLLGATE_STORE");
}

#[test]
fn a_variable_that_is_a_setting_of_the_file_only_is_a_warning_that_names_the_setting() {
    let (_file, mut command) = serve_with(LISTENS);
    command.env("TOLLGATE_REDIS_PASSWORD_FILE", "/hunter2");
    let log = log_of(&mut command);
    assert!(!log.contains("hunter2"), "{log}");
    let mut lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let warning = lines.find(|line: &Value| line["variable"] == "TOLLGATE_REDIS_PASSWORD_FILE");
    let warning = warning.unwrap();
    assert_eq!(warning["setting"], "redis.password_file");
    let message = "redis.password_file is a setting of the settings file only";
    assert!(warning["message"].as_str().unwrap().contains(message));
}

/// The log's warnings of unused passwords.
fn unused_passwords(settings: &str, variables: &[&str]) -> Vec<(String, String)> {
    let (_file, mut command) = serve_with(&format!("{LISTENS}{settings}"));
    command.envs(variables.iter().map(|name| (name, "hunter2")));
    let log = log_of(&mut command);
    assert!(!log.contains("hunter"), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let warnings = lines.filter_map(|line: Value| {
        let message = line["message"].as_str()?;
        let name = line["variable"].as_str().or(line["setting"].as_str())?;
        message
            .starts_with("a password for ")
            .then(|| (name.to_owned(), message.to_owned()))
    });
    warnings.collect()
}

#[test]
fn a_password_that_the_store_has_no_use_for_is_a_warning() {
    const NO_REDIS: &str = "a password for Redis is set, and the store is not Redis";
    let warnings = |names: &[&str], why: &str| -> Vec<(String, String)> {
        let named = names
            .iter()
            .map(|name| ((*name).to_owned(), why.to_owned()));
        named.collect()
    };
    let variables = [
        "TOLLGATE_REDIS_PASSWORD",
        "TOLLGATE_REDIS_SENTINEL_PASSWORD",
    ];
    let none = unused_passwords("", &variables);
    assert_eq!(none, warnings(&variables, NO_REDIS));
    let in_file = "[redis]\npassword = \"hunter3\"\npassword_file = \"/hunter\"\nsentinel_password = \"hunter4\"\n";
    let settings = [
        "redis.password",
        "redis.password_file",
        "redis.sentinel_password",
    ];
    let none = unused_passwords(in_file, &[]);
    assert_eq!(none, warnings(&settings, NO_REDIS));
    let one_server = unused_passwords("store = \"redis://127.0.0.1:1\"\n", &variables);
    let why = "a password for sentinels is set, and no sentinels watch the store";
    assert_eq!(one_server, warnings(&variables[1..], why));
    let sentinels = "store = \"redis+sentinel://127.0.0.1:1/main\"\n";
    assert_eq!(unused_passwords(sentinels, &variables), []);
}

#[test]
fn a_login_in_both_the_url_and_the_settings_is_an_error_that_names_both() {
    let url = |url: &str, redis: &str| {
        settings_of(&format!("store = \"{url}\"\n[redis]\n{redis}\n")).map_err(|fault| {
            assert!(!fault.contains("hunter"), "{fault}");
            fault
        })
    };
    let password = "password = \"hunter3\"";
    let file = "password_file = \"/p\"";
    for (store, redis, name, why) in [
        ("redis://:hunter2@h", password, "redis.password", "the URL"),
        ("redis://:hunter2@h", file, "redis.password_file", "the URL"),
        (
            "redis://u@h",
            "username = \"v\"",
            "redis.username",
            "the URL",
        ),
        ("redis://h/0", "database = 3", "redis.database", "the URL"),
        (
            "redis+cluster://h:1",
            "database = 3",
            "redis.database",
            "cluster",
        ),
        (
            "redis://h",
            "username = \"u\"",
            "redis.username",
            "without a password",
        ),
    ] {
        let fault = url(store, redis).unwrap_err();
        assert!(fault.starts_with(name) && fault.contains(why), "{fault}");
    }
    let fault = url("redis://h", &format!("{password}\n{file}")).unwrap_err();
    assert!(
        fault.contains("redis.password_file: is set, and redis.password,"),
        "{fault}"
    );
    for (store, redis) in [
        ("redis://user@h", password),
        ("redis+sentinel://h/main", "database = 3\npassword = \"p\""),
        ("redis+cluster://h:1", "database = 0"),
        (
            "redis+unix:///run/redis.sock",
            "database = 3\nusername = \"u\"\npassword = \"p\"",
        ),
    ] {
        url(store, redis).unwrap();
    }
    let settings = TextFile::new(&format!("store = \"redis://h\"\n[redis]\n{file}\n"));
    let mut command = program();
    command.args(["--config", settings.path()]);
    let ended = command
        .env("TOLLGATE_REDIS_PASSWORD", "hunter4")
        .output()
        .unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("redis.password_file") && stderr.contains("TOLLGATE_REDIS_PASSWORD"));
    assert!(!stderr.contains("hunter4"), "{stderr}");
}
