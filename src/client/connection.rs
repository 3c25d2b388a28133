//! The client's connection to a service, and its credentials.

use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    task::{Context, Poll},
    time::Duration,
};

use clap::builder::PathBufValueParser;
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{HeaderValue, Request, Response, header::AUTHORIZATION},
    },
    transport::{Channel, Endpoint, Uri},
};

use super::WrongArguments;
use crate::{
    settings::args::{self, TrimmedParser},
    tls::is_loopback,
};

pub(super) const CA_FILE: &str = "--ca-file";
pub(super) const CERT_FILE: &str = "--cert-file";

/// How long to wait for an answer.
pub(crate) const RPC_TIMEOUT: Duration = Duration::from_secs(10);

/// The service's address, the caller's credentials, and the output format.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionArgs {
    /// The service's gRPC address; for TLS https://HOST:PORT; for a unix socket unix:PATH
    #[arg(
        long,
        env = args::ADDR,
        default_value = "127.0.0.1:50051",
        value_name = "HOST:PORT",
        value_parser = TrimmedParser(service_uri)
    )]
    pub(crate) addr: Uri,
    /// The caller's token. Prefer the variable, since other users can see arguments
    #[arg(
        long,
        env = args::TOKEN,
        hide_env_values = true,
        value_name = "TOKEN",
        value_parser = TrimmedParser(|token: &str| Ok::<_, Infallible>(BearerToken(token.to_owned())))
    )]
    token: Option<BearerToken>,
    /// For TLS: the trusted authorities of the service's certificate, or that certificate itself (PEM).
    /// Default: the system's authorities
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    pub(crate) ca_file: Option<PathBuf>,
    /// For TLS: the caller's client certificate (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "key_file",
        value_parser = TrimmedParser(PathBufValueParser::new())
    )]
    pub(crate) cert_file: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert_file",
        value_parser = TrimmedParser(PathBufValueParser::new())
    )]
    pub(crate) key_file: Option<PathBuf>,
    /// For TLS: the name in the service's certificate, if it is not the address's host
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Print the answer as JSON (proto3 JSON, with the proto's field names and plain numbers)
    #[arg(long)]
    pub(crate) json: bool,
}

/// A bearer token. It is not validated as an argument, since clap's errors print the value.
#[derive(Clone)]
struct BearerToken(String);

/// A channel that adds the caller's token to each call.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizedChannel {
    channel: Channel,
    token: Option<HeaderValue>,
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl BearerToken {
    /// The `authorization` header.
    fn header(&self) -> Result<HeaderValue, WrongArguments> {
        let fault = || WrongArguments("--token: is not one word of ASCII".to_owned());
        if !self.0.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fault());
        }
        let header = HeaderValue::try_from(format!("Bearer {}", self.0));
        let mut header = header.map_err(|_| fault())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl ConnectionArgs {
    /// Returns a channel to the service. It connects at the first call.
    ///
    /// # Errors
    ///
    /// The flags contradict each other, or a file can't be used.
    pub(crate) fn open(&self) -> anyhow::Result<AuthorizedChannel> {
        let mut endpoint = match self.addr.scheme_str() {
            Some("unix") => Endpoint::from_shared(format!("unix:{}", self.addr.path()))?,
            _ => Endpoint::from(self.addr.clone()),
        };
        endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(RPC_TIMEOUT);
        if self.is_encrypted() {
            endpoint = self.encrypt(endpoint)?;
        } else {
            self.check_plaintext()?;
        }
        Ok(AuthorizedChannel {
            channel: endpoint.connect_lazy(),
            token: self.token().map(BearerToken::header).transpose()?,
        })
    }

    /// An empty variable is an unset one.
    fn token(&self) -> Option<&BearerToken> {
        self.token.as_ref().filter(|token| !token.0.is_empty())
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.addr.scheme_str() == Some("https")
    }

    /// Checks that no flag needs TLS.
    fn check_plaintext(&self) -> Result<(), WrongArguments> {
        let flags = [
            (CA_FILE, self.ca_file.is_some()),
            (CERT_FILE, self.cert_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        if let Some((flag, _)) = flags.into_iter().find(|(_, given)| *given) {
            return Err(WrongArguments(format!(
                "{flag} is for TLS: --addr https://HOST:PORT"
            )));
        }
        if self.token().is_some() && !is_loopback(&self.addr) {
            return Err(WrongArguments(
                "the token is not sent: without TLS everybody on the way could read it; connect with --addr \
                 https://HOST:PORT"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl Service<Request<Body>> for AuthorizedChannel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Service::call(&mut self.channel, request)
    }
}

/// A service's address: `https://HOST:PORT`, or one without TLS, with or without `http://`; or `unix:PATH`.
fn service_uri(addr: &str) -> Result<Uri, String> {
    if let Some(path) = addr.strip_prefix("unix:") {
        return socket_uri(path);
    }
    let (scheme, authority) = match (addr.strip_prefix("https://"), addr.strip_prefix("http://")) {
        (Some(authority), _) => ("https", authority),
        (None, Some(authority)) => ("http", authority),
        (None, None) => ("http", addr),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.is_empty() || authority.contains(['/', '?', '#']) {
        return Err(
            "must be HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH".to_owned(),
        );
    }
    // `:PORT` is this machine, as for a listener.
    let host = if authority.starts_with(':') {
        "127.0.0.1"
    } else {
        ""
    };
    let uri: Result<Uri, _> = format!("{scheme}://{host}{authority}").parse();
    let uri = uri.map_err(|error| error.to_string())?;
    // Without a port the transport would use 80 or 443.
    if uri.port().is_none() {
        return Err(
            "names no port from 1 to 65535: HOST:50051, unless the service has another".to_owned(),
        );
    }
    Ok(uri)
}

/// A unix socket's address. A URI needs a host, which for a socket is this machine.
fn socket_uri(path: &str) -> Result<Uri, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = std::path::absolute(path).map_err(|error| format!("unix:PATH: {error}"))?;
    let path = path.display().to_string();
    let uri: Result<Uri, _> = format!("unix://localhost{path}").parse();
    let uri = uri.map_err(|error| format!("unix:PATH: {error}"))?;
    // A URI's path ends at `?` or `#`: that would be another socket.
    if uri.path() != path {
        return Err("unix:PATH: the path can't hold ? or #".to_owned());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_without_a_host_is_this_machine() {
        for (addr, uri) in [
            (":50051", "http://127.0.0.1:50051/"),
            ("https://:1", "https://127.0.0.1:1/"),
        ] {
            let parsed = service_uri(addr).unwrap();
            assert_eq!(parsed, uri);
            assert!(is_loopback(&parsed), "{parsed}");
        }
        for addr in ["", "http://", ":", ":0x", ":65536", "::1"] {
            service_uri(addr).unwrap_err();
        }
    }

    #[test]
    fn a_sockets_path_is_kept_unchanged_or_refused() {
        assert_eq!(
            service_uri("unix:///run/a.sock").unwrap().path(),
            "/run/a.sock"
        );
        for path in [
            "unix:/run/a?b.sock",
            "unix:/run/a#b.sock",
            "unix:/run/a b.sock",
        ] {
            assert!(service_uri(path).is_err(), "{path}");
        }
    }
}
