//! docs/CONTRACT.md, "HTTP and JSON": the RPCs by the Connect protocol, with curl and a real Connect client.

mod bodies;
mod callers;
mod conformance;
mod connect_client;
mod description;
mod outcomes;
mod readme;
mod statuses;
mod stopping;

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    calls::{TextFile, policy_file},
    clock::Clock,
    tollgate::Tollgate,
    tools::run,
    world::NOON,
};

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The answer of a successful call.
    fn expect_ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// The status and the code of a failed call. It has a message with these words.
    fn failure(&self, words: &[&str]) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        let error = self.json();
        let message = error["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
        (self.status, error["code"].as_str().unwrap().to_owned())
    }
}

/// Makes a request with curl.
fn curl(args: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--max-time", "30"]);
    let answer = run(curl.args(args)).expect_success();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn url(addr: &str, method: &str) -> String {
    format!("http://{addr}/tollgate.v1.QuotaService/{method}")
}

/// Calls a method with a body and more of curl's arguments.
pub fn post(addr: &str, method: &str, body: &str, args: &[&str]) -> Answer {
    let url = url(addr, method);
    let json = ["--header", "content-type: application/json"];
    curl(&[&[&url, "--data-binary", body], &json[..], args].concat())
}

/// A service at noon whose pool `large` has 1,000 tokens for `acme`.
struct Service {
    tollgate: Tollgate,
    _files: [TextFile; 2],
}

impl Service {
    fn start() -> Self {
        Self::start_with("", &[])
    }

    fn start_with(settings: &str, args: &[&str]) -> Self {
        let settings = TextFile::new(&format!("http_api = true\n{settings}"));
        let policy = policy_file(1_000);
        let files = ["--config", settings.path(), "--policy", policy.path()];
        let memory = ["--store", "memory:"].into_iter();
        let memory = memory.filter(|_| !args.contains(&"--store"));
        let args: Vec<&str> = memory.chain(files).chain(args.iter().copied()).collect();
        Self {
            tollgate: Tollgate::start_at(&Clock::at(NOON), &args),
            _files: [settings, policy],
        }
    }

    /// Calls a method.
    fn call(&self, method: &str, body: &Value) -> Answer {
        post(&self.tollgate.http_addr, method, &body.to_string(), &[])
    }

    /// Calls Reserve with this text, and more of curl's arguments.
    fn reserve(&self, body: &str, args: &[&str]) -> Answer {
        post(&self.tollgate.http_addr, "Reserve", body, args)
    }
}

/// A Reserve of `acme`.
fn new_reserve(tokens: u64, request_id: &str) -> Value {
    json!({"org": "acme", "project": "p", "model": "gpt-4o", "tokens": tokens, "request_id": request_id})
}
