//! Helm's notes: their first call, made against the real program, and their warnings.

use std::{fs, process::Command};

use serde_json::Value;

use super::{ROOT, complete_chart, pod::Pod, render, template, values};
use crate::support::tools::{run, tool};

/// The notes after an installation. Helm renders them only with a cluster, so this renders them as a manifest.
fn notes(set: &str, words: &[&str]) -> String {
    let chart = complete_chart();
    let notes = fs::read_to_string(chart.path().join("templates/NOTES.txt")).unwrap();
    let shown = format!(
        "{{{{ define \"notes\" }}}}{notes}{{{{ end }}}}notes: {{{{ include \"notes\" . | toJson }}}}\n"
    );
    fs::write(chart.path().join("templates/notes.yaml"), shown).unwrap();
    let values = values(set);
    let words = [
        &["-f", &values, "--show-only", "templates/notes.yaml"],
        words,
    ]
    .concat();
    let text = template(chart.path(), &words).expect_success();
    let made: Value = serde_saphyr::from_str(&text).unwrap();
    made["notes"].as_str().unwrap().to_owned()
}

/// The call in the notes, as a shell command.
fn first_call(notes: &str) -> String {
    let from = notes
        .find("  grpcurl ")
        .unwrap_or_else(|| panic!("{notes}"));
    let call = &notes[from..];
    call[..call.find("\n\n").unwrap()].trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_of_the_notes_can_be_typed_as_it_stands() {
    for (set, words) in [
        ("default", [].as_slice()),
        ("file", &["--set", "settings.reflection=off"]),
    ] {
        let pod = Pod::start(set);
        let notes = notes(set, words);
        assert!(notes.contains("kubectl -n ns port-forward svc/rel-tollgate 50051:50051 &"));
        let call = first_call(&notes);
        assert!(call.contains(" 127.0.0.1:50051 "), "{call}");
        let call = call.replace("127.0.0.1:50051", &pod.service.addr);
        let grpcurl = tool("bin/grpcurl");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &call]).current_dir(ROOT);
        shell.env(
            "PATH",
            format!("{}:/usr/bin:/bin", grpcurl.parent().unwrap().display()),
        );
        let answer: Value = serde_json::from_str(&run(&mut shell).expect_success()).unwrap();
        assert!(answer["verdict"].is_string(), "{answer}");
        if set == "default" {
            assert_eq!(answer["verdict"], "VERDICT_FREE");
        }
    }
}

#[test]
fn the_notes_of_a_port_with_tls_show_certificates_and_the_token() {
    let with_certificate = first_call(&notes("mtls", &[]));
    assert!(
        with_certificate.starts_with("grpcurl -cacert ca.crt -cert client.crt -key client.key"),
        "{with_certificate}"
    );
    assert!(
        with_certificate.contains("-authority rel-tollgate.ns.svc"),
        "{with_certificate}"
    );
    let with_token = first_call(&notes("everything", &[]));
    assert!(
        with_token.contains("-H \"authorization: Bearer $TOKEN\""),
        "{with_token}"
    );
    assert!(!with_token.contains("-plaintext"), "{with_token}");
}

/// Replaces the load balancer of a set of values.
const CLUSTER_IP: &str =
    "service.type=ClusterIP,service.loadBalancerClass=,service.loadBalancerSourceRanges=null";

const OPEN: &str = "anyone who can reach the gRPC port may reserve";
const DEMO: &str = "the built-in policy is in use";
const ONE_REPLICA: &str = "there is one replica, because the counters are in a file";
const UNREACHABLE: &str = "only a Prometheus in the namespace ns can scrape";
const UNTRUSTED: &str = "serviceMonitor.tlsConfig is empty";

/// A set of values, more words for helm, and the warnings in the notes.
type Warnings = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const WARNINGS: &[Warnings] = &[
    ("default", &[], &[DEMO, ONE_REPLICA, OPEN]),
    (
        "memory",
        &[],
        &[
            DEMO,
            "the counters are in memory. A restart resets them",
            OPEN,
            "opens the gRPC port",
        ],
    ),
    (
        "sentinel",
        &[],
        &[
            DEMO,
            OPEN,
            "If Redis evicts counters, more than the allowance",
        ],
    ),
    ("file", &[], &[ONE_REPLICA, OPEN]),
    ("redis", &[], &[OPEN]),
    ("scaled", &[], &[DEMO]),
    ("mtls", &[], &[DEMO]),
    (
        "everything",
        &["--set", CLUSTER_IP],
        &[UNREACHABLE, UNTRUSTED],
    ),
    (
        "everything",
        &[
            "--set",
            CLUSTER_IP,
            "--set",
            "networkPolicy.httpFrom[0].podSelector.matchLabels.a=b",
            "--set",
            "serviceMonitor.tlsConfig.serverName=it",
        ],
        &[],
    ),
    ("http-tls", &[], &[DEMO, ONE_REPLICA, OPEN]),
    ("redis", &["--set", "settings.redis=null"], &[OPEN]),
    ("otlp", &[], &[DEMO, ONE_REPLICA, OPEN]),
];

#[test]
fn the_notes_warn_of_risks_and_of_nothing_else() {
    for (set, words, expected) in WARNINGS {
        let notes = notes(set, words);
        for warning in [
            OPEN,
            DEMO,
            ONE_REPLICA,
            UNREACHABLE,
            UNTRUSTED,
            "resets",
            "opens the gRPC port",
            "evicts",
        ] {
            let wanted = expected.iter().any(|it| it.contains(warning));
            assert_eq!(notes.contains(warning), wanted, "{set}: {warning}: {notes}");
        }
        for warning in *expected {
            assert!(notes.contains(warning), "{set}: {warning}: {notes}");
        }
        let no_test = "`helm test` has nothing to run";
        assert_eq!(
            notes.contains(no_test),
            render(set).tests().is_empty(),
            "{set}"
        );
    }
}
