//! The measured processes. Each ends when its value is dropped.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::floods::certificates::Encryption;

/// How long a process may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings with which a Redis on a busy machine, or under callgrind, is slow and not down.
const LONG_TIMEOUTS: &str = "call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"60s\"\n";

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

/// A running process, which is killed on drop.
struct Process {
    child: Child,
    pid: u32,
}

/// A gRPC server.
pub(crate) struct Service {
    process: Process,
    /// `127.0.0.1:port`
    pub(crate) addr: String,
    /// With TLS: the certificate of its authority.
    pub(crate) ca_file: Option<String>,
}

/// A redis-server without persistence.
pub(crate) struct Redis {
    process: Process,
    port: u16,
    _dir: TempDir,
}

/// A policy file with allowances that are never used up.
pub(crate) struct PolicyFile {
    dir: TempDir,
}

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let started = command.stdin(Stdio::null()).kill_on_drop(true).spawn();
        let child = started.with_context(|| format!("can't start {:?}", command.as_std()))?;
        let pid = child.id().context("a process without an id")?;
        Ok(Self { child, pid })
    }

    /// Polls until the process is ready. Fails if it ends or takes too long.
    async fn wait_until(&mut self, ready: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("a server ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("a server was not ready after {START_TIMEOUT:?}");
            }
            sleep(Duration::from_micros(500)).await;
        }
        Ok(())
    }
}

impl Service {
    /// Starts the real program, and waits until it is SERVING.
    pub(crate) async fn tollgate(store: &str, policy: Option<&PolicyFile>) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let mut service = Self::listening(serve(&addr, store, policy)?, addr).await?;
        service.wait_until_serving().await?;
        Ok(service)
    }

    pub(crate) async fn wait_until_serving(&mut self) -> anyhow::Result<()> {
        let addr = &self.addr;
        let serving = async || is_serving(addr).await.unwrap_or(false);
        self.process.wait_until(serving).await
    }

    /// The same with TLS and the memory store; the first calls may wait for the store.
    pub(crate) async fn encrypted(tls: Encryption, policy: &PolicyFile) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let Encryption { ca, cert, key } = tls;
        let settings = format!("[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
        let config = policy.settings(&settings)?;
        let mut command = serve(&addr, "memory:", Some(policy))?;
        command.arg("--config").arg(config);
        let service = Self::listening(command, addr).await?;
        Ok(Self {
            ca_file: Some(ca),
            ..service
        })
    }

    /// The memory store, and Envoy's Check for this organization.
    pub(crate) async fn before_envoy(policy: &PolicyFile, org: &str) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let services = "[envoy]\nservices = [\"authorization\"]";
        let settings = format!("{services}\norganization = {org:?}\nproject = \"p\"\n");
        let config = policy.settings(&settings)?;
        let mut command = serve(&addr, "memory:", Some(policy))?;
        command.arg("--config").arg(config);
        Self::listening(command, addr).await
    }

    /// Starts this program as the floor.
    pub(crate) async fn floor() -> anyhow::Result<Self> {
        let addr = free_address()?;
        Self::listening(serve_floor(&addr)?, addr).await
    }

    /// Starts a server, and waits until it accepts connections.
    pub(crate) async fn listening(mut command: Command, addr: String) -> anyhow::Result<Self> {
        let mut process = Process::start(&mut command)?;
        let listening = async || TcpStream::connect(&addr).await.is_ok();
        process.wait_until(listening).await?;
        Ok(Self {
            process,
            addr,
            ca_file: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.context("/proc has no VmRSS")?;
        Ok(kilobytes.trim().parse::<u64>()? * 1024)
    }
}

impl Redis {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_by(redis_server()).await
    }

    /// Starts it by a command that takes the arguments of redis-server.
    pub(crate) async fn start_by(mut command: Command) -> anyhow::Result<Self> {
        let (dir, port) = (tempfile::tempdir()?, free_port()?);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null());
        let process = Process::start(&mut command)?;
        let mut redis = Self {
            process,
            port,
            _dir: dir,
        };
        let listening = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        redis.process.wait_until(listening).await?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    pub(crate) fn connection(&self) -> anyhow::Result<redis::Connection> {
        let connection = redis::Client::open(self.url())?.get_connection()?;
        connection.set_read_timeout(Some(START_TIMEOUT))?;
        Ok(connection)
    }

    /// The bytes of its data.
    pub(crate) fn used_bytes(&self) -> anyhow::Result<u64> {
        let mut command = redis::cmd("INFO");
        let info: String = command.arg("memory").query(&mut self.connection()?)?;
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("INFO has no used_memory")?.trim().parse()?)
    }
}

