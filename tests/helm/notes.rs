//! The notes that helm prints: their first call, made against the real program, and what they warn of.

use std::{fs, process::Command};

use serde_json::Value;

use super::{ROOT, complete_chart, pod::Pod, render, template, values};
use crate::support::tools::{run, tool};

/// The notes that helm prints after an installation. Helm renders them only where it has a cluster, so they are
/// made a manifest here.
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
    let text = template(chart.path(), &words).good();
    let made: Value = serde_saphyr::from_str(&text).unwrap();
    made["notes"].as_str().unwrap().to_owned()
}

/// The call in the notes, as a shell reads it.
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
        let answer: Value = serde_json::from_str(&run(&mut shell).good()).unwrap();
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

/// Instead of the load balancer.
const INSIDE: &str =
    "service.type=ClusterIP,service.loadBalancerClass=,service.loadBalancerSourceRanges=null";

#[test]
fn the_notes_warn_of_what_is_risky_and_of_nothing_else() {
    let open = "whoever reaches the gRPC port may reserve";
    let demo = "this is the built-in policy";
    let one =
        "one replica has the file: an upgrade, or a drain of its node, is a pause of some seconds";
    let unreached = "only a Prometheus in the namespace ns reaches";
    let untrusted = "serviceMonitor.tlsConfig is empty";
    for (set, words, told) in [
        ("default", [].as_slice(), [demo, one, open].as_slice()),
        (
            "memory",
            &[],
            &[
                demo,
                "the counters are in memory: each restart forgets",
                open,
                "opens the gRPC port",
            ],
        ),
        (
            "sentinel",
            &[],
            &[demo, open, "a Redis that evicts may grant more"],
        ),
        ("file", &[], &[one, open]),
        ("redis", &[], &[open]),
        ("scaled", &[], &[demo]),
        ("mtls", &[], &[demo]),
        ("everything", &["--set", INSIDE], &[unreached, untrusted]),
        (
            "everything",
            &[
                "--set",
                INSIDE,
                "--set",
                "networkPolicy.httpFrom[0].podSelector.matchLabels.a=b",
                "--set",
                "serviceMonitor.tlsConfig.serverName=it",
            ],
            &[],
        ),
        ("http-tls", &[], &[demo, one, open]),
        ("redis", &["--set", "settings.redis=null"], &[open]),
        ("otlp", &[], &[demo, one, open]),
    ] {
        let notes = notes(set, words);
        for said in [
            open,
            demo,
            one,
            unreached,
            untrusted,
            "forgets",
            "opens the gRPC port",
            "evicts",
        ] {
            let wanted = told.iter().any(|it| it.contains(said));
            assert_eq!(notes.contains(said), wanted, "{set}: {said}: {notes}");
        }
        for said in told {
            assert!(notes.contains(said), "{set}: {said}: {notes}");
        }
        let no_test = "`helm test` has nothing to run";
        assert_eq!(
            notes.contains(no_test),
            render(set).tests().is_empty(),
            "{set}"
        );
    }
}
