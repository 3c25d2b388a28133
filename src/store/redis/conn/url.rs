//! URLs of Redis: one server, a master that sentinels watch, or a cluster.

use std::{fmt, path::PathBuf, sync::Arc};

use percent_encoding::percent_decode_str;
use redis::ConnectionAddr;
use url::Url;

use super::login::{Login, Password};

/// The forms of a URL, for error messages.
const ONE: &str = "redis://[user:password@]host[:port][/db]";
const SENTINEL: &str = "redis+sentinel://[user:password@]host:port,host:port/master-name[/db]";
const CLUSTER: &str = "redis+cluster://[user:password@]host:port,host:port";
const SOCKET: &str = "redis+unix:///path.sock";

/// The hint for a user or a password that must be encoded.
const ENCODE: &str = "percent-encode what is special in the user or password (/ as %2F, # as %23, ? as %3F, % as \
                      %25), or set redis.password or TOLLGATE_REDIS_PASSWORD";

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A URL of one of these forms; `rediss` in place of `redis` is the same over TLS. Displays without user
/// and password.
///
/// * `redis://[user:password@]host[:port][/db]`
/// * `redis+sentinel://[user:password@]host:port,host:port/master-name[/db]`
/// * `redis+cluster://[user:password@]host:port,host:port`
/// * `redis+unix:///path.sock`, without TLS
#[derive(Debug, Clone)]
pub struct RedisUrl {
    pub(crate) topology: Topology,
    /// The server; or the sentinels, or the first nodes of the cluster.
    pub(crate) hosts: Vec<Host>,
    /// Over TLS.
    pub(crate) is_encrypted: bool,
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
    pub(crate) name: Arc<str>,
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
        if !matches!(client, "redis" | "rediss") {
            return Err(unknown());
        }
        let is_encrypted = client == "rediss";
        if form == "unix" && is_encrypted {
            return Err(format!("a unix socket has no TLS: {SOCKET}"));
        }
        if form == "unix" {
            return Self::of_socket(rest);
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
        let default_port = match topology {
            Topology::Sentinel(_) => SENTINEL_PORT,
            _ => REDIS_PORT,
        };
        let hosts = hosts.split(',').map(|host| Host::parse(host, default_port));
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
            hosts: vec![Host::new(path, 0)],
            is_encrypted: false,
            login: Login::default(),
        })
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
}

