//! What a body may be: JSON, its fields and numbers, its compression and its size.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzEncoder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{Service, new_reserve};

const MAX_BYTES: usize = 64 * 1024;

fn invalid() -> (u16, String) {
    (400, "invalid_argument".to_owned())
}

/// A Reserve with this value of a field.
fn reserve_with(field: &str, value: &str) -> String {
    let body = new_reserve(1, "").to_string();
    let Some(body) = body.strip_suffix('}') else {
        unreachable!("an object ends with a brace");
    };
    let body = body.replace(",\"tokens\":1", "");
    let (tokens, field) = match field {
        "tokens" => (String::new(), format!(",\"tokens\":{value}")),
        field => (",\"tokens\":1".to_owned(), format!(",\"{field}\":{value}")),
    };
    format!("{body}{tokens}{field}}}")
}

#[test]
fn numbers_are_exact_and_a_number_that_is_out_of_bounds_is_named() {
    let service = Service::start();
    let reserve = |value: &str| service.reserve(&reserve_with("tokens", value), &[]);
    for (value, used) in [("1", 1), ("\"2\"", 3), ("3.0", 6), ("1e1", 16)] {
        assert_eq!(reserve(value).expect_ok()["used"], used, "{value}");
    }
    // 2^53 + 1, the largest number and the one after it, fractions, and what is no number.
    for value in [
        "0",
        "1000000001",
        "9007199254740993",
        "\"9007199254740993\"",
        "18446744073709551615",
        "18446744073709551616",
        "1e30",
        "-1",
        "1.5",
        "\"many\"",
        "true",
        "null",
    ] {
        let answer = reserve(value);
        assert_eq!(answer.failure(&["tokens"]), invalid(), "{value}");
    }
    let answer = reserve("9007199254740993");
    assert_eq!(
        answer.failure(&["9007199254740993"]),
        invalid(),
        "no digit is lost"
    );
}

#[test]
fn a_field_that_is_unknown_or_given_twice_is_an_error_that_names_it() {
    let service = Service::start();
    for (field, value, words) in [
        ("tokns", "1", "\"tokns\" is an unknown field"),
        ("RequestId", "\"a\"", "\"RequestId\" is an unknown field"),
        (
            "tollgate.v1.org",
            "1",
            "\"tollgate.v1.org\" is an unknown field",
        ),
        ("requestId", "\"a\"", "request_id: is given twice"),
        ("org", "\"other\"", "org: is given twice"),
        (
            "workload",
            "\"INFERENCE\"",
            "workload: unrecognized enum value",
        ),
        ("workload", "9", "workload"),
        ("dry_run", "\"yes\"", "dry_run: invalid type"),
    ] {
        let answer = service.reserve(&reserve_with(field, value), &[]);
        assert_eq!(answer.failure(&[words]), invalid(), "{field}");
    }
    let good = [
        ("workload", "\"WORKLOAD_INFERENCE\""),
        ("workload", "1"),
        ("dryRun", "true"),
        ("dry_run", "null"),
    ];
    for (field, value) in good {
        service
            .reserve(&reserve_with(field, value), &[])
            .expect_ok();
    }
}

#[test]
fn a_body_that_is_no_json_object_is_an_error() {
    let service = Service::start();
    let bodies = [
        "",
        " ",
        "{",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{} {}",
        "{'org': 1}",
        "\u{feff}{}",
    ];
    for body in bodies {
        let answer = service.reserve(body, &[]);
        assert_eq!(answer.failure(&["ReserveRequest"]), invalid(), "{body:?}");
    }
    // Nested deeper than any parser's stack should be.
    let deep = format!("{{\"org\": {}", "[".repeat(10_000));
    assert_eq!(service.reserve(&deep, &[]).failure(&[]), invalid());
    let answer = service.reserve("{\"org\": \"\\ud800\"}", &[]);
    assert_eq!(answer.failure(&[]), invalid());
}

