//! A real Redis Cluster of three masters.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{certificates::Encryption, clock::Clock, free_port, redis::RedisServer, tools::run};

/// Longer than any cluster needs to agree, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
    bus_ports: Vec<u16>,
    /// The nodes' TLS ports, if any.
    tls_ports: Vec<u16>,
}

/// The slot of a key, from a node.
pub fn slot_of(node: &RedisServer, key: &str) -> u16 {
    u16::try_from(node.integer(&["CLUSTER", "KEYSLOT", key])).unwrap()
}

impl RedisCluster {
    /// Its nodes serve their slots even if other nodes are down.
    pub fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// The same, with a clock that is not moved, and with more options.
    pub fn start_with(clock: Option<&Clock>, options: &[&str]) -> Self {
        let options = [&["--cluster-node-timeout", "1000"], options].concat();
        let cluster = Self::nodes(clock, None, &options);
        cluster.created(&[]);
        cluster
    }

    /// Its nodes use TLS among each other and with clients.
    pub fn start_encrypted(encryption: &Encryption) -> Self {
        let cluster = Self::nodes(None, Some(encryption), &["--tls-cluster", "yes"]);
        let Encryption { ca, cert, key } = encryption;
        cluster.created(&["--tls", "--cacert", ca, "--cert", cert, "--key", key]);
        cluster
    }

    /// Its nodes use this clock, which may be moved. Their timeout is so long that a move does not make them fail.
    pub fn start_at(clock: &Arc<Clock>) -> Self {
        let cluster = Self::nodes(Some(clock), None, &["--cluster-node-timeout", "1800000000"]);
        cluster.created(&[]);
        cluster
    }

    fn nodes(clock: Option<&Clock>, encryption: Option<&Encryption>, options: &[&str]) -> Self {
        let (mut nodes, mut bus_ports, mut tls_ports) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let bus_port = free_port();
            let bus = bus_port.to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let spread = ["--cluster-require-full-coverage", "no"];
            let mut encrypted = Vec::new();
            if let Some(encryption) = encryption {
                let port = free_port();
                tls_ports.push(port);
                encrypted = encryption.arguments(port);
            }
            let all = [&cluster[..], &spread, options, &refs(&encrypted)].concat();
            nodes.push(RedisServer::start_on(free_port(), clock, &all));
            bus_ports.push(bus_port);
        }
        Self {
            nodes,
            bus_ports,
            tls_ports,
        }
    }

    /// With redis-cli, as an operator does it.
    fn created(&self, how: &[&str]) {
        let ports = self.ports(!self.tls_ports.is_empty());
        let address = |(port, bus): (u16, &u16)| format!("127.0.0.1:{port}@{bus}");
        let addresses: Vec<String> = ports
            .into_iter()
            .zip(&self.bus_ports)
            .map(address)
            .collect();
        let create = ["--cluster", "create"];
        let all = [how, &create, &refs(&addresses)[..], &["--cluster-yes"]].concat();
        let ran = run(Command::new("redis-cli").args(all));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        self.wait_until_complete();
    }

    fn ports(&self, encrypted: bool) -> Vec<u16> {
        if encrypted {
            return self.tls_ports.clone();
        }
        self.nodes.iter().map(|node| node.port).collect()
    }

    pub fn wait_until_complete(&self) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        for node in &self.nodes {
            loop {
                let reply: String =
                    redis::from_redis_value(node.run(&["CLUSTER", "INFO"])).unwrap();
                let all = [
                    "cluster_state:ok",
                    "cluster_slots_ok:16384",
                    "cluster_known_nodes:3",
                ];
                if all.iter().all(|part| reply.contains(part)) {
                    break;
                }
                assert!(Instant::now() < deadline, "{reply}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    pub fn url(&self) -> String {
        self.url_of("")
    }

    /// For a user such as `user:password@`.
    pub fn url_of(&self, user: &str) -> String {
        format!("redis+cluster://{user}{}", hosts(&self.ports(false)))
    }

    pub fn encrypted_url(&self) -> String {
        format!("rediss+cluster://{}", hosts(&self.ports(true)))
    }

    /// The index of an organization's master.
    pub fn master_of(&self, org: &str) -> usize {
        let slot = slot_of(&self.nodes[0], &format!("tollgate:{{{org}}}:"));
        let id = |node: &RedisServer| -> String {
            redis::from_redis_value(node.run(&["CLUSTER", "MYID"])).unwrap()
        };
        let reply: String =
            redis::from_redis_value(self.nodes[0].run(&["CLUSTER", "NODES"])).unwrap();
        let has = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(a), Ok(b)) if a <= slot && slot <= b)
        };
        let line = reply
            .lines()
            .find(|line| line.split(' ').skip(8).any(has))
            .unwrap();
        let its = line.split(' ').next().unwrap();
        self.nodes.iter().position(|node| id(node) == its).unwrap()
    }

    /// For each master one of its organizations, from `org-0` on.
    pub fn one_of_each(&self, orgs: usize) -> Vec<String> {
        let mut found = vec![None; self.nodes.len()];
        for org in (0..orgs).map(|org| format!("org-{org}")) {
            found[self.master_of(&org)].get_or_insert(org);
        }
        found.into_iter().map(Option::unwrap).collect()
    }

    /// Makes each node announce this port instead of its own.
    pub fn announce(&self, ports: &[u16]) {
        for (node, port) in self.nodes.iter().zip(ports) {
            node.run(&["CONFIG", "SET", "cluster-announce-port", &port.to_string()]);
        }
        let reply = |node: &RedisServer| -> String {
            redis::from_redis_value(node.run(&["CLUSTER", "NODES"])).unwrap()
        };
        let deadline = Instant::now() + WAIT_TIMEOUT;
        for node in &self.nodes {
            while !ports
                .iter()
                .all(|port| reply(node).contains(&format!(":{port}@")))
            {
                assert!(Instant::now() < deadline, "{}", reply(node));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Moves the slot of an organization to another node like `redis-cli --cluster reshard`, with pauses so that calls
    /// come in between.
    pub fn move_slot_of(&self, org: &str, to: usize, pause: Duration) {
        let from = self.master_of(org);
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = slot_of(source, &format!("tollgate:{{{org}}}:")).to_string();
        let id = |node: &RedisServer| -> String {
            redis::from_redis_value(node.run(&["CLUSTER", "MYID"])).unwrap()
        };
        target.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)]);
        source.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)]);
        std::thread::sleep(pause);
        let port = target.port.to_string();
        loop {
            let keys = source.strings(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let [key] = &keys[..] else { break };
            source.run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            std::thread::sleep(pause);
        }
        for node in [target, source].into_iter().chain(&self.nodes) {
            node.run(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(target)]);
        }
    }
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// As in a URL.
pub fn hosts(ports: &[u16]) -> String {
    let hosts = ports.iter().map(|port| format!("127.0.0.1:{port}"));
    hosts.collect::<Vec<_>>().join(",")
}
