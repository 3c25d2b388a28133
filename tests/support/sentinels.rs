//! A master, a replica and three sentinels.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, Value};
use tempfile::TempDir;

use super::{
    certificates::Encryption, clock::Clock, cluster::hosts, free_port, redis::RedisServer,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The sentinels' name of the master.
pub const NAME: &str = "main";

pub struct Sentinels {
    /// Initially the master and the replica.
    pub servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
    /// The sentinels' TLS ports, if any.
    tls_ports: Vec<u16>,
}

struct Sentinel {
    process: Child,
    port: u16,
    password: String,
    _dir: TempDir,
}

impl Sentinels {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With a password for the sentinels, unless it is empty.
    pub fn start_with(password: &str) -> Self {
        Self::start_all(password, None)
    }

    /// With this clock for the servers.
    pub fn start_at(clock: &Clock) -> Self {
        Self::start_all("", Some(clock))
    }

    fn start_all(password: &str, clock: Option<&Clock>) -> Self {
        let master = RedisServer::start_on(free_port(), clock, &[]);
        let port = master.port.to_string();
        let replica = ["--replicaof", "127.0.0.1", &port];
        let replica = RedisServer::start_on(free_port(), clock, &replica);
        let settings = match password {
            "" => String::new(),
            it => format!("requirepass {it}\nsentinel sentinel-pass {it}\n"),
        };
        let sentinels = (0..3).map(|_| Sentinel::start(master.port, password, &settings));
        Self {
            sentinels: sentinels.collect(),
            servers: [master, replica],
            tls_ports: Vec::new(),
        }
        .wait_for_agreement()
    }

    /// With TLS among sentinels, servers and clients.
    pub fn start_encrypted(encryption: &Encryption) -> Self {
        let ports: [u16; 5] = std::array::from_fn(|_| free_port());
        let options = |port| encryption.arguments(port);
        let master = options(ports[0]);
        let master: Vec<&str> = master.iter().map(String::as_str).collect();
        let master = RedisServer::start_on(free_port(), None, &master);
        let (its, port) = (options(ports[1]), ports[0].to_string());
        let mut replica: Vec<&str> = its.iter().map(String::as_str).collect();
        replica.extend(["--replicaof", "127.0.0.1", &port]);
        let replica = RedisServer::start_on(free_port(), None, &replica);
        let settings = |port| {
            let lines = encryption.options(port);
            lines
                .iter()
                .map(|line| line.join(" ") + "\n")
                .collect::<String>()
        };
        let sentinels = ports[2..].iter();
        let sentinels = sentinels.map(|port| Sentinel::start(ports[0], "", &settings(*port)));
        Self {
            sentinels: sentinels.collect(),
            servers: [master, replica],
            tls_ports: ports[2..].to_vec(),
        }
        .wait_for_agreement()
    }

    fn wait_for_agreement(self) -> Self {
        // Otherwise the replica waits for seconds before its initial copy.
        self.servers[0].run(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        self.wait_for_discovery();
        self
    }

    pub fn url(&self) -> String {
        self.url_of("")
    }

    /// For a user such as `user:password@`.
    pub fn url_of(&self, user: &str) -> String {
        let ports: Vec<u16> = self.sentinels.iter().map(|it| it.port).collect();
        format!("redis+sentinel://{user}{}/{NAME}", hosts(&ports))
    }

    pub fn encrypted_url(&self) -> String {
        format!("rediss+sentinel://{}/{NAME}", hosts(&self.tls_ports))
    }

    /// Gives each sentinel a user.
    pub fn set_user(&self, user: &[&str]) {
        for sentinel in &self.sentinels {
            sentinel.run(&[&["ACL", "SETUSER"], user].concat());
        }
    }

    /// Stops replication from the master to the replica.
    pub fn cut_replication(&self) {
        let master = &self.servers[0];
        master.run(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        master.run(&["CLIENT", "KILL", "TYPE", "replica"]);
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while master.info("replication").contains("connected_slaves:1") {
            assert!(Instant::now() < deadline, "the replica stays");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every sentinel names this server as the master.
    pub async fn wait_until_all_name(&self, wanted: usize) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let wanted = self.servers[wanted].port.to_string();
        let names = |sentinel: &Sentinel| {
            let reply = sentinel.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
            redis::from_redis_value::<Vec<String>>(reply).unwrap()[1] == wanted
        };
        while !self.sentinels.iter().all(names) {
            assert!(Instant::now() < deadline, "no failover to {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Promotes the replica.
    pub fn fail_over(&self) {
        self.sentinels[0].run(&["SENTINEL", "FAILOVER", NAME]);
    }

    /// Kills a sentinel.
    pub fn kill_sentinel(&mut self) {
        let mut sentinel = self.sentinels.remove(0);
        sentinel.process.kill().unwrap();
        sentinel.process.wait().unwrap();
    }

    fn wait_for_discovery(&self) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let agreed = |sentinel: &Sentinel| {
            let reply = sentinel.try_run(&["SENTINEL", "MASTER", NAME]);
            let reply = reply.map(redis::from_redis_value::<Vec<String>>);
            let Ok(Ok(reply)) = reply else { return false };
            let is = |name: &str, wanted: &str| {
                reply.windows(2).any(|it| it[0] == name && it[1] == wanted)
            };
            is("num-other-sentinels", "2") && is("num-slaves", "1") && is("flags", "master")
        };
        let in_sync = || {
            self.servers[1]
                .info("replication")
                .contains("master_link_status:up")
        };
        while !(self.sentinels.iter().all(agreed) && in_sync()) {
            assert!(Instant::now() < deadline, "the sentinels do not agree");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Sentinel {
    fn start(master: u16, password: &str, settings: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n{settings}",
            dir.path().display()
        );
        fs::write(&file, text).unwrap();
        let process = Command::new("redis-sentinel")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need redis-sentinel: ./scripts/test installs it");
        Self {
            process,
            port,
            password: password.to_owned(),
            _dir: dir,
        }
    }

    fn try_run(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let user = match self.password.as_str() {
            "" => String::new(),
            password => format!(":{password}@"),
        };
        let client = Client::open(format!("redis://{user}127.0.0.1:{}", self.port))?;
        redis::cmd(words[0])
            .arg(&words[1..])
            .query(&mut client.get_connection()?)
    }

    fn run(&self, words: &[&str]) -> Value {
        self.try_run(words).unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
