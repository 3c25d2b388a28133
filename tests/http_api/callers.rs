//! Who may call: the same as over gRPC.

use serde_json::{Value, json};
use tollgate::auth::TokenHash;

use super::{Answer, Service, curl, new_reserve, post};
use crate::support::{
    calls::TextFile,
    certificates::{Authority, Encryption},
    tollgate::program,
    tools::run,
};

const URI: &str = "spiffe://example.org/gateway";

fn caller(name: &str, known_by: &str, roles: &str) -> String {
    format!("[callers.{name}]\n{known_by}\nroles = [{roles}]\norganizations = [\"acme\"]\n")
}

fn token(token: &str) -> String {
    format!("tokens = [\"{}\"]", TokenHash::of(token.as_bytes()))
}

fn callers() -> TextFile {
    let certificate = format!("certificates = [\"{URI}\"]");
    let callers = [
        caller("reserver", &token("tg_reserver"), "\"reserve\""),
        caller("reader", &token("tg_reader"), "\"read\""),
        caller("gateway", &certificate, "\"reserve\", \"read\""),
    ];
    TextFile::new(&callers.concat())
}

fn unauthenticated() -> (u16, String) {
    (401, "unauthenticated".to_owned())
}

fn denied() -> (u16, String) {
    (403, "permission_denied".to_owned())
}

/// What each method is called with.
fn bodies(org: &str) -> [(&'static str, Value); 5] {
    let mut reserve = new_reserve(1, "");
    reserve["org"] = org.into();
    [
        ("Reserve", reserve),
        (
            "Settle",
            json!({"org": org, "requestId": "never", "tokens": 1}),
        ),
        ("Release", json!({"org": org, "requestId": "never"})),
        ("GetQuota", json!({"org": org})),
        ("ListUsage", json!({"org": org})),
    ]
}

#[test]
fn each_method_needs_its_role_for_the_organization() {
    let callers = callers();
    let service = Service::start_with("", &["--callers", callers.path()]);
    let addr = &service.tollgate.http_addr;
    let call = |method: &str, body: &Value, token: &str| {
        let header = format!("authorization: Bearer {token}");
        post(addr, method, &body.to_string(), &["--header", &header])
    };
    for org in ["acme", "other", "stranger"] {
        for (method, body) in bodies(org) {
            let is_query = matches!(method, "GetQuota" | "ListUsage");
            let nobody = post(addr, method, &body.to_string(), &[]);
            assert_eq!(
                nobody.failure(&["present a client certificate"]),
                unauthenticated(),
                "{method}"
            );
            assert_eq!(nobody.header("www-authenticate"), Some("bearer"));
            let strange = call(method, &body, "tg_wrong");
            assert_eq!(
                strange.failure(&["no known caller"]),
                unauthenticated(),
                "{method}"
            );
            for (token, may) in [("tg_reserver", !is_query), ("tg_reader", is_query)] {
                let answer = call(method, &body, token);
                if !may {
                    assert_eq!(answer.failure(&["role"]), denied(), "{method}");
                } else if org != "acme" {
                    assert_eq!(answer.failure(&["this organization"]), denied(), "{method}");
                } else {
                    let wanted = if matches!(method, "Settle" | "Release") {
                        404
                    } else {
                        200
                    };
                    assert_eq!(answer.status, wanted, "{method}: {answer:?}");
                }
            }
        }
    }
    // Unlike the page, it takes no password: a browser would send it by itself.
    let basic = post(
        addr,
        "GetQuota",
        "{\"org\": \"acme\"}",
        &["--user", "x:tg_reader"],
    );
    assert_eq!(basic.failure(&[]), unauthenticated());
}

#[test]
fn a_caller_is_checked_before_its_message_is_read() {
    let callers = callers();
    let service = Service::start_with("", &["--callers", callers.path()]);
    for body in ["{", "{\"tokns\": 1}", "{\"tokens\": -1}"] {
        assert_eq!(
            service.reserve(body, &[]).failure(&[]),
            unauthenticated(),
            "{body}"
        );
    }
}

#[test]
fn a_caller_may_be_known_by_its_certificate() {
    let (authority, callers) = (Authority::new(), callers());
    let Encryption { ca, cert, key } = authority.encryption("localhost");
    let settings = format!(
        "[http_tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\nclient_ca_file = \"{ca}\"\n\
         client_certificates = \"optional\"\n"
    );
    let service = Service::start_with(&settings, &["--callers", callers.path()]);
    let port = service.tollgate.http_addr.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/tollgate.v1.QuotaService/Reserve");
    let reserve = |args: &[&str]| -> Answer {
        let body = new_reserve(1, "").to_string();
        let header = "content-type: application/json";
        let call = ["--cacert", &ca, "--header", header, "--data", &body, &url];
        curl(&[&call, args].concat())
    };
    let known = authority.sign_names("gateway", &[URI]);
    reserve(&["--cert", &known.cert, "--key", &known.key]).expect_ok();
    let unknown = authority.sign_names("stranger", &["stranger.internal"]);
    let answer = reserve(&["--cert", &unknown.cert, "--key", &unknown.key]);
    assert_eq!(answer.failure(&[]), unauthenticated());
    reserve(&["--header", "authorization: Bearer tg_reserver"]).expect_ok();
    assert_eq!(reserve(&[]).failure(&[]), unauthenticated());
}

#[test]
fn without_tls_beyond_loopback_a_token_is_refused() {
    let callers = callers();
    let args = ["--callers", callers.path(), "--http-listen", "0.0.0.0:0"];
    let service = Service::start_with("", &args);
    let addr = service.tollgate.http_addr.replace("0.0.0.0", "127.0.0.1");
    for token in ["tg_reserver", "tg_wrong"] {
        let header = format!("authorization: Bearer {token}");
        let body = new_reserve(1, "").to_string();
        let answer = post(&addr, "Reserve", &body, &["--header", &header]);
        assert_eq!(answer.failure(&["TLS"]), unauthenticated());
    }
}

#[test]
fn without_callers_it_is_served_on_loopback_only() {
    let settings = TextFile::new("http_api = true\n");
    let start = ["serve", "--store", "memory:", "--listen", "127.0.0.1:0"];
    for listen in ["0.0.0.0:0", ":0"] {
        let args = ["--config", settings.path(), "--http-listen", listen];
        let ran = run(program().args([&start[..], &args].concat()));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for word in ["http_api", "http_listen", listen, "--callers", "loopback"] {
            assert!(ran.stderr.contains(word), "{word}: {ran:?}");
        }
    }
    // A unix socket counts as loopback.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let socket = socket.to_str().unwrap();
    let listen = format!("unix:{socket}");
    let service = Service::start_with("", &["--http-listen", &listen]);
    assert_eq!(service.tollgate.http_addr, listen);
    let body = new_reserve(1, "").to_string();
    post("localhost", "Reserve", &body, &["--unix-socket", socket]).expect_ok();
}
