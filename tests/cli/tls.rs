//! The client describes faults of TLS in plain words.

use rcgen::{CertificateParams, date_time_ymd};

use super::tollgate;
use crate::support::{
    calls::TextFile,
    certificates::{Authority, Files},
    redis::RedisServer,
    tollgate::Tollgate,
    tools::ProgramOutput,
};

/// A service with this certificate; `more` is appended to its section `[tls]`.
fn start(files: &Files, more: &str) -> Tollgate {
    let Files { cert, key } = files;
    let tls = format!("cert_file = {cert:?}\nkey_file = {key:?}\n");
    let settings = TextFile::new(&format!("[tls]\n{tls}{more}\n[http_tls]\n{tls}"));
    Tollgate::start(&["--store", "memory:", "--config", settings.path()])
}

/// `tollgate quota` for a service's port, by this name or address.
fn quota(scheme: &str, host: &str, addr: &str, args: &[&str]) -> ProgramOutput {
    let (_, port) = addr.rsplit_once(':').unwrap();
    let addr = format!("{scheme}://{host}:{port}");
    tollgate(&[&["quota", "org-demo", "--addr", &addr], args].concat())
}

#[track_caller]
fn assert_message(ran: &ProgramOutput, expected: &str) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[test]
fn a_wrong_scheme_or_port_in_the_address_is_reported_as_such() {
    let authority = Authority::new();
    let encrypted = start(&authority.sign("server", &["localhost"]), "");
    let ca = authority.file();
    let port = encrypted.addr.rsplit_once(':').unwrap().1;
    for _ in 0..5 {
        let ran = quota("http", "localhost", &encrypted.addr, &[]);
        let expected = format!("the port speaks TLS: use --addr https://localhost:{port}");
        assert_message(&ran, &expected);
    }
    let plaintext = Tollgate::start(&["--store", "memory:"]);
    for addr in [&plaintext.addr, &plaintext.http_addr] {
        let ran = quota("https", "localhost", addr, &["--ca-file", &ca]);
        assert_message(
            &ran,
            "the port does not speak TLS: use --addr http://HOST:PORT",
        );
    }
    let ran = quota("http", "127.0.0.1", &plaintext.http_addr, &[]);
    assert_message(
        &ran,
        "the port speaks HTTP/1: the service's gRPC port is another one",
    );
    let ran = quota(
        "https",
        "localhost",
        &encrypted.http_addr,
        &["--ca-file", &ca],
    );
    assert_message(&ran, "the port speaks TLS, and over it another protocol");
}

#[test]
fn a_fault_of_the_services_certificate_is_reported_in_plain_words() {
    let (authority, other) = (Authority::new(), Authority::new());
    let at = |year| date_time_ymd(year, 1, 1);
    let dated = |name: &str, from, to| {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(from), at(to));
        authority.sign_params(name, params)
    };
    let named = authority.sign("named", &["a.example", "b.example"]);
    for (files, ca, expected) in [
        (
            dated("expired", 2020, 2021),
            &authority,
            "the server's certificate expired at 2021-01-01T00:00:00Z",
        ),
        (
            dated("early", 2090, 2091),
            &authority,
            "the server's certificate is not valid before 2090-01-01T00:00:00Z",
        ),
        (
            named,
            &authority,
            "the server's certificate is not for localhost: it is for a.example, b.example",
        ),
        (
            authority.sign("nameless", &[]),
            &authority,
            "is not for localhost: it has no subject alternative name",
        ),
        (
            authority.sign("foreign", &["localhost"]),
            &other,
            "the server's certificate is signed by no authority in --ca-file",
        ),
        (
            authority.self_signed("itself", &["localhost"]),
            &other,
            "the server's certificate is its own authority, and is not in --ca-file",
        ),
    ] {
        let tollgate = start(&files, "");
        let ca = ca.file();
        let ran = quota("https", "localhost", &tollgate.addr, &["--ca-file", &ca]);
        assert_message(&ran, expected);
    }
    // Without --ca-file, the system's authorities decide.
    let tollgate = start(&authority.sign("server", &["localhost"]), "");
    let ran = quota("https", "localhost", &tollgate.addr, &[]);
    assert_message(&ran, "--ca-file");
}

#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_where_it_is_the_ca_file() {
    let authority = Authority::new();
    let files = authority.self_signed("itself", &["localhost"]);
    let tollgate = start(&files, "");
    let pinned = ["--ca-file", &files.cert];
    quota("https", "localhost", &tollgate.addr, &pinned).expect_success();
    // Its name is checked all the same.
    let ran = quota("https", "127.0.0.1", &tollgate.addr, &pinned);
    assert_message(&ran, "is not for 127.0.0.1: it is for localhost");
}

#[test]
fn a_missing_or_refused_client_certificate_is_reported_in_plain_words() {
    let (authority, other) = (Authority::new(), Authority::new());
    let asks = format!("client_ca_file = {:?}\n", authority.file());
    let tollgate = start(&authority.sign("server", &["localhost"]), &asks);
    let ca = authority.file();
    let connect = |client: Option<&Files>| {
        let mut args = vec!["--ca-file", &ca];
        if let Some(Files { cert, key }) = client {
            args.extend(["--cert-file", cert, "--key-file", key]);
        }
        quota("https", "localhost", &tollgate.addr, &args)
    };
    connect(Some(&authority.sign("known", &["a"]))).expect_success();
    let missing = "the server asks for a client certificate: set --cert-file and --key-file";
    let unknown = "the server refuses the client certificate of --cert-file and --key-file: it does not trust";
    let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2021, 1, 1);
    let expired = authority.sign_params("expired", params);
    for _ in 0..5 {
        assert_message(&connect(None), missing);
        assert_message(&connect(Some(&other.sign("foreign", &["a"]))), unknown);
        assert_message(&connect(Some(&expired)), "it finds it expired");
    }
}

#[test]
fn an_address_without_a_port_and_invalid_files_are_reported_before_anything_is_sent() {
    for addr in ["localhost", "https://localhost", "[::1]", "localhost:"] {
        let ran = tollgate(&["quota", "org-demo", "--addr", addr]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(
            ran.stderr
                .contains("names no port from 1 to 65535: HOST:50051"),
            "{ran:?}"
        );
    }
    let nothing = TextFile::new("nothing");
    let ran = quota("https", "localhost", ":1", &["--ca-file", nothing.path()]);
    assert_message(&ran, "holds no certificate in PEM");
    let ran = quota("https", "localhost", ":1", &["--server-name", "a b"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.stderr
            .contains("\"a b\" is neither a DNS name nor an IP address"),
        "{ran:?}"
    );
}

#[test]
fn an_authority_with_a_new_key_is_reported_as_such() {
    let [before, now] = ["the authority"; 2].map(Authority::of_name);
    let tollgate = start(&now.sign("server", &["localhost"]), "");
    let of = |authority: &Authority| ["--ca-file".to_owned(), authority.file()];
    let connect = |args: [String; 2]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        quota("https", "localhost", &tollgate.addr, &args)
    };
    connect(of(&now)).expect_success();
    let expected =
        "is signed with another key than that of the authority of this name in --ca-file";
    assert_message(&connect(of(&before)), expected);
}

#[test]
fn a_port_of_another_protocol_is_reported_as_such() {
    let redis = RedisServer::start();
    let url = redis.url();
    let ran = quota("http", "127.0.0.1", url.trim_end_matches("/0"), &[]);
    assert_message(&ran, "UNAVAILABLE: no answer from ");
    assert_message(&ran, "the port speaks another protocol than gRPC");
}
