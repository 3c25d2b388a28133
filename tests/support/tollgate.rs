//! A real `tollgate serve` process.

use std::{
    fs::File,
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::clock::Clock;

pub struct Tollgate {
    process: Child,
    log: PathBuf,
    /// The address of gRPC, `127.0.0.1:port`.
    pub addr: String,
    /// The address of HTTP, `127.0.0.1:port`.
    pub http_addr: String,
    _dir: TempDir,
}

/// A command that runs the program.
pub fn program() -> Command {
    program_by(&[])
}

/// A command that runs the program under another one.
pub fn program_by(launcher: &[&str]) -> Command {
    let words = [launcher, &[env!("CARGO_BIN_EXE_tollgate")]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    // The developer's settings must not reach the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TOLLGATE_")) {
        command.env_remove(name);
    }
    command
}

impl Tollgate {
    /// Starts `tollgate serve` on free ports with more arguments, and waits until it serves.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// Starts it with this clock. At noon no test crosses midnight by chance.
    pub fn start_at(clock: &Clock, args: &[&str]) -> Self {
        Self::start_with(args, |command| clock.preload(command))
    }

    pub fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        Self::launch(program(), args, prepare)
    }

    /// Starts it with this command.
    pub fn launch(mut command: Command, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        command.arg("serve");
        for port in ["--listen", "--http-listen"] {
            if !args.contains(&port) {
                command.args([port, "127.0.0.1:0"]);
            }
        }
        command
            .args(["--log-format", "json"])
            .args(args)
            // The default store is a file here.
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        prepare(&mut command);
        let mut process = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let started = loop {
            let lines = log_lines(&log);
            if let Some(line) = lines.into_iter().find(|line| line["listen"].is_string()) {
                break line;
            }
            let ended = process.try_wait().unwrap();
            let late = Instant::now() > deadline;
            assert!(ended.is_none() && !late, "{ended:?}: {}", text(&log));
            std::thread::sleep(Duration::from_millis(5));
        };
        let field = |name: &str| started[name].as_str().unwrap().to_owned();
        let (addr, http_addr) = (field("listen"), field("http_listen"));
        Self {
            process,
            log,
            addr,
            http_addr,
            _dir: dir,
        }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> QuotaServiceClient<Channel> {
        QuotaServiceClient::new(self.channel())
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr))
            .unwrap()
            .connect_lazy()
    }

    /// The health of a name; `None` if the name is unknown or there is no answer.
    pub async fn health(&self, name: &str) -> Option<ServingStatus> {
        let request = HealthCheckRequest {
            service: name.to_owned(),
        };
        let answer = HealthClient::new(self.channel())
            .check(request)
            .await
            .ok()?;
        Some(answer.into_inner().status())
    }

    /// Waits until readiness has this status; fails after ten seconds.
    pub async fn wait_for_readiness(&self, wanted: ServingStatus) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.health("readiness").await != Some(wanted) {
            assert!(
                Instant::now() < deadline,
                "readiness is not {wanted:?}: {}",
                text(&self.log)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits until the process ends; fails after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {}",
                text(&self.log)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<Value> {
        log_lines(&self.log)
    }
}

impl Drop for Tollgate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(log: &PathBuf) -> String {
    let mut text = String::new();
    File::open(log).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn log_lines(log: &PathBuf) -> Vec<Value> {
    // The last line may be incomplete.
    text(log)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
