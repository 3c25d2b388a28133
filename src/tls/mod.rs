//! TLS as a client, towards the service and towards Redis: whom it trusts, and plain words for what goes wrong.

mod fault;
mod pinned;

pub use self::{
    fault::{TlsFault, TlsSettings},
    pinned::PinnedVerifier,
};
