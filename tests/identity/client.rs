//! The built-in client over TLS and with a token.

use std::process::Command;

use super::{Service, URI, listener::TestPort};
use crate::support::{
    tollgate::program,
    tools::{ProgramOutput, run},
};

impl Service {
    /// `tollgate quota acme` over TLS, with more arguments.
    async fn quota(&self, args: &[&str]) -> ProgramOutput {
        quota(
            &self.tls,
            &[&["--ca-file", &self.authority.file()], args].concat(),
        )
        .await
    }
}

/// `tollgate quota acme` for this service, which runs on the test's own runtime.
async fn quota(wire: &TestPort, args: &[&str]) -> ProgramOutput {
    let scheme = if wire.is_encrypted() { "https" } else { "http" };
    let addr = format!("{scheme}://localhost:{}", wire.address.port());
    run_client(&[&["quota", "acme", "--addr", &addr], args].concat()).await
}

async fn run_client(args: &[&str]) -> ProgramOutput {
    let mut command = program();
    command.args(args);
    ran(command).await
}

async fn ran(mut command: Command) -> ProgramOutput {
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

#[track_caller]
fn assert_fails(ran: &ProgramOutput, code: i32, expected: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
}

#[tokio::test]
async fn a_caller_shows_its_token_or_its_certificate() {
    let service = Service::start().await;
    let printed = service
        .quota(&["--token", "tg_reader"])
        .await
        .expect_success();
    assert!(printed.contains("large"), "{printed}");
    let files = service.certificate(&[URI]);
    let certificate = ["--cert-file", &files.cert, "--key-file", &files.key];
    service.quota(&certificate).await.expect_success();
    quota(&service.loopback, &["--token", "tg_reader"])
        .await
        .expect_success();
    let mut command = program();
    let addr = format!("https://localhost:{}", service.tls.address.port());
    let ca = service.authority.file();
    command.args(["quota", "acme", "--addr", &addr, "--ca-file", &ca]);
    command.env("TOLLGATE_TOKEN", "tg_reader");
    ran(command).await.expect_success();
    let refused = service.quota(&[]).await;
    assert_fails(
        &refused,
        1,
        "tollgate: UNAUTHENTICATED: this service answers known callers",
    );
    let refused = service.quota(&["--token", "tg_reserver"]).await;
    let expected = "tollgate: PERMISSION_DENIED: this caller does not have the role \"read\"";
    assert_fails(&refused, 1, expected);
}

#[tokio::test]
async fn the_services_certificate_must_be_for_its_name_and_of_the_authority() {
    let service = Service::start().await;
    let port = service.tls.address.port();
    let ca = service.authority.file();
    let by_address = format!("https://127.0.0.1:{port}");
    let reserve = async |args: &[&str]| {
        let common = ["quota", "acme", "--token", "tg_reader", "--addr"];
        run_client(&[&common[..], args].concat()).await
    };
    let refused = reserve(&[&by_address, "--ca-file", &ca]).await;
    assert_fails(&refused, 1, "is not for 127.0.0.1: it is for localhost");
    reserve(&[&by_address, "--ca-file", &ca, "--server-name", "localhost"])
        .await
        .expect_success();
    // The certificate's authority is not a public one.
    let by_name = format!("https://localhost:{port}");
    assert_fails(
        &reserve(&[&by_name]).await,
        1,
        "UNAVAILABLE: no answer from https://localhost",
    );
}

#[tokio::test]
async fn bench_presents_its_credentials_too() {
    let service = Service::start().await;
    let addr = format!("https://localhost:{}", service.tls.address.port());
    let ca = service.authority.file();
    // At this rate, each due request is sent, also on a slow machine.
    let load = "bench --org acme --rate 50 --duration 500ms --callers 2 --json";
    let load: Vec<&str> = load.split(' ').collect();
    let who = ["--addr", &addr, "--ca-file", &ca, "--token", "tg_reserver"];
    for more in [&[][..], &["--stream"]] {
        let printed = run_client(&[&load, &who[..], more].concat())
            .await
            .expect_success();
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(printed["verdicts"]["FREE"], 25, "{printed}");
    }
}

#[tokio::test]
async fn options_that_need_tls_are_refused_without_it() {
    for (args, expected) in [
        (
            vec!["--addr", "gateway.example.org:50051", "--token", "tg_x"],
            "the token is not sent: without TLS everybody on the way could read it",
        ),
        (
            vec!["--addr", "http://192.0.2.1:50051", "--token", "tg_x"],
            "the token is not sent",
        ),
        (vec!["--ca-file", "ca.pem"], "--ca-file is for TLS"),
        (vec!["--server-name", "x"], "--server-name is for TLS"),
        (
            vec!["--cert-file", "a.pem", "--key-file", "a.key"],
            "--cert-file is for TLS",
        ),
        (vec!["--cert-file", "a.pem"], "--key-file"),
        (vec!["--token", "two words"], "--token: is not one word"),
        (
            vec!["--token", "secret\nx"],
            "--token: holds a control character",
        ),
        (vec!["--addr", "https://x/y"], "https://HOST:PORT"),
    ] {
        let ran = run_client(&[&["quota", "acme"], &args[..]].concat()).await;
        assert_fails(&ran, 2, expected);
        let token = ["tg_x", "two words", "secret"].map(|token| ran.stderr.contains(token));
        assert_eq!(token, [false; 3], "{ran:?}");
    }
    let ran = run_client(&[
        "quota",
        "acme",
        "--addr",
        "https://x:1",
        "--ca-file",
        "/nowhere.pem",
    ])
    .await;
    assert_fails(&ran, 1, "/nowhere.pem can't be read");
}
