//! The gRPC surface: `tollgate.v1.QuotaService`, over the [`Ledger`](crate::ledger::Ledger).
//!
//! Each method converts the request, calls the ledger, and converts the answer. [`convert`] holds
//! both directions, [`errors`] the one place where errors become statuses. [`access`] lets in who may call.

pub mod access;
pub mod codec;
mod compression;
mod convert;
pub mod deadline;
mod errors;
pub mod heard;
pub mod malformed;
mod observed;
mod page_token;
pub mod quota;
mod stream;

/// The messages, the service and the client, generated from `proto/tollgate/v1/quota.proto`.
#[allow(missing_docs, unreachable_pub, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("tollgate.v1");

    /// The compiled proto with its comments, for server reflection.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.v1.descriptors.binpb"));
}
