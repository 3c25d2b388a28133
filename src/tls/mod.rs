//! TLS on the client's side, for the command line and for Redis: server certificates and plain words for faults.

mod fault;
mod pinned;

pub use self::{
    fault::{TlsFault, TlsSettings},
    pinned::PinnedVerifier,
};
