//! Our libraries that are preloaded into a process, to change what the system reports to it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;

/// Makes the process load the library of `tests/support/NAME.c`, in addition to others.
pub fn preload(command: &mut Command, name: &'static str) {
    let mut libraries = OsString::from(compiled(name));
    let loaded = command.get_envs().find(|(name, _)| *name == "LD_PRELOAD");
    if let Some((_, Some(loaded))) = loaded {
        libraries.push(":");
        libraries.push(loaded);
    }
    command.env("LD_PRELOAD", libraries);
}

/// The library, compiled once per test run.
fn compiled(name: &'static str) -> PathBuf {
    static COMPILED: Mutex<BTreeMap<&str, TempDir>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = compiled.entry(name).or_insert_with(|| compile(name));
    library(dir, name)
}

fn compile(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}/tests/support/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&library(&dir, name), Path::new(&source)])
        .status()
        .expect("the tests need a C compiler, cc: ./scripts/test installs it");
    assert!(compiled.success(), "{source} does not compile");
    dir
}

fn library(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name).with_extension("so")
}
