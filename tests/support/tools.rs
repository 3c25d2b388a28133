//! Tools that `./scripts/test` installs, and other programs, run with a timeout.

use std::{
    io::Read,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than any tool needs, also on a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The output and the exit code of a program.
#[derive(Debug)]
pub struct ProgramOutput {
    pub stdout: String,
    pub stderr: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
}

impl ProgramOutput {
    /// The output of a successful run.
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// A tool by its path in the tools folder, such as `bin/grpcurl`.
pub fn tool(path: &str) -> PathBuf {
    let folder = std::env::var_os("TOLLGATE_TEST_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools")),
        PathBuf::from,
    );
    let tool = folder.join(path);
    assert!(
        tool.exists(),
        "the tests need {}: ./scripts/test installs it",
        tool.display()
    );
    tool
}

/// Runs a program to its end, without input. After the timeout it is killed, and the test fails.
pub fn run(command: &mut Command) -> ProgramOutput {
    run_within(command, WAIT_TIMEOUT)
}

/// Does the same with another timeout.
pub fn run_within(command: &mut Command, timeout: Duration) -> ProgramOutput {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Reads while waiting: a full pipe would block the program.
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    let stdout = thread::spawn(move || text(stdout.unwrap()));
    let stderr = thread::spawn(move || text(stderr.unwrap()));
    let deadline = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("{command:?} does not end");
        }
        thread::sleep(Duration::from_millis(2));
    };
    ProgramOutput {
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
        code: status.code(),
    }
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}
