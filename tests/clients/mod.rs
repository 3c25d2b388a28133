//! The clients of other languages in `clients/`: each runs its own tests, with real services.

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use tollgate::grpc::proto::DESCRIPTORS;

use crate::support::{
    certificates::{Authority, Files},
    tools::{run_within, tool},
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

/// The real proxy starts five times, and imports for up to a minute on a busy machine.
const LITELLM_TIMEOUT: Duration = Duration::from_secs(900);
/// A first run compiles modules, checks types and installs, also on a busy machine.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs a client's tests, which find the service's program, certificates and descriptors by these variables.
fn run_tests(command: &mut Command, folder: &Path, timeout: Duration) {
    let certificates = certificates();
    let descriptors = certificates.path().join("descriptors");
    fs::write(&descriptors, DESCRIPTORS).unwrap();
    command
        .current_dir(folder)
        .env("TOLLGATE_TEST_PROGRAM", env!("CARGO_BIN_EXE_tollgate"))
        .env("TOLLGATE_TEST_CERTIFICATES", certificates.path())
        .env("TOLLGATE_TEST_DESCRIPTORS", descriptors);
    run_within(command, timeout).expect_success();
}

fn run_python(module: &str, timeout: Duration) {
    let folder = Path::new(CLIENTS).join("python");
    let mut python = Command::new(tool("venv/bin/python"));
    python
        .args(["-m", "unittest", module])
        .env("PYTHONPATH", folder.join("src"))
        .env("TOLLGATE_TEST_LITELLM", tool("litellm/bin/litellm"))
        // Leaves no compiled files in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    run_tests(&mut python, &folder.join("tests"), timeout);
}

#[test]
fn the_python_client_conforms() {
    run_python("test_conformance", CLIENT_TIMEOUT);
}

#[test]
fn the_python_client_neither_leaks_nor_frees_what_may_have_run() {
    run_python("test_client", CLIENT_TIMEOUT);
}

#[test]
fn the_python_client_is_typed_and_packed_and_its_readme_runs() {
    run_python("test_package", CLIENT_TIMEOUT);
}

#[test]
fn litellm_counts_what_ran_in_the_sharing_project_and_nothing_else() {
    run_python("test_litellm", LITELLM_TIMEOUT);
}

#[test]
fn the_go_client_conforms_and_neither_leaks_nor_frees_what_may_have_run() {
    let folder = Path::new(CLIENTS).join("go");
    for arguments in [["vet", "./..."].as_slice(), &["test", "-count=1", "./..."]] {
        let mut go = Command::new(tool("bin/go"));
        // What go.mod and go.sum don't name is not fetched.
        go.args(arguments).env("GOFLAGS", "-mod=readonly");
        run_tests(&mut go, &folder, CLIENT_TIMEOUT);
    }
}
