//! TLS of clients (command line and Redis): settings, verification of server certificates, explanations of faults.

mod config;
mod fault;
mod pinned;

pub use self::{
    config::{TlsFiles, TlsNames, TlsSettings},
    fault::TlsFault,
    pinned::PinnedVerifier,
};

use std::net::IpAddr;

use http::Uri;

/// Whether the address is this machine's, so that secrets may be sent without TLS.
pub(crate) fn is_loopback(addr: &Uri) -> bool {
    let host = addr.host().unwrap_or_default();
    let ip: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    ip.map_or(host.eq_ignore_ascii_case("localhost"), |ip| {
        ip.to_canonical().is_loopback()
    })
}
