//! What the chart takes of a setting, the program takes; what the program refuses at its start, the chart refuses
//! before. Each case is said to both.

use tollgate::{
    policy::Policy,
    settings::{ServeArgs, Settings},
};

use super::{Manifests, chart, template};
use crate::support::calls::TextFile;

/// Whether the program takes these settings.
fn program_takes(text: &str) -> bool {
    let file = TextFile::new(text);
    let config = Some(file.path().into());
    let args = ServeArgs {
        config,
        ..ServeArgs::default()
    };
    Settings::load(args).is_ok()
}

/// What the chart makes of values, where it takes them.
fn rendered(json: &[&str]) -> Option<Manifests> {
    let words: Vec<&str> = json.iter().flat_map(|it| ["--set-json", it]).collect();
    let ran = template(&chart(), &words);
    assert!(
        ran.code == Some(0) || ran.stderr.contains("settings") || ran.stderr.contains("policy"),
        "{ran:?}"
    );
    (ran.code == Some(0)).then(|| Manifests::parse(&ran.stdout))
}

/// Each as JSON has it, which is also how TOML has it.
#[test]
fn chart_and_program_take_and_refuse_the_same_settings() {
    for (key, taken, refused) in [
        (
            "bounds.message_bytes",
            ["2048", "1048576"].as_slice(),
            ["2047", "1048577"].as_slice(),
        ),
        (
            "bounds.header_list_bytes",
            &["1024", "1048576"],
            &["1023", "1048577"],
        ),
        (
            "bounds.streams_per_connection",
            &["1", "100000"],
            &["0", "100001"],
        ),
        (
            "bounds.connections",
            &["16", "1000000"],
            &["15", "1000001", "\"16\""],
        ),
        (
            "bounds.waiting_decisions",
            &["1024", "1048576"],
            &["1023", "1048577"],
        ),
        (
            "bounds.handshake_time",
            &["\"1s\"", "\"60s\"", "\"1m\""],
            &["\"999ms\"", "\"61s\"", "5"],
        ),
        (
            "bounds.idle_time",
            &["\"1s\"", "\"7days\"", "\"168h\""],
            &["\"0s\"", "\"8d\""],
        ),
        (
            "bounds.connection_age",
            &["\"1s\"", "\"1day\""],
            &["\"1ms\"", "\"169h\""],
        ),
        ("bounds.surprise", &[], &["1"]),
        (
            "call_timeout",
            &["\"1ms\"", "\"60s\"", "\"1m\""],
            &["\"0s\"", "\"61s\"", "\"1h\""],
        ),
        (
            "redis.connect_timeout",
            &["\"1ms\"", "\"60s\""],
            &["\"0ms\"", "\"2m\""],
        ),
        (
            "redis.response_timeout",
            &["\"1ms\"", "\"60s\""],
            &["\"0ms\"", "\"60001ms\""],
        ),
        ("redis.wait_replicas", &["0", "100"], &["-1", "101"]),
        (
            "redis.database",
            &["0", "2147483647"],
            &["-1", "2147483648"],
        ),
        (
            "redis.key_prefix",
            &["\"a:\""],
            &["\"a{b\"", "\"a}b\"", "\"a\\tb\"", "\"a\\u007fb\""],
        ),
        (
            "usage_retention",
            &["\"1day\"", "\"035d\"", "\"3660days\""],
            &["\"0days\"", "\"3661days\"", "\"36h\""],
        ),
        ("usage_rows", &["2", "1000000"], &["1", "1000001"]),
        ("grace_period", &["\"1h\""], &["\"61m\""]),
        ("trace_ratio", &["0", "0.5", "1"], &["-0.1", "1.1"]),
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
        ),
    ] {
        let redis = "store.type=\"redis\"";
        let values = |value: &str| format!("settings.{key}={value}");
        let chart = |value: &str| {
            let words = [
                redis,
                "redis.existingSecret=\"it\"",
                "settings.grace_period=\"5m\"",
                &values(value),
            ];
            rendered(&words)
        };
        for value in taken {
            let made = chart(value).unwrap_or_else(|| panic!("the chart refuses {key} = {value}"));
            let text = made.settings();
            assert!(
                program_takes(text),
                "the program refuses {key} = {value}: {text}"
            );
        }
        for value in refused {
            assert!(chart(value).is_none(), "the chart takes {key} = {value}");
            assert!(
                !program_takes(&format!("{key} = {value}\n")),
                "the program takes {key} = {value}"
            );
        }
    }
}

#[test]
fn the_day_of_the_programmes_lists_is_not_said_of_others() {
    let org = "policy.orgs={\"o\": {\"tier\": 1, \"data_sharing\": \"all\"}}";
    let says = |more: &[&str]| {
        let made = rendered(&[&[org], more].concat()).unwrap();
        made.policy().unwrap().contains("as_of")
    };
    assert!(says(&[]));
    let lists = r#"{"large": {"models": ["a"]}, "mini": {"models": ["b"]}}"#;
    let lists = format!("policy.pools={lists}");
    assert!(!says(&[&lists]));
    assert!(says(&[
        &lists,
        "policy.program={\"as_of\": \"2026-11-01\"}"
    ]));
}

fn same_days(org: &str, key: &str) {
    let of = |day: &str| rendered(&[org, &format!("policy.program={{\"{key}\": \"{day}\"}}")]);
    let days = ["2027-12-31", "2028-02-29", "2000-02-29", "2027-04-30"];
    for day in days {
        let made = of(day).unwrap_or_else(|| panic!("the chart refuses {day}"));
        Policy::parse("it", made.policy().unwrap()).unwrap();
    }
    let good = of(days[0]).unwrap();
    for day in [
        "2027-02-29",
        "2100-02-29",
        "2027-02-30",
        "2027-04-31",
        "2027-13-01",
        "2027-00-10",
        "2027-1-1",
    ] {
        assert!(of(day).is_none(), "the chart takes {day}");
        let text = good.policy().unwrap().replace(days[0], day);
        assert!(
            Policy::parse("it", &text).is_err(),
            "the program takes {day}"
        );
    }
}

#[test]
fn chart_and_program_take_and_refuse_the_same_days_and_names() {
    let org = "policy.orgs={\"o\": {\"tier\": 1, \"data_sharing\": \"all\"}}";
    for key in ["ends_on", "as_of"] {
        same_days(org, key);
    }
    let project = |name: &str| {
        let org = format!(
            "{{\"o\": {{\"tier\": 1, \"data_sharing\": \"selected\", \"projects\": [\"{name}\"]}}}}"
        );
        rendered(&[&format!("policy.orgs={org}")])
    };
    let longest = "x".repeat(256);
    let made = project(&longest).unwrap();
    Policy::parse("it", made.policy().unwrap()).unwrap();
    let two_bytes = "ü".repeat(129);
    for (name, of_toml) in [(&*two_bytes, &*two_bytes), ("a\\tb", "a\\tb"), ("", "")] {
        assert!(project(name).is_none(), "the chart takes {name:?}");
        let text = made.policy().unwrap().replace(&longest, of_toml);
        assert!(
            Policy::parse("it", &text).is_err(),
            "the program takes {name:?}"
        );
    }
}