impl PolicyFile {
    pub(crate) fn of(organizations: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("policy.toml"), policy(organizations))?;
        Ok(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    /// Writes a settings file beside it.
    pub(crate) fn settings(&self, settings: &str) -> anyhow::Result<PathBuf> {
        let file = self.dir.path().join("tollgate.toml");
        fs::write(&file, settings)?;
        Ok(file)
    }

    /// Appends to the file.
    pub(crate) fn append(&self, text: &str) -> anyhow::Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.path())?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// Close to the largest legal amounts.
fn policy(organizations: impl IntoIterator<Item = String>) -> String {
    let mut text = String::from(
        "[pools.large]\nmodels = [\"gpt-4o\"]\n\n[pools.mini]\nmodels = [\"gpt-4o-mini-2024-07-18\"]\n\n\
         [tiers.3]\nlarge = 9_000_000_000_000_000\nmini = 9_000_000_000_000_000\n",
    );
    for organization in organizations {
        let section = format_args!("\n[orgs.{organization}]\ntier = 3\ndata_sharing = \"all\"\n");
        text.write_fmt(section)
            .expect("a String takes what is written");
    }
    text
}

pub(crate) fn redis_server() -> Command {
    Command::new(std::env::var_os("TOLLGATE_TEST_REDIS").unwrap_or("redis-server".into()))
}

/// The floor, by this program.
pub(crate) fn serve_floor(addr: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve-floor", addr]);
    Ok(command)
}

/// The program as a service over plaintext.
pub(crate) fn serve(
    addr: &str,
    store: &str,
    policy: Option<&PolicyFile>,
) -> anyhow::Result<Command> {
    let mut command = program();
    command
        .args(["serve", "--listen", addr, "--http-listen", "127.0.0.1:0"])
        .args(["--log", "error", "--store", store]);
    if let Some(policy) = policy {
        command.arg("--policy").arg(policy.path());
    }
    if let Some(policy) = policy.filter(|_| store.starts_with("redis:")) {
        command.arg("--config").arg(policy.settings(LONG_TIMEOUTS)?);
    }
    Ok(command)
}

/// The program, without the developer's settings.
pub(crate) fn program() -> Command {
    let mut command = Command::new(Path::new(PROGRAM));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TOLLGATE_")) {
        command.env_remove(name);
    }
    command
}

async fn is_serving(addr: &str) -> anyhow::Result<bool> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    let mut client = HealthClient::new(endpoint.connect().await?);
    let answer = client.check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}

/// A folder for the file store, and its URL. Next to the build: a temporary folder may be in memory, where nothing is
/// synced.
pub(crate) fn file_store() -> anyhow::Result<(TempDir, String)> {
    let directory = Path::new(PROGRAM)
        .parent()
        .context("a program in no directory")?;
    let dir = tempfile::tempdir_in(directory)?;
    let store = format!("file:{}", dir.path().join("tollgate.db").display());
    Ok((dir, store))
}

/// The CPU time of all threads of a process.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Skips a thread that has ended.
        let Ok(account) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = account.split(' ').next().context("no CPU time")?;
        nanos += on_cpu.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

pub(crate) fn free_address() -> anyhow::Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}

/// A free port.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