/// User and password, hosts, and what follows the first `/`.
fn parts(rest: &str) -> Result<(&str, &str, &str), String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // Neither a master's name nor a database's number has an `@`, so the authority ended within the password.
    if path.contains('@') {
        return Err(ENCODE.to_owned());
    }
    let path = without_query(path, "/3 at the end of the URL, or redis.database")?;
    let path = path.strip_prefix('/').unwrap_or(path);
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    Ok((user, hosts, path))
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
    let names = names.filter(|name| !name.is_empty() && name.chars().all(is_name));
    let names: Vec<_> = names
        .map(|name| match name {
            "db" | "database" => format!("{name} (say {database})"),
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
fn login(user: &str, database: &str) -> Result<Login, String> {
    let (username, password) = user.split_once(':').unwrap_or((user, ""));
    // Parsing a number would accept a sign.
    let is_number = database.bytes().all(|byte| byte.is_ascii_digit());
    let number = || database.parse().ok().filter(|_| is_number);
    Ok(Login {
        username: decode(username)?,
        password: decode(password)?.map(Password::Text),
        database: match database {
            "" => None,
            _ => Some(number().ok_or("names a database that is no number")?),
        },
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

impl Host {
    pub(crate) fn new(name: &str, port: u16) -> Self {
        let name = name.into();
        Self { name, port }
    }

    /// Parses `name[:port]`. 0 is not a port.
    fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let url = Url::parse(&format!("redis://{text}")).ok();
        let host = url.and_then(|url| {
            let name = url.host_str()?.trim_matches(['[', ']']).to_owned();
            let port = url.port().unwrap_or(default_port);
            (port > 0).then(|| Self::new(&name, port))
        });
        host.ok_or_else(|| {
            format!(
                "is no Redis URL of the form {ONE}: it lacks a host, or a port is not between 1 and 65535"
            )
        })
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// The address for a connection without TLS.
    pub(crate) fn address(&self) -> ConnectionAddr {
        if self.is_socket() {
            ConnectionAddr::Unix(PathBuf::from(&*self.name))
        } else {
            ConnectionAddr::Tcp(self.name.to_string(), self.port)
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
        if self.is_socket() {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
            (
                "redis+unix:///run/a b@c.sock",
                "redis+unix:///run/a b@c.sock",
            ),
        ] {
            assert_eq!(RedisUrl::parse(text).unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn a_url_has_a_user_a_password_and_a_database() {
        for (text, password, database) in [
            ("redis+sentinel://u:p%40@a:1,b:2/main/5", "p@", Some(5)),
            // Characters that only a password can have need no encoding.
            ("redis://u:p@:s@host", "p@:s", None),
        ] {
            let login = Login {
                username: Some("u".to_owned()),
                password: Some(Password::Text(password.to_owned())),
                database,
            };
            assert_eq!(RedisUrl::parse(text).unwrap().login, login);
        }
    }

    #[test]
    fn an_invalid_url_is_refused_without_repeating_it() {
        for (text, why) in [
            ("redis+sentinel://u:secret@a:1", "names no master"),
            ("redis+sentinel://u:secret@a:1/main/x", "database"),
            ("redis+cluster://u:secret@a:1/2", "no databases"),
            ("redis+cluster://u:secret@a:1,", "no Redis URL"),
            ("redis+other://u:secret@a:1", "is none of"),
            ("redis://u:secret@a:1,b:2", "several hosts"),
            ("rediss://u:secret@a:1/#insecure", "#insecure"),
            ("redis://u:secret@a:x", "no Redis URL"),
            ("redis://u:secret@a:65536", "between 1 and 65535"),
            ("redis://u:secret@[::1]:0/3", "between 1 and 65535"),
            ("rediss+cluster://u:secret@a,b:70000", "1 and 65535"),
            ("redis://h/?db=3secret", "db (say /3"),
            ("redis://h?db=3secret", "redis.database"),
            ("redis://h/0?timeout=secret&db=secret", "timeout, db (say"),
            ("redis://h/?password=secret", "redis.password"),
            ("redis+sentinel://h/main?db=3secret", "redis.database"),
            ("redis+cluster://h:1?user=secret", "redis.username"),
            ("redis+unix:///run/redis.sock?db=3secret", "redis.database"),
            ("redis+unix:///run/redis.sock#secret", "fragment"),
            ("redis://h/#secret", "fragment"),
            ("redis://h#secret", "fragment"),
            ("redis://h/?%73ecret", "query"),
            ("redis+unix://run/redis.sock", "absolute path"),
            ("redis+unix://u:secret@/run/redis.sock", "absolute path"),
            ("redis+unix://", "absolute path"),
            ("redis+unix:///", "absolute path"),
            ("rediss+unix:///run/redis.sock", "no TLS"),
        ] {
            let fault = RedisUrl::parse(text).unwrap_err();
            assert!(fault.contains(why), "{text}: {fault}");
            assert!(!fault.contains("ecret"), "{fault}");
        }
    }

    #[test]
    fn an_unencoded_special_character_in_a_password_gets_a_hint() {
        for (form, path) in [
            ("redis://", ""),
            ("rediss+sentinel://", "/main"),
            ("redis+cluster://", ""),
        ] {
            for special in ["/", "#", "?", "%", "%zz", "/3?x=", "1/2"] {
                let text = format!("{form}user:12{special}secret@host:1{path}");
                let fault = RedisUrl::parse(&text).unwrap_err();
                assert_eq!(fault, ENCODE, "{text}");
            }
        }
    }

    #[test]
    fn a_redirection_without_a_name_is_to_the_host_that_redirected() {
        let from = Host::new("here", 1);
        let target = |text| Host::of_redirection(text, &from);
        assert_eq!(target(":7"), Some(Host::new("here", 7)));
        assert_eq!(target("::1:7"), Some(Host::new("::1", 7)));
        assert_eq!(target("there"), None);
    }
}
