//! URLs of Redis: one server, a master that sentinels watch, or a cluster.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, IntoConnectionInfo as _, RedisError};

use super::login::{Login, Password};

/// The forms of a URL, for error messages.
const ONE: &str = "redis://[user:password@]host[:port][/db]";
const SENTINEL: &str = "redis+sentinel://[user:password@]host:port,host:port/master-name[/db]";
const CLUSTER: &str = "redis+cluster://[user:password@]host:port,host:port";
const SOCKET: &str = "redis+unix:///path.sock";

/// The hint for a user or a password that must be encoded.
const ENCODE: &str = "percent-encode what is special in the user or password (/ as %2F, # as %23, ? as %3F, % as \
                      %25), or set redis.password or TOLLGATE_REDIS_PASSWORD";

const SENTINEL_PORT: u16 = 26379;

/// A URL of one of these forms; `rediss` in place of `redis` is the same over TLS. Displays without user
/// and password.
///
/// * `redis://[user:password@]host[:port][/db]`
/// * `redis+sentinel://[user:password@]host:port,host:port/master-name[/db]`
/// * `redis+cluster://[user:password@]host:port,host:port`
/// * `redis+unix:///path.sock`, without TLS
#[derive(Clone)]
pub struct RedisUrl {
    pub(crate) topology: Topology,
    /// The server; or the sentinels, or the first nodes of the cluster.
    pub(crate) hosts: Vec<Host>,
    /// Over TLS.
    pub(crate) is_encrypted: bool,
    /// How to log in, and which database.
    pub(crate) login: Login,
}

/// How Redis is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    One,
    /// The master of this name.
    Sentinel(String),
    Cluster,
}

/// Where a server listens. A name that begins with `/` is the path of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl RedisUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// What is wrong, without repeating the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let unknown = || format!("is none of {ONE}, {SENTINEL}, {CLUSTER} and {SOCKET}");
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let (client, form) = scheme.split_once('+').unwrap_or((scheme, ""));
        let is_encrypted = match client {
            "redis" => false,
            "rediss" => true,
            _ => return Err(unknown()),
        };
        if form == "unix" {
            return match is_encrypted {
                true => Err(format!("a unix socket has no TLS: {SOCKET}")),
                false => Self::of_socket(rest),
            };
        }
        let (user, hosts, path) = parts(rest)?;
        let (topology, database) = match form {
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
        if topology == Topology::One && hosts.contains(',') {
            return Err(format!(
                "has several hosts: for these there are {SENTINEL} and {CLUSTER}"
            ));
        }
        let hosts = hosts.split(',').map(|host| match (port(host)?, &topology) {
            (None, Topology::Sentinel(_)) => host_of(&format!("{client}://{host}:{SENTINEL_PORT}")),
            _ => host_of(&format!("{client}://{host}")),
        });
        Ok(Self {
            hosts: hosts.collect::<Result<_, _>>()?,
            topology,
            is_encrypted,
            login: login(user, database)?,
        })
    }

    /// One server, at a socket of this path.
    fn of_socket(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') || path == "/" {
            return Err(format!(
                "names no absolute path: {SOCKET}; user, password and database are redis.username, \
                 redis.password and redis.database"
            ));
        }
        let path = without_query(path, "redis.database")?;
        Ok(Self {
            topology: Topology::One,
            hosts: vec![Host::socket(Path::new(path))],
            is_encrypted: false,
            login: Login::default(),
        })
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether sentinels name the master.
    #[must_use]
    pub fn has_sentinels(&self) -> bool {
        matches!(self.topology, Topology::Sentinel(_))
    }

    /// Whether it is a cluster, which has one database.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.topology == Topology::Cluster
    }

    /// The login that the URL has.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// The same servers with another login.
    #[must_use]
    pub fn with_login(self, login: Login) -> Self {
        Self { login, ..self }
    }
}

/// User and password, hosts, and what follows the first `/`.
fn parts(rest: &str) -> Result<(Option<&str>, &str, &str), String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // Neither a master's name nor a database's number has an `@`, so the authority ended within the password.
    if path.contains('@') {
        return Err(ENCODE.to_owned());
    }
    let path = without_query(path, "/3 at the end of the URL, or redis.database")?;
    let path = path.strip_prefix('/').unwrap_or(path);
    Ok(match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts, path),
        None => (None, authority, path),
    })
}