#[test]
fn another_content_type_is_refused_with_the_one_that_is_served() {
    let service = Service::start();
    let body = new_reserve(1, "").to_string();
    let with = |header: &str| {
        let url = super::url(&service.tollgate.http_addr, "Reserve");
        super::curl(&[&url, "--data-binary", &body, "--header", header])
    };
    for good in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;a=b",
    ] {
        with(&format!("content-type: {good}")).expect_ok();
    }
    for other in [
        "application/proto",
        "application/grpc",
        "application/connect+json",
        "application/jsonp",
        "text/plain",
    ] {
        let answer = with(&format!("content-type: {other}"));
        let failure = answer.failure(&[other, "use application/json"]);
        assert_eq!(failure, (415, "unknown".to_owned()), "{other}");
        assert_eq!(answer.header("accept-post"), Some("application/json"));
    }
    assert_eq!(with("content-type:").failure(&["no content-type"]).0, 415);
}

fn gzipped(text: &str) -> NamedTempFile {
    let mut packed = Vec::new();
    let mut encoder = GzEncoder::new(text.as_bytes(), Compression::best());
    encoder.read_to_end(&mut packed).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&packed).unwrap();
    file
}

#[test]
fn a_body_in_gzip_is_answered_in_gzip_if_the_caller_takes_it() {
    let service = Service::start();
    let file = gzipped(&new_reserve(1, "").to_string());
    let file = format!("@{}", file.path().display());
    let with = |args: &[&str]| {
        let gzip = ["--header", "content-encoding: gzip"];
        service.reserve(&file, &[&gzip, args].concat())
    };
    // curl decompresses the answer.
    let compressed = with(&["--compressed"]);
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    compressed.expect_ok();
    let plain = with(&["--header", "accept-encoding: identity"]);
    assert_eq!(plain.header("content-encoding"), None);
    plain.expect_ok();
    let body = new_reserve(1, "").to_string();
    let uncompressed = service.reserve(&body, &["--compressed"]);
    assert_eq!(uncompressed.header("content-encoding"), None);
    uncompressed.expect_ok();
    let gzip = ["--header", "content-encoding: gzip"];
    assert_eq!(
        service.reserve(&body, &gzip).failure(&["not in gzip"]),
        invalid()
    );
    assert_eq!(
        service.reserve("", &gzip).failure(&["ReserveRequest"]),
        invalid()
    );
    for other in ["br", "zstd", "deflate", "gzip, gzip"] {
        let header = format!("content-encoding: {other}");
        let failure = service
            .reserve(&body, &["--header", &header])
            .failure(&[other, "gzip"]);
        assert_eq!(failure, (501, "unimplemented".to_owned()));
    }
}

#[test]
fn a_body_has_at_most_64_kib_once_it_is_decompressed() {
    let service = Service::start();
    let of_size = |size: usize| {
        let body = new_reserve(1, "").to_string();
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    service.reserve(&of_size(MAX_BYTES), &[]).expect_ok();
    let too_large = (400, "out_of_range".to_owned());
    let answer = service.reserve(&of_size(MAX_BYTES + 1), &[]);
    assert_eq!(answer.failure(&["65536"]), too_large);
    let gzip = ["--compressed", "--header", "content-encoding: gzip"];
    for (size, fits) in [(MAX_BYTES, true), (MAX_BYTES + 1, false), (32 << 20, false)] {
        let file = gzipped(&of_size(size));
        assert!(size < 1 << 20 || file.path().metadata().unwrap().len() < MAX_BYTES as u64);
        let answer = service.reserve(&format!("@{}", file.path().display()), &gzip);
        match fits {
            true => drop(answer.expect_ok()),
            false => assert_eq!(answer.failure(&["65536"]), too_large),
        }
    }
}

#[test]
fn names_are_any_utf_8_as_over_grpc() {
    let service = Service::start();
    let mut reserve = new_reserve(1, "ид-😀");
    reserve["project"] = json!("проект \u{e000}");
    service.call("Reserve", &reserve).expect_ok();
    let replayed = service.call("Reserve", &reserve).expect_ok();
    assert_eq!(replayed["replayed"], Value::Bool(true));
    let usage = service
        .call("ListUsage", &json!({"org": "acme"}))
        .expect_ok();
    assert_eq!(usage["rows"][0]["project"], "проект \u{e000}");
    reserve["project"] = json!("a\u{0}b");
    assert_eq!(
        service.call("Reserve", &reserve).failure(&["project"]),
        invalid()
    );
}
