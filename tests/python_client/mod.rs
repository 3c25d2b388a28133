//! A client in another language, generated from the proto.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use crate::support::{
    clock::Clock,
    tollgate::Tollgate,
    tools::{run, tool},
    world::NOON,
};

/// The Python modules that protoc generates from the proto.
pub fn generated_modules() -> TempDir {
    let generated = tempfile::tempdir().unwrap();
    let mut protoc = Command::new(tool("venv/bin/python"));
    protoc
        .args(["-m", "grpc_tools.protoc", "tollgate/v1/quota.proto", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("proto"));
    for kind in ["python_out", "grpc_python_out"] {
        protoc.arg(format!("--{kind}={}", generated.path().display()));
    }
    run(&mut protoc).expect_success();
    generated
}

#[test]
fn a_python_client_generated_from_the_proto_can_call_everything() {
    let generated = generated_modules();
    let clock = Clock::at(NOON);
    let service = Tollgate::start_at(&clock, &[]);
    let mut client = Command::new(tool("venv/bin/python"));
    client
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_client/client.py"))
        .arg(&service.addr)
        .env("PYTHONPATH", generated.path())
        // Leaves no compiled files in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let received = run(&mut client).expect_success();
    assert_eq!(
        received.lines().last(),
        Some("every call was answered as expected")
    );
}
