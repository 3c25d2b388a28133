//! TLS of clients (command line and Redis): verification of server certificates and explanations of faults.

mod fault;
mod pinned;

pub use self::{
    fault::{TlsFault, TlsSettings},
    pinned::PinnedVerifier,
};
