//! README, "With HTTP", followed literally, but for the port.

use std::{path::Path, process::Command};

use crate::support::{calls::TextFile, tollgate::Tollgate, tools::run};

#[test]
fn a_newcomer_who_follows_the_readme_reserves_by_http() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, section) = text.split_once("### With HTTP\n").unwrap();
    let (_, block) = section.split_once("```console\n$ ").unwrap();
    let (curl, _) = block.split_once("```").unwrap();
    assert!(section.contains("`http_api = true`"));
    let settings = TextFile::new("http_api = true\n");
    let tollgate = Tollgate::start(&["--store", "memory:", "--config", settings.path()]);
    let curl = curl.replace("127.0.0.1:9464", &tollgate.http_addr);
    let answer = run(Command::new("sh").args(["-c", &curl])).expect_success();
    assert!(answer.contains("\"verdict\":\"VERDICT_FREE\""), "{answer}");
}
