//! The ranges of the settings and the policy, checked with the chart and with the program: what the program accepts, the
//! chart accepts. What the program refuses, the chart's schema refuses if a schema can express it.

use tollgate::{
    policy::Policy,
    settings::{ServeArgs, Settings},
};

use super::{Manifests, chart, template};
use crate::support::calls::TextFile;

/// Whether the program starts with these settings.
fn program_accepts(text: &str) -> bool {
    let file = TextFile::new(text);
    let config = Some(file.path().into());
    let args = ServeArgs {
        config,
        ..ServeArgs::default()
    };
    Settings::load(args).is_ok()
}

/// What the chart renders; `None` if it refuses the values.
fn rendered(json: &[&str]) -> Option<Manifests> {
    let words: Vec<&str> = json.iter().flat_map(|it| ["--set-json", it]).collect();
    let ran = template(&chart(), &words);
    assert!(
        ran.code == Some(0) || ran.stderr.contains("settings") || ran.stderr.contains("policy"),
        "{ran:?}"
    );
    (ran.code == Some(0)).then(|| Manifests::parse(&ran.stdout))
}

/// A setting; values that chart and program accept; values that both refuse; and values that only the program refuses,
/// when it starts, because a schema can't compare durations. Each value is valid JSON and TOML.
type Range = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const RANGES: &[Range] = &[
    (
        "bounds.message_bytes",
        &["2048", "1048576"],
        &["2047", "1048577"],
        &[],
    ),
    (
        "bounds.estimate_bytes",
        &["65536", "33554432"],
        &["65535", "33554433"],
        &[],
    ),
    (
        "bounds.header_list_bytes",
        &["1024", "1048576"],
        &["1023", "1048577"],
        &[],
    ),
    (
        "bounds.streams_per_connection",
        &["1", "100000"],
        &["0", "100001"],
        &[],
    ),
    (
        "bounds.cancelled_per_second",
        &["10", "1000000"],
        &["9", "1000001"],
        &[],
    ),
    (
        "bounds.connections",
        &["16", "1000000"],
        &["15", "1000001", "\"16\""],
        &[],
    ),
    (
        "bounds.waiting_decisions",
        &["1024", "1048576"],
        &["1023", "1048577"],
        &[],
    ),
    (
        "bounds.handshake_time",
        &["\"1s\"", "\"60s\"", "\"1m\""],
        &["5"],
        &["\"999ms\"", "\"61s\""],
    ),
    (
        "bounds.idle_time",
        &["\"1s\"", "\"7days\"", "\"168h\""],
        &[],
        &["\"0s\"", "\"8d\""],
    ),
    (
        "bounds.connection_age",
        &["\"1s\"", "\"1day\""],
        &[],
        &["\"1ms\"", "\"169h\""],
    ),
    ("bounds.surprise", &[], &["1"], &[]),
    (
        "call_timeout",
        &["\"1ms\"", "\"60s\"", "\"1m\""],
        &[],
        &["\"0s\"", "\"61s\"", "\"1h\""],
    ),
    (
        "redis.connect_timeout",
        &["\"1ms\"", "\"60s\""],
        &[],
        &["\"0ms\"", "\"2m\""],
    ),
    (
        "redis.response_timeout",
        &["\"1ms\"", "\"60s\""],
        &[],
        &["\"0ms\"", "\"60001ms\""],
    ),
    ("redis.wait_replicas", &["0", "100"], &["-1", "101"], &[]),
    (
        "redis.database",
        &["0", "2147483647"],
        &["-1", "2147483648"],
        &[],
    ),
    (
        "redis.key_prefix",
        &["\"a:\""],
        &["\"a{b\"", "\"a}b\"", "\"a\\tb\"", "\"a\\u007fb\""],
        &[],
    ),
    (
        "usage_retention",
        &["\"1day\"", "\"035d\"", "\"3660days\""],
        &["\"36h\""],
        &["\"0days\"", "\"3661days\""],
    ),
    (
        "policy_bytes",
        &["1048576", "1073741824"],
        &["1048575", "1073741825", "\"1 GiB\""],
        &[],
    ),
    ("usage_rows", &["2", "1000000"], &["1", "1000001"], &[]),
    ("grace_period", &["\"1h\""], &[], &["\"61m\""]),
    ("trace_ratio", &["0", "0.5", "1"], &["-0.1", "1.1"], &[]),
    (
        "otlp_endpoint",
        &[
            "\"http://c.tracing:4317\"",
            "\"http://[::1]:4317/\"",
            "\"http://1.2.3.4:65535\"",
        ],
        &[
            "\"https://c:4317\"",
            "\"http://c\"",
            "\"http://c:4317/v1/traces\"",
            "\"http://c:65536\"",
            "\"c:4317\"",
        ],
        &[],
    ),
];

