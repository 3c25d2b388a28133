//! The gRPC surface: `tollgate.v1.QuotaService`, over the [`Ledger`](crate::ledger::Ledger).
//!
//! Each method converts the request, calls the ledger, and converts the answer ([`convert`], [`usage`]). The layer around it
//! ([`call`]) has deadline, [`authorization`], metrics and traces. The ledger's errors become
//! statuses in [`status`](mod@status) alone.

mod authorization;
mod call;
mod convert;
mod deadline;
mod external_changes;
mod in_process;
mod organizations;
mod service;
mod status;
mod stream;
mod usage;

pub(crate) use self::{
    authorization::Permit,
    call::CallContext,
    convert::{comparison_result, invalid, org},
    in_process::{CallError, UnaryCall},
    status::status,
};
pub use self::{
    authorization::ReflectionFor,
    call::{CallFuture, CallLayer, CallService},
    in_process::InProcessService,
    service::{QuotaHandler, QuotaMethods, QuotaServiceConfig, service},
};

/// The messages, the service and the client, generated from `proto/tollgate/v1/quota.proto`.
#[allow(missing_docs, unreachable_pub, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("tollgate.v1");

    /// The compiled proto with its comments, for server reflection.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.v1.descriptors.binpb"));
}
