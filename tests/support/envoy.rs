//! A real Envoy process.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::tools::tool;
use crate::server::http_get;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// An Envoy that is killed at its end.
pub struct EnvoyProcess {
    process: Child,
    /// The address of its admin pages.
    admin: String,
    dir: TempDir,
}

impl EnvoyProcess {
    /// Starts Envoy with this configuration, in which it gets admin pages on a free port.
    pub fn start(mut config: Value, env: &[(&str, &str)]) -> Self {
        config["admin"] = json!({ "address": socket_address("127.0.0.1:0") });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("envoy.json");
        fs::write(&file, config.to_string()).unwrap();
        let admin = dir.path().join("admin");
        let process = Command::new(tool("bin/envoy"))
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--disable-hot-restart", "--concurrency", "1"])
            .args(["--log-level", "warning"])
            .args(["--file-flush-interval-msec", "100"])
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            process,
            admin: String::new(),
            dir,
        };
        envoy.admin = envoy.wait_for("admin pages", || {
            // Envoy writes the file after creating it.
            fs::read_to_string(&admin)
                .ok()
                .filter(|it| it.parse::<SocketAddr>().is_ok())
        });
        envoy
    }

    /// The address of a listener.
    pub fn listener(&self, name: &str) -> String {
        let prefix = format!("{name}::");
        self.wait_for(name, || {
            let listeners = self.page("/listeners");
            let line = listeners.lines().find_map(|it| it.strip_prefix(&prefix));
            line.map(ToOwned::to_owned)
        })
    }

    /// A counter or gauge; 0 until it is used.
    pub fn stat(&self, name: &str) -> u64 {
        let prefix = format!("{name}: ");
        let stats = self.page(&format!("/stats?filter=^{name}$"));
        let value = stats.lines().find_map(|it| it.strip_prefix(&prefix));
        value.map_or(0, |it| it.parse().unwrap())
    }

    /// An admin page.
    pub fn page(&self, path: &str) -> String {
        http_get(&self.admin, path).1
    }

    /// Looks until something is found; fails after half a minute.
    pub fn wait_for<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "Envoy has no {what}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for EnvoyProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Envoy's form of `HOST:PORT`.
pub fn socket_address(of: &str) -> Value {
    let of: SocketAddr = of.parse().unwrap();
    let (host, port) = (of.ip().to_string(), of.port());
    json!({ "socket_address": { "address": host, "port_value": port } })
}
