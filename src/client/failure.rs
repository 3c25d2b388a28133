//! Explains a failed call: the service's status, or why there was no answer.

use std::{
    error::Error as _,
    io::{self, Read, Write},
    iter,
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use rustls::ClientConnection;
use tonic::{Status, TimeoutExpired, transport::Uri};

use super::connection::ConnectionArgs;
use crate::tls::TlsFault;

/// Timeout of each step of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The first bytes of an HTTP/2 client.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HTTP1_REQUEST: &[u8] =
    b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The service's code and message, or why there was no answer.
pub(crate) fn rpc_error(connection: &ConnectionArgs, status: &Status) -> anyhow::Error {
    let causes = iter::successors(status.source(), |cause| (**cause).source());
    let Some(cause) = causes.last() else {
        return anyhow!("{}: {}", code_name(status.code()), status.message());
    };
    let (addr, code) = (&connection.addr, code_name(status.code()));
    if cause.is::<TimeoutExpired>() {
        return anyhow!(
            "DEADLINE_EXCEEDED: no answer from {addr} in time; the outcome is unknown: call again, with the same \
             request id if there is one"
        );
    }
    let why = if connection.is_encrypted() {
        TlsFault::find(status, &connection.tls_settings())
            .or_else(|| refusal_after_handshake(connection))
            .map(TlsFault::sentence)
    } else {
        other_protocol(addr)
    };
    match why {
        // tonic's code depends on when it noticed the fault.
        Some(why) => anyhow!("UNAVAILABLE: no answer from {addr}: {why}"),
        // tonic's message is only "transport error".
        None => anyhow!("{code}: no answer from {addr}: {cause}"),
    }
}

/// Detects a port with TLS, HTTP/1 or another protocol instead of plaintext HTTP/2. The failed call does not show
/// which: the connection was closed, or the answer was parsed as an HTTP/2 frame.
fn other_protocol(addr: &Uri) -> Option<String> {
    let answer = answer_to(HTTP2_PREFACE, addr)?;
    if let [0x15, 0x03, ..] = answer.as_slice() {
        // A TLS alert of any version.
        let authority = addr.authority()?;
        return Some(format!(
            "the port speaks TLS: use --addr https://{authority}"
        ));
    }
    if answer_to(HTTP1_REQUEST, addr)?.starts_with(b"HTTP/1.1 200") {
        return Some("the port speaks HTTP/1: the service's gRPC port is another one".to_owned());
    }
    // An HTTP/2 server starts with a SETTINGS frame.
    let is_http2 = matches!(answer.as_slice(), [0, _, _, 0x04, ..]);
    (!answer.is_empty() && !is_http2)
        .then(|| "the port speaks another protocol than gRPC".to_owned())
}

/// The first bytes of the answer on a new connection; empty if there are none.
fn answer_to(greeting: &[u8], addr: &Uri) -> Option<Vec<u8>> {
    let mut stream = dial(addr).ok()?;
    stream.write_all(greeting).ok()?;
    let mut answer = Vec::new();
    // A reset after the answer is no error.
    let _ = stream.take(12).read_to_end(&mut answer);
    Some(answer)
}

/// Detects a server that refuses the client certificate after the client's side of the handshake, as TLS 1.3 does.
/// The failed call only says that the connection was closed.
fn refusal_after_handshake(connection: &ConnectionArgs) -> Option<TlsFault> {
    let settings = connection.tls_settings();
    let mut config = settings.config().ok()?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut tcp = dial(&connection.addr).ok()?;
    let mut session =
        ClientConnection::new(Arc::new(config), connection.server_name().ok()?).ok()?;
    let mut stream = rustls::Stream::new(&mut session, &mut tcp);
    let written = stream.write_all(HTTP2_PREFACE);
    let refused = written.and_then(|()| stream.read(&mut [0])).err()?;
    TlsFault::find(&refused, &settings)
}

/// Connects for a probe. Blocks, which is harmless: the call has failed, and nothing else runs.
fn dial(addr: &Uri) -> io::Result<TcpStream> {
    let host = addr.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut addresses = (host, addr.port_u16().unwrap_or_default()).to_socket_addrs()?;
    let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    Ok(stream)
}

/// The code's name in gRPC's documentation, such as NOT_FOUND.
pub(crate) fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
