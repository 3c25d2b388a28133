//! TLS of clients (command line and Redis): settings, verification of server certificates, explanations of faults.

mod config;
mod fault;
mod pinned;

pub use self::{
    config::{TlsFiles, TlsNames, TlsSettings},
    fault::TlsFault,
    pinned::PinnedVerifier,
};
