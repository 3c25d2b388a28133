//! The real program with a callers file: its start, and the callers that it answers.

use std::{net::TcpListener, process::Command};

use tollgate::grpc::proto::GetQuotaRequest;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{URI, caller, callers, policy};
use crate::support::{
    calls::TextFile,
    tollgate::{Tollgate, program},
    tools::{ProgramOutput, run, tool},
};

fn with_callers(args: &[&str]) -> Tollgate {
    let (callers, policy) = (TextFile::new(&callers()), TextFile::new(&policy()));
    let files = ["--callers", callers.path(), "--policy", policy.path()];
    Tollgate::start(&[&files[..], &["--store", "memory:"], args].concat())
}

/// The message of a start that fails with this callers file.
fn refused(callers: &str, listen: &str) -> String {
    let file = TextFile::new(callers);
    let ran = run(program()
        .args(["serve", "--callers", file.path(), "--listen", listen])
        .args(["--http-listen", "127.0.0.1:0", "--store", "memory:"]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.stderr
}

#[test]
fn a_callers_file_that_is_missing_or_has_faults_ends_the_start() {
    let received = refused("[callers.a]\n", "127.0.0.1:0");
    assert!(
        received.contains(".toml:1: callers.a.roles: is missing"),
        "{received}"
    );
    let ran = run(program().args(["serve", "--callers", "/nowhere/callers.toml"]));
    let expected = "tollgate: the callers file /nowhere/callers.toml can't be read: ";
    assert!(ran.stderr.starts_with(expected), "{ran:?}");
}

#[test]
fn tokens_are_refused_at_the_start_where_others_could_read_them() {
    let received = refused(&callers(), "0.0.0.0:0");
    assert!(received.contains("callers have tokens"), "{received}");
    assert!(received.contains("no TLS"), "{received}");
    // Without tokens, plaintext is allowed.
    let by_certificate = format!("certificates = [\"{URI}\"]");
    let callers = TextFile::new(&caller("a", &by_certificate, "\"read\"", "*"));
    let args = [
        "--callers",
        callers.path(),
        "--listen",
        "0.0.0.0:0",
        "--store",
        "memory:",
    ];
    Tollgate::start(&args);
}

#[tokio::test]
async fn without_a_callers_file_the_start_warns_of_ports_that_others_can_reach() {
    let warnings = |args: &[&str]| {
        let tollgate = Tollgate::start(&[&["--store", "memory:"], args].concat());
        let log = tollgate.log();
        let messages = log.iter().filter_map(|line| line["message"].as_str());
        messages.filter(|it| it.contains("no callers file")).count()
    };
    assert_eq!(warnings(&[]), 0);
    assert_eq!(warnings(&["--listen", "0.0.0.0:0"]), 1);
    // Some systems have no IPv6.
    let every = ["[::]:0", "0.0.0.0:0"].map(|every| TcpListener::bind(every).map(|_| every));
    let every = every.into_iter().find_map(Result::ok).unwrap();
    assert_eq!(warnings(&["--http-listen", every]), 1);
}

/// Lists the services, with these flags.
fn list(version: &str, tollgate: &Tollgate, flags: &[&str]) -> ProgramOutput {
    let mut command = Command::new(tool(version));
    command.arg("-plaintext").args(flags);
    run(command.args([&tollgate.addr, "list"]))
}

#[tokio::test]
async fn reflection_is_for_everyone_for_callers_or_off() {
    let settings = |reflection: &str| {
        let file = TextFile::new(&format!("reflection = \"{reflection}\"\n"));
        with_callers(&["--config", file.path()])
    };
    let (everyone, callers, off) = (settings("everyone"), settings("callers"), settings("off"));
    for version in ["bin/grpcurl", "bin/grpcurl-1.8.6"] {
        let with_token = |tollgate, token: &str| {
            let header = format!("authorization: Bearer {token}");
            list(version, tollgate, &["-H", &header])
        };
        let anonymous = list(version, &everyone, &[]).expect_success();
        assert!(
            anonymous.contains("tollgate.v1.QuotaService"),
            "{anonymous}"
        );
        let ran = list(version, &callers, &[]);
        assert_ne!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains("known callers"), "{ran:?}");
        let ran = with_token(&callers, "tg_wrong");
        assert_ne!(ran.code, Some(0), "{ran:?}");
        for token in ["tg_reader", "tg_reserver"] {
            let listed = with_token(&callers, token).expect_success();
            assert!(listed.contains("tollgate.v1.QuotaService"), "{listed}");
        }
        let ran = with_token(&off, "tg_everywhere");
        assert_ne!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains("reflection"), "{ran:?}");
    }
    let file = TextFile::new("reflection = \"callers\"\n");
    let ran = run(program().args(["serve", "--config", file.path()]));
    assert_eq!(ran.code, Some(1));
    let expected = "tollgate: reflection: \"callers\" needs a callers file";
    assert!(ran.stderr.starts_with(expected), "{ran:?}");
}

#[tokio::test]
async fn health_is_for_everyone_and_the_log_has_no_secret() {
    let tollgate = with_callers(&[]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let org = "acme".to_owned();
    let mut client = tollgate.client();
    let mut request = tonic::Request::new(GetQuotaRequest { org });
    let anonymous = client
        .get_quota(GetQuotaRequest {
            org: "acme".to_owned(),
        })
        .await;
    assert_eq!(anonymous.unwrap_err().code(), Code::Unauthenticated);
    let token = "Bearer tg_wrong_and_secret".parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    let wrong = client.get_quota(request).await;
    assert_eq!(wrong.unwrap_err().code(), Code::Unauthenticated);
    let log = tollgate.log();
    let refused = log.iter().find(|line| line["reason"].is_string()).unwrap();
    let peer = refused["peer"].as_str().unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{refused}");
    let text = format!("{log:?}");
    assert!(
        !text.contains("secret") && !text.contains("sha256"),
        "{text}"
    );
}