/// Returns the path, unless a query or a fragment follows: if these were ignored, counters in another database
/// would begin at zero. `database` says where to set the database instead.
fn without_query<'p>(path: &'p str, database: &str) -> Result<&'p str, String> {
    let Some(at) = path.find(['?', '#']) else {
        return Ok(path);
    };
    let rest = &path[at..];
    if rest == "#insecure" {
        return Err("#insecure is not supported: name the CA in redis.ca_file".to_owned());
    }
    if rest.starts_with('#') {
        return Err(format!("has a fragment (#…), which is not read; {ENCODE}"));
    }
    let names = rest[1..].split(['&', '#']);
    let names = names.map(|pair| pair.split('=').next().unwrap_or_default());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let names: Vec<_> = names
        .filter(|name| !name.is_empty() && name.chars().all(is_name))
        .map(|name| match name {
            "db" | "database" => {
                format!("{name} (say {database})")
            }
            "user" | "username" => format!("{name} (say redis.username)"),
            "pass" | "password" => format!("{name} (say redis.password)"),
            _ => name.to_owned(),
        })
        .collect();
    Err(match names.is_empty() {
        true => "has a query (?…), which is not read".to_owned(),
        false => format!("has a query, which is not read: {}", names.join(", ")),
    })
}

/// The login of a URL.
fn login(user: Option<&str>, database: &str) -> Result<Login, String> {
    let (username, password) = match user {
        None => (None, None),
        Some(user) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (decode(name)?, decode(password)?)
        }
    };
    let database = match database {
        "" => None,
        digits if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err("names a database that is no number".to_owned());
        }
        digits => Some(
            digits
                .parse()
                .map_err(|_| "names a database that is no number")?,
        ),
    };
    Ok(Login {
        username,
        password: password.map(Password::Text),
        database,
    })
}

/// Decodes a user or a password; `None` if it is empty.
fn decode(text: &str) -> Result<Option<String>, String> {
    let is_encoded = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_encoded) {
        return Err(ENCODE.to_owned());
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| "holds a user or a password that is not UTF-8")?;
    Ok(Some(decoded.into_owned()).filter(|text| !text.is_empty()))
}

/// Parses a URL that has only a host, with the client library.
fn host_of(url: &str) -> Result<Host, String> {
    let info = url
        .into_connection_info()
        .map_err(|error: RedisError| match error.detail() {
            Some(detail) => format!("is no Redis URL: {detail}"),
            None => format!("is no Redis URL of the form {ONE}"),
        })?;
    match info.addr() {
        ConnectionAddr::Tcp(name, port) => Ok(Host::new(name, *port)),
        ConnectionAddr::TcpTls { host, port, .. } => Ok(Host::new(host, *port)),
        _ => Err(format!("is no Redis URL of the form {ONE}")),
    }
}

/// The port of a host, if it has one. 0 is not a port.
fn port(host: &str) -> Result<Option<u16>, String> {
    let digits = host.rsplit_once(':').map(|(_, digits)| digits);
    let is_number =
        |digits: &&str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let Some(digits) = digits.filter(is_number) else {
        return Ok(None);
    };
    match digits.parse() {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err("names a port that is not between 1 and 65535".to_owned()),
    }
}

impl Host {
    pub(crate) fn new(name: &str, port: u16) -> Self {
        let name = name.to_owned();
        Self { name, port }
    }

    /// A unix socket, by its absolute path.
    fn socket(path: &Path) -> Self {
        Self::new(&path.display().to_string(), 0)
    }

    /// The address for a connection without TLS.
    pub(crate) fn address(&self) -> ConnectionAddr {
        if self.name.starts_with('/') {
            ConnectionAddr::Unix(PathBuf::from(&self.name))
        } else {
            ConnectionAddr::Tcp(self.name.clone(), self.port)
        }
    }

    /// The target of a redirection: `name:port`, in which an IPv6 address has no brackets. An empty name stands
    /// for the node that redirected, `from`.
    pub(crate) fn of_redirection(text: &str, from: &Self) -> Option<Self> {
        let (name, port) = text.rsplit_once(':')?;
        let name = if name.is_empty() { &from.name } else { name };
        Some(Self::new(name, port.parse().ok()?))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.starts_with('/') {
            f.write_str(name)
        } else if name.contains(':') {
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
        let (hosts, database) = (hosts.join(","), self.login.database.unwrap_or(0));
        match &self.topology {
            Topology::One if hosts.starts_with('/') => match self.login.database {
                None => write!(f, "{client}+unix://{hosts}"),
                Some(database) => write!(f, "{client}+unix://{hosts} (database {database})"),
            },
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
mod tests;
