//! A real Connect client, in Python.

use std::{path::Path, process::Command};

use super::Service;
use crate::{
    python_client::generated_modules,
    support::tools::{run, tool},
};

#[test]
fn a_connect_client_can_call_everything() {
    let generated = generated_modules();
    let service = Service::start();
    let mut client = Command::new(tool("venv/bin/python"));
    client
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http_api/client.py"))
        .arg(&service.tollgate.http_addr)
        .env("PYTHONPATH", generated.path())
        // Leaves no compiled files in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let received = run(&mut client).expect_success();
    assert_eq!(
        received.lines().last(),
        Some("every call was answered as expected")
    );
}
