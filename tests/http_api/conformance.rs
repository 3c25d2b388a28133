//! clients/conformance.json by HTTP and JSON: the cases that every client passes.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::Utc;
use serde_json::{Map, Value};
use tollgate::domain::UtcDay;

use super::post;
use crate::support::{calls::TextFile, tollgate::Tollgate};

fn read_file() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/conformance.json");
    let text = fs::read_to_string(path).unwrap();
    let today = UtcDay::of(Utc::now()).to_string();
    serde_json::from_str(&text.replace("\"TODAY\"", &format!("\"{today}\""))).unwrap()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    let text = object[field].as_str();
    text.unwrap_or_else(|| panic!("{field} is no text: {object}"))
}

/// The value of a field in JSON: the file has enums without their prefix, and null for the unspecified one.
fn json_value(field: &str, value: &Value) -> Value {
    let prefix = match field {
        "verdict" => "VERDICT_",
        "billed_reason" | "not_enrolled_reason" => "BILLED_REASON_",
        "workload" => "WORKLOAD_",
        _ => return value.clone(),
    };
    format!("{prefix}{}", value.as_str().unwrap_or("UNSPECIFIED")).into()
}

/// `billedReason` of `billed_reason`.
fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| {
        name + &word[..1].to_uppercase() + &word[1..]
    })
}

/// The RPC of a call. None: the call is of the clients' reservations only.
fn rpc(call: &Value) -> Option<&'static str> {
    match text(call, "call") {
        "reserve" | "dry_run" => Some("Reserve"),
        "settle" => Some("Settle"),
        "release" => Some("Release"),
        "leave" if call["expect"]["state"] == "RELEASED" => Some("Release"),
        "leave" | "dispatched" | "keep" => None,
        "quota" => Some("GetQuota"),
        "usage" => Some("ListUsage"),
        "estimate" => Some("Estimate"),
        other => panic!("unknown call {other}"),
    }
}

/// The request of a call, with what the file and the case say for it.
fn new_request(file: &Value, case: &Value, call: &Value, rpc: &str) -> Value {
    let mut request = Map::new();
    if rpc == "Reserve" {
        for field in ["project", "model"] {
            request.insert(field.into(), file[field].clone());
        }
    }
    if rpc != "Estimate" {
        request.insert("org".into(), case["org"].clone());
    }
    for (field, value) in call.as_object().unwrap() {
        let (field, value) = match field.as_str() {
            "call" | "expect" | "error" | "says" => continue,
            "as" | "of" => {
                let id = format!("{}-{}", text(case, "org"), text(call, field));
                ("request_id", id.into())
            }
            "body" => ("body", BASE64_STANDARD.encode(value.to_string()).into()),
            field => (field, json_value(field, value)),
        };
        request.insert(field.into(), value);
    }
    if text(call, "call") == "dry_run" {
        request.insert("dry_run".into(), true.into());
    }
    request.into()
}

/// Has the answer these fields? Of `pools` those that are named, and `rows` are all.
fn assert_has_fields(answer: &Value, expected: &Value, context: &str) {
    for (field, value) in expected.as_object().unwrap() {
        let got = &answer[camel_case(field)];
        match field.as_str() {
            "pools" => {
                for pool in value.as_array().unwrap() {
                    let mut pools = got.as_array().unwrap().iter();
                    let its = pools.find(|it| it["pool"] == pool["pool"]);
                    let its = its.unwrap_or_else(|| panic!("{context}: no such pool in {got}"));
                    assert_has_fields(its, pool, context);
                }
            }
            "rows" => {
                let (rows, got) = (value.as_array().unwrap(), got.as_array().unwrap());
                assert_eq!(rows.len(), got.len(), "{context}: {got:?}");
                for (row, its) in rows.iter().zip(got) {
                    assert_has_fields(its, row, context);
                }
            }
            _ => assert_eq!(got, &json_value(field, value), "{context}: {field}"),
        }
    }
}

fn check(addr: &str, file: &Value, case: &Value, call: &Value) {
    let Some(rpc) = rpc(call) else {
        return;
    };
    let request = new_request(file, case, call, rpc);
    let context = format!("{}: {rpc} {request}", text(case, "name"));
    let answer = post(addr, rpc, &request.to_string(), &[]);
    if call.get("error").is_some() {
        let words = call.get("says").map(|it| it.as_str().unwrap());
        let (status, code) = answer.failure(words.as_slice());
        assert_eq!(code, text(call, "error").to_lowercase(), "{context}");
        assert!(status >= 400, "{context}: {status}");
        return;
    }
    assert_eq!(answer.status, 200, "{context}: {answer:?}");
    let answer = answer.expect_ok();
    // The state is the clients' own.
    if text(call, "call") != "leave"
        && let Some(expected) = call.get("expect")
    {
        assert_has_fields(&answer, expected, &context);
    }
}

#[test]
fn every_case_of_the_clients_is_answered_alike() {
    let file = read_file();
    let lines = file["policy"].as_array().unwrap().iter();
    let policy: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
    let (policy, settings) = (
        TextFile::new(&policy.join("\n")),
        TextFile::new("http_api = true\n"),
    );
    let files = ["--config", settings.path(), "--policy", policy.path()];
    let tollgate = Tollgate::start(&[&["--store", "memory:"], &files[..]].concat());
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 20, "{}", cases.len());
    for case in cases {
        for call in case["calls"].as_array().unwrap() {
            check(&tollgate.http_addr, &file, case, call);
        }
    }
}
