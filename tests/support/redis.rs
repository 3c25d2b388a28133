//! A real redis-server.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redis::{Client, Connection, Value};
use tempfile::TempDir;

use super::{
    clock::{Clock, Preload},
    free_port,
    tools::tool,
};

pub struct RedisServer {
    process: Child,
    pub port: u16,
    dir: TempDir,
    program: OsString,
    clock: Option<Preload>,
    options: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_on(free_port(), None, &[])
    }

    /// Starts one with this clock.
    pub fn start_at(clock: &Clock) -> Self {
        Self::start_on(free_port(), Some(clock), &[])
    }

    /// Starts a Valkey with this clock.
    pub fn start_valkey_at(clock: &Clock) -> Self {
        let valkey = tool("bin/valkey-server").into_os_string();
        Self::start_program(valkey, free_port(), Some(clock), &[])
    }

    /// Starts one on a given port, with options such as `["--maxmemory", "10mb"]`.
    pub fn start_on(port: u16, clock: Option<&Clock>, options: &[&str]) -> Self {
        let program = std::env::var_os("TOLLGATE_TEST_REDIS").unwrap_or("redis-server".into());
        Self::start_program(program, port, clock, options)
    }

    fn start_program(
        program: OsString,
        port: u16,
        clock: Option<&Clock>,
        options: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let clock = clock.map(Clock::preload_again);
        let process = spawn(&program, port, clock.as_ref(), &options, &dir);
        let server = Self {
            process,
            port,
            dir,
            program,
            clock,
            options,
        };
        server.wait_for_answer();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connection(&self) -> Connection {
        Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Runs a command.
    pub fn run(&self, words: &[&str]) -> Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap()
    }

    pub fn strings(&self, words: &[&str]) -> Vec<String> {
        redis::from_redis_value(self.run(words)).unwrap()
    }

    pub fn integer(&self, words: &[&str]) -> i64 {
        redis::from_redis_value(self.run(words)).unwrap()
    }

    /// A section of INFO.
    pub fn info(&self, section: &str) -> String {
        redis::from_redis_value(self.run(&["INFO", section])).unwrap()
    }

    /// The same, if the server may cut the connection.
    pub fn try_info(&self, section: &str) -> redis::RedisResult<String> {
        let mut connection = Client::open(self.url())?.get_connection()?;
        redis::cmd("INFO").arg(section).query(&mut connection)
    }

    /// How often a command was called.
    pub fn calls_of(&self, command: &str) -> u64 {
        let stats = self.info("commandstats");
        let name = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the process, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Restarts it on the same port and directory.
    pub fn restart(&mut self) {
        self.restart_without_waiting();
        self.wait_for_answer();
    }

    /// Restarts it without waiting for its answer.
    pub fn restart_without_waiting(&mut self) {
        self.kill();
        let clock = self.clock.as_ref();
        self.process = spawn(&self.program, self.port, clock, &self.options, &self.dir);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// The folder of its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn wait_for_answer(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let client = Client::open(self.url()).unwrap();
        loop {
            let pong = client
                .get_connection()
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match pong {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < deadline, "redis-server: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(
    program: &OsStr,
    port: u16,
    clock: Option<&Preload>,
    options: &[String],
    dir: &TempDir,
) -> Child {
    let mut command = Command::new(program);
    command
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            // Its thread waits until a moment of the wall clock, without a pause if the test's clock is behind.
            "--jemalloc-bg-thread",
            "no",
            "--dir",
        ])
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null());
    if let Some(clock) = clock {
        clock.preload(&mut command);
    }
    command
        .spawn()
        .expect("the tests need redis-server: ./scripts/test installs it")
}
