//! The HTTP port: probes are open, quotas need a caller with the role read.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{callers, policy};
use crate::support::{calls::TextFile, tollgate::Tollgate};

/// The status, head and body of a GET with these headers.
fn get(addr: &str, path: &str, headers: &[&str]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    let timeout = Some(Duration::from_secs(10));
    stream.set_read_timeout(timeout).unwrap();
    let headers = headers.iter().map(|it| format!("Authorization: {it}\r\n"));
    let headers: String = headers.collect();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn start(http_listen: &str) -> Tollgate {
    let (callers, policy) = (TextFile::new(&callers()), TextFile::new(&policy()));
    let args = ["--callers", callers.path(), "--policy", policy.path()];
    let args = [
        &args[..],
        &["--store", "memory:", "--http-listen", http_listen],
    ]
    .concat();
    Tollgate::start(&args)
}

fn basic(login: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(login))
}

const QUOTAS: [&str; 4] = [
    "/api/orgs",
    "/api/quota?org=acme",
    "/orgs/acme",
    "/usage.csv?org=acme",
];

#[tokio::test]
async fn probes_and_what_pages_are_made_of_are_for_everyone() {
    let tollgate = start("127.0.0.1:0");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    for path in ["/livez", "/readyz", "/style.css", "/script.js"] {
        assert_eq!(get(&tollgate.http_addr, path, &[]).0, 200, "{path}");
        // With any credentials.
        let wrong = ["Bearer tg_wrong"];
        assert_eq!(get(&tollgate.http_addr, path, &wrong).0, 200, "{path}");
    }
}

#[tokio::test]
async fn quotas_need_a_caller_with_the_role_read() {
    let tollgate = start("127.0.0.1:0");
    let addr = &tollgate.http_addr;
    for path in QUOTAS {
        for headers in [
            vec![],
            vec!["Bearer tg_wrong".to_owned()],
            vec![basic("x:tg_wrong")],
            vec![basic("tg_reader")],
            vec![basic("tg_reader:")],
            vec!["Basic !".to_owned()],
            vec!["Bearer tg_reader".to_owned(), basic("x:tg_reader")],
        ] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let (status, head, _) = get(addr, path, &headers);
            assert_eq!(status, 401, "{path}: {headers:?}");
            let asks = head.contains("www-authenticate: basic realm=\"tollgate\"");
            assert!(asks, "{head}");
        }
        assert_eq!(get(addr, path, &["Bearer tg_reserver"]).0, 403, "{path}");
        for header in [
            "Bearer tg_reader".to_owned(),
            basic(":tg_reader"),
            basic("anybody:tg_reader"),
            basic("x:tg_everywhere"),
        ] {
            assert_eq!(get(addr, path, &[&header]).0, 200, "{path}: {header}");
        }
    }
}

#[tokio::test]
async fn quotas_of_other_organizations_are_not_shown_nor_whether_they_exist() {
    let tollgate = start("127.0.0.1:0");
    let addr = &tollgate.http_addr;
    let orgs = |token: &str| {
        let (_, _, body) = get(addr, "/api/orgs", &[&format!("Bearer {token}")]);
        serde_json::from_str::<Value>(&body).unwrap()
    };
    assert_eq!(orgs("tg_reader"), json!(["acme"]));
    assert_eq!(orgs("tg_elsewhere"), json!(["other"]));
    assert_eq!(orgs("tg_everywhere"), json!(["acme", "other"]));
    let quota = |org: &str| {
        get(
            addr,
            &format!("/api/quota?org={org}"),
            &["Bearer tg_reader"],
        )
    };
    assert_eq!(quota("acme").0, 200);
    let [known, unknown] = ["other", "stranger"].map(|org| {
        let (status, _, body) = quota(org);
        (status, body)
    });
    assert_eq!(known.0, 403);
    assert_eq!(known, unknown);
}

#[tokio::test]
async fn on_a_readable_connection_no_token_is_requested_or_accepted() {
    // All addresses, so not loopback; the test connects over loopback.
    let tollgate = start("0.0.0.0:0");
    let addr = tollgate.http_addr.replace("0.0.0.0", "127.0.0.1");
    for path in QUOTAS {
        for headers in [vec![], vec!["Bearer tg_reader"], vec!["Bearer tg_wrong"]] {
            let (status, head, body) = get(&addr, path, &headers);
            assert_eq!(status, 403, "{path}: {headers:?}");
            assert!(!head.contains("www-authenticate"), "{head}");
            assert!(body.contains("TLS"), "{body}");
        }
    }
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(get(&addr, "/readyz", &[]).0, 200);
}
