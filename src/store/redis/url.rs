//! Where Redis is, and how it is run there: one server, a master that sentinels watch, or a cluster.

use std::fmt;

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
};

/// What a URL may look like, for those who mistyped one.
const ONE: &str = "redis://[user:password@]host[:port][/db]";
const SENTINEL: &str = "redis+sentinel://[user:password@]host:port,host:port/master-name[/db]";
const CLUSTER: &str = "redis+cluster://[user:password@]host:port,host:port";

/// Where sentinels listen, unless a URL says otherwise.
const SENTINEL_PORT: u16 = 26379;

/// A URL of one of these forms; `rediss` in place of `redis` is the same over TLS. Displays without user
/// and password.
///
/// * `redis://[user:password@]host[:port][/db]`
/// * `redis+sentinel://[user:password@]host:port,host:port/master-name[/db]`
/// * `redis+cluster://[user:password@]host:port,host:port`
#[derive(Clone)]
pub struct RedisUrl {
    pub(super) topology: Topology,
    /// The server; or those that are asked where to go: sentinels, or nodes of the cluster.
    pub(super) hosts: Vec<Host>,
    /// Over TLS.
    pub(super) is_encrypted: bool,
    /// How to log in, and which database.
    pub(super) login: RedisConnectionInfo,
}

/// How Redis is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    One,
    /// The master of this name.
    Sentinel(String),
    Cluster,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// What is wrong, without repeating the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let unknown = || format!("is none of {ONE}, {SENTINEL} and {CLUSTER}");
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let (client, way) = scheme.split_once('+').unwrap_or((scheme, ""));
        let is_encrypted = match client {
            "redis" => false,
            "rediss" => true,
            _ => return Err(unknown()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (topology, database) = match way {
            "" => (Topology::One, path),
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(format!("names no master: {SENTINEL}"));
                }
                (Topology::Sentinel(name.to_owned()), database)
            }
            "cluster" if !matches!(path, "" | "0") => {
                return Err(format!("a cluster has no databases: {CLUSTER}"));
            }
            "cluster" => (Topology::Cluster, ""),
            _ => return Err(unknown()),
        };
        let number = database.split(['?', '#']).next().unwrap_or_default();
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("names a database that is no number".to_owned());
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let mut infos = Vec::new();
        for host in hosts.split(',') {
            let host = match &topology {
                Topology::One if hosts.contains(',') => {
                    return Err(format!(
                        "has several hosts: for these there are {SENTINEL} and {CLUSTER}"
                    ));
                }
                Topology::Sentinel(_) if !has_port(host) => format!("{host}:{SENTINEL_PORT}"),
                _ => host.to_owned(),
            };
            infos.push(info(&format!("{client}://{user}{host}/{database}"))?);
        }
        let login = infos.first().ok_or_else(unknown)?.redis_settings().clone();
        Ok(Self {
            topology,
            hosts: infos.iter().map(host_of).collect::<Result<_, _>>()?,
            is_encrypted,
            login,
        })
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether sentinels are asked for the master.
    #[must_use]
    pub fn has_sentinels(&self) -> bool {
        matches!(self.topology, Topology::Sentinel(_))
    }
}

/// One host's URL, as the client library reads it.
fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info()
        .map_err(|error: RedisError| match error.detail() {
            Some(detail) => format!("is no Redis URL: {detail}"),
            None => format!("is no Redis URL of the form {ONE}"),
        })
}

fn host_of(info: &ConnectionInfo) -> Result<Host, String> {
    match info.addr() {
        ConnectionAddr::Tcp(name, port) => Ok(Host::new(name, *port)),
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(
            "#insecure is not for counters that money hangs on: name the CA in redis.ca_file"
                .to_owned(),
        ),
        ConnectionAddr::TcpTls { host, port, .. } => Ok(Host::new(host, *port)),
        _ => Err(format!("is no Redis URL of the form {ONE}")),
    }
}

fn has_port(host: &str) -> bool {
    let port = host.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Host {
    pub(super) fn new(name: &str, port: u16) -> Self {
        let name = name.to_owned();
        Self { name, port }
    }

    /// Reads what a server says of another one: `name:port`, where an IPv6 address has no brackets. One
    /// that doesn't know how it is reached leaves the name empty: it is where it was `asked`.
    pub(super) fn told(text: &str, asked: &Self) -> Option<Self> {
        let (name, port) = text.rsplit_once(':')?;
        let name = if name.is_empty() { &asked.name } else { name };
        Some(Self::new(name, port.parse().ok()?))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') {
            write!(f, "[{name}]:{port}")
        } else {
            write!(f, "{name}:{port}")
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = if self.is_encrypted { "rediss" } else { "redis" };
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let (hosts, database) = (hosts.join(","), self.login.db());
        match &self.topology {
            Topology::One => write!(f, "{client}://{hosts}/{database}"),
            Topology::Sentinel(name) => write!(f, "{client}+sentinel://{hosts}/{name}/{database}"),
            Topology::Cluster => write!(f, "{client}+cluster://{hosts}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shown(text: &str) -> String {
        RedisUrl::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        for (text, wanted) in [
            ("redis://u:p%40@h:7000/3", "redis://h:7000/3"),
            ("rediss://:p@h", "rediss://h:6379/0"),
            (
                "redis+sentinel://u:p@a:1,b/main/2",
                "redis+sentinel://a:1,b:26379/main/2",
            ),
            ("rediss+sentinel://a:1/main", "rediss+sentinel://a:1/main/0"),
            (
                "redis+cluster://u:p@a:1,[::1]:2",
                "redis+cluster://a:1,[::1]:2",
            ),
            ("rediss+cluster://a:1/0", "rediss+cluster://a:1"),
        ] {
            assert_eq!(shown(text), wanted);
        }
    }

    #[test]
    fn user_password_and_database_are_those_of_every_host() {
        let url = RedisUrl::parse("redis+sentinel://u:p%40@a:1,b:2/main/5").unwrap();
        assert_eq!(url.login.username(), Some("u"));
        assert_eq!(url.login.password(), Some("p@"));
        assert_eq!(url.login.db(), 5);
        assert_eq!(url.hosts, [Host::new("a", 1), Host::new("b", 2)]);
        assert_eq!(url.topology, Topology::Sentinel("main".to_owned()));
    }

    #[test]
    fn what_is_no_url_is_told_without_repeating_it() {
        for (text, why) in [
            ("redis+sentinel://u:secret@a:1", "names no master"),
            ("redis+sentinel://u:secret@a:1/main/x", "database"),
            ("redis+cluster://u:secret@a:1/2", "no databases"),
            ("redis+cluster://u:secret@a:1,", "no Redis URL"),
            ("redis+other://u:secret@a:1", "is none of"),
            ("redis://u:secret@a:1,b:2", "several hosts"),
            ("rediss://u:secret@a:1/#insecure", "#insecure"),
            ("redis://u:secret@a:x", "no Redis URL"),
        ] {
            let fault = RedisUrl::parse(text).unwrap_err();
            assert!(fault.contains(why), "{text}: {fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_its_name_is_where_it_was_asked() {
        let asked = Host::new("here", 1);
        assert_eq!(Host::told(":7", &asked), Some(Host::new("here", 7)));
        assert_eq!(Host::told("::1:7", &asked), Some(Host::new("::1", 7)));
        assert_eq!(Host::told("there:7", &asked), Some(Host::new("there", 7)));
        assert_eq!(Host::told("there", &asked), None);
    }
}