/// What the chart renders with a setting; `None` if it refuses the value.
fn with_setting(key: &str, value: &str) -> Option<Manifests> {
    rendered(&[
        "store.type=\"redis\"",
        "redis.existingSecret=\"it\"",
        "settings.grace_period=\"5m\"",
        &format!("settings.{key}={value}"),
    ])
}

#[test]
fn the_chart_accepts_what_the_program_accepts_and_the_program_refuses_the_rest() {
    for (key, accepted, refused, refused_by_program) in RANGES {
        for value in *accepted {
            let made = with_setting(key, value);
            let made = made.unwrap_or_else(|| panic!("the chart refuses {key} = {value}"));
            let text = made.settings();
            assert!(
                program_accepts(text),
                "the program refuses {key} = {value}: {text}"
            );
        }
        for value in *refused {
            let made = with_setting(key, value);
            assert!(made.is_none(), "the chart accepts {key} = {value}");
        }
        for value in refused.iter().chain(*refused_by_program) {
            assert!(
                !program_accepts(&format!("{key} = {value}\n")),
                "the program accepts {key} = {value}"
            );
        }
    }
}

fn check_dates(key: &str) {
    let org = "policy.orgs={\"o\": {\"tier\": 1, \"data_sharing\": \"all\"}}";
    let with_date =
        |date: &str| rendered(&[org, &format!("policy.program={{\"{key}\": \"{date}\"}}")]);
    let dates = ["2027-12-31", "2028-02-29", "2000-02-29", "2027-04-30"];
    for date in dates {
        let made = with_date(date).unwrap_or_else(|| panic!("the chart refuses {date}"));
        Policy::parse("it", made.policy().unwrap()).unwrap();
    }
    let valid = with_date(dates[0]).unwrap();
    let program_refuses = |date: &str| {
        let text = valid.policy().unwrap().replace(dates[0], date);
        Policy::parse("it", &text).is_err()
    };
    for date in [
        "2027-02-30",
        "2027-04-31",
        "2027-13-01",
        "2027-00-10",
        "2027-1-1",
    ] {
        assert!(with_date(date).is_none(), "the chart accepts {date}");
        assert!(program_refuses(date), "the program accepts {date}");
    }
    // A schema does not know leap years.
    for date in ["2027-02-29", "2100-02-29"] {
        assert!(program_refuses(date), "the program accepts {date}");
    }
}

#[test]
fn chart_and_program_accept_the_same_dates() {
    for key in ["ends_on", "as_of"] {
        check_dates(key);
    }
}

#[test]
fn chart_and_program_accept_the_same_names() {
    let project = |name: &str| {
        let org = format!(
            "{{\"o\": {{\"tier\": 1, \"data_sharing\": \"selected\", \"projects\": [\"{name}\"]}}}}"
        );
        rendered(&[&format!("policy.orgs={org}")])
    };
    let longest = "x".repeat(256);
    let made = project(&longest).unwrap();
    Policy::parse("it", made.policy().unwrap()).unwrap();
    let program_refuses = |name: &str| {
        let text = made.policy().unwrap().replace(&longest, name);
        Policy::parse("it", &text).is_err()
    };
    for name in ["a\\tb", ""] {
        assert!(project(name).is_none(), "the chart accepts {name:?}");
        assert!(program_refuses(name), "the program accepts {name:?}");
    }
    // A schema counts characters, not bytes.
    assert!(program_refuses(&"ü".repeat(129)));
}
