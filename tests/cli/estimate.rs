//! `estimate`: the tokens of a request in a file, without a service.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::tollgate;
use crate::support::{calls::TextFile, tollgate::program};

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;

fn json_of(words: &[&str]) -> Value {
    let ran = tollgate(&[&["estimate", "--json"], words].concat());
    assert_eq!(ran.stderr, "", "{words:?}");
    serde_json::from_str(&ran.expect_success()).unwrap()
}

#[test]
fn an_estimate_is_printed_for_people_and_as_the_answer_of_the_rpc() {
    let file = TextFile::new(CHAT);
    let wanted = json!({
        "tokens": 16_414, "input_tokens": 30, "output_tokens": 16_384, "basis": "ESTIMATE_BASIS_TEXT_BYTES",
        "model": "gpt-4o", "workload": "WORKLOAD_INFERENCE", "output_capped": false,
    });
    assert_eq!(json_of(&[file.path()]), wanted);
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed = tollgate(&["estimate", file.path()]).expect_success();
    let lines: Vec<String> = printed.lines().map(narrow).collect();
    assert_eq!(
        lines,
        [
            "tokens 16,414",
            "input 30 (the bytes of the text)",
            "output 16,384 (no maximum is stated)",
            "model gpt-4o",
            "workload inference",
        ]
    );
}

#[test]
fn the_body_may_come_from_standard_input() {
    let mut command: Command = program();
    command.args(["estimate", "-", "--json"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(CHAT.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["tokens"], 16_414);
}

#[test]
fn the_path_is_given_or_that_of_the_bodys_fields_and_the_policy_has_the_capacities() {
    let responses = TextFile::new(r#"{"model":"m","input":"hi"}"#);
    let policy = TextFile::new(
        "[pools.p]\nmodels = []\n[tiers.1]\np = 1\n[models.m]\nmax_output = 7\n[models.other]\nmax_output = 9\n",
    );
    let file = responses.path();
    // Nothing is known of the model.
    assert_eq!(json_of(&[file])["output_tokens"], 100_000);
    let with_policy =
        |words: &[&str]| json_of(&[&[file, "--policy", policy.path()], words].concat());
    assert_eq!(with_policy(&[])["output_tokens"], 7);
    assert_eq!(with_policy(&["--model", "other"])["output_tokens"], 9);
    let embeddings = with_policy(&["--path", "/v1/embeddings"]);
    assert_eq!(
        (&embeddings["output_tokens"], &embeddings["tokens"]),
        (&json!(0), &json!(18))
    );
}

#[test]
fn what_has_no_estimate_is_an_error_with_its_place() {
    let (bad, good) = (TextFile::new("{\n\"messages\": }"), TextFile::new(CHAT));
    let name = bad.path();
    let missing = "/nowhere/body.json";
    for (words, code, wanted) in [
        (
            vec![name],
            1,
            format!("{name}: body: expected value at line 2 column 13"),
        ),
        (vec![missing], 1, format!("{missing} can't be read: ")),
        (
            vec![good.path(), "--path", "/v1/models"],
            2,
            "--path: \"/v1/models\" ends with none of".to_owned(),
        ),
        (
            vec![good.path(), "--path", "/v1/embeddings"],
            1,
            format!("{}: body: input is missing", good.path()),
        ),
        (
            vec![good.path(), "--policy", missing],
            1,
            format!("{missing} can't be read: "),
        ),
    ] {
        let ran = tollgate(&[&["estimate"], &words[..]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
        let wanted = format!("tollgate: {wanted}");
        assert!(ran.stderr.starts_with(&wanted), "{ran:?}: {wanted}");
    }
}
