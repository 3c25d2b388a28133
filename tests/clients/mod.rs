//! The clients of other languages in `clients/`: each runs its own tests, with real services.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::support::{
    certificates::{Authority, Files},
    tools::{run, tool},
};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// An authority, and certificates that it signs, for a service at localhost and its callers.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    fs::copy(authority.file(), folder.path().join("ca.pem")).unwrap();
    for (name, host) in [("server", "localhost"), ("client", "gateway.internal")] {
        let Files { cert, key } = authority.sign(name, &[host]);
        fs::copy(cert, folder.path().join(format!("{name}.pem"))).unwrap();
        fs::copy(key, folder.path().join(format!("{name}.key"))).unwrap();
    }
    folder
}

/// Runs a client's tests, which find the service's program and certificates by these variables.
fn run_tests(command: &mut Command, folder: &Path) {
    let certificates = certificates();
    command
        .current_dir(folder)
        .env("TOLLGATE_TEST_PROGRAM", env!("CARGO_BIN_EXE_tollgate"))
        .env("TOLLGATE_TEST_CERTIFICATES", certificates.path());
    run(command).expect_success();
}

fn run_python(module: &str) {
    let folder = Path::new(CLIENTS).join("python");
    let mut python = Command::new(tool("venv/bin/python"));
    python
        .args(["-m", "unittest", module])
        .env("PYTHONPATH", folder.join("src"))
        // Leaves no compiled files in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    run_tests(&mut python, &folder.join("tests"));
}

#[test]
fn the_python_client_conforms() {
    run_python("test_conformance");
}

#[test]
fn the_python_client_neither_leaks_nor_frees_what_may_have_run() {
    run_python("test_client");
}

#[test]
fn the_python_client_is_typed_and_packed_and_its_readme_runs() {
    run_python("test_package");
}
