//! docs/CONTRACT.md, "The dashboard": its pages in a real browser, and what the routes refuse.

mod accessibility;
mod browser;
mod drift;
mod external;
mod external_changes;
mod figures;
mod live;
mod login;
mod names;
mod organizations;
mod outages;
mod routes;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tollgate::{auth::TokenHash, grpc::proto::ReserveRequest};

use crate::support::{
    calls::Client,
    clock::Clock,
    tollgate::Tollgate,
    world::{NOON, small_policy},
};

/// A service at noon of 2026-11-22 with the policy of [`small_policy`].
struct Site {
    tollgate: Tollgate,
    clock: Clock,
    _policy: crate::support::calls::TextFile,
}

/// Sorts the table of projects by a click, without a reload.
async fn sort_projects_by_name(browser: &browser::Browser) {
    browser
        .click("#project-table thead th:nth-of-type(1) a")
        .await;
    browser
        .wait_for(
            "document.querySelector('#project-table th[aria-sort]')?.ariaSort === 'ascending'",
        )
        .await;
}

impl Site {
    fn start(policy: &str, args: &[&str]) -> Self {
        let clock = Clock::at(NOON);
        let policy = crate::support::calls::TextFile::new(policy);
        let args = [&["--store", "memory:", "--policy", policy.path()], args].concat();
        Self {
            tollgate: Tollgate::start_at(&clock, &args),
            clock,
            _policy: policy,
        }
    }

    fn small() -> Self {
        Self::start(&small_policy("keep_open"), &[])
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.tollgate.http_addr)
    }

    fn client(&self) -> Client {
        self.tollgate.client()
    }
}

/// Counts a request.
async fn count(client: &Client, org: &str, project: &str, model: &str, tokens: u64) {
    let request = ReserveRequest {
        org: org.to_owned(),
        project: project.to_owned(),
        model: model.to_owned(),
        tokens,
        ..ReserveRequest::default()
    };
    client.clone().reserve(request).await.unwrap();
}

/// An answer over HTTP.
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

/// A request with these lines as headers beside `Host`.
fn request(addr: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let host = match headers.to_lowercase().contains("host: ") {
        true => String::new(),
        false => format!("Host: {addr}\r\n"),
    };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: dechunked(head, body),
    }
}

/// The body without the lines of a chunked one.
fn dechunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    text
}

fn get(addr: &str, path: &str, headers: &[&str]) -> Answer {
    request(addr, "GET", path, headers, "")
}

/// A header with a token as a browser sends it.
fn login(token: &str) -> String {
    format!(
        "Authorization: Basic {}",
        BASE64_STANDARD.encode(format!("me:{token}"))
    )
}

/// A callers file: a reader and an administrator of `acme`.
fn callers() -> String {
    let caller = |name: &str, token: &str, roles: &str| {
        let hash = TokenHash::of(token.as_bytes());
        format!(
            "[callers.{name}]\ntokens = [\"{hash}\"]\nroles = [{roles}]\norganizations = [\"acme\"]\n"
        )
    };
    [
        caller("reader", "tg_reader", "\"read\", \"reserve\""),
        caller("chief", "tg_chief", "\"read\", \"admin\""),
    ]
    .concat()
}
