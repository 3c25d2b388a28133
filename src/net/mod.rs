//! Ports: sockets, connections and their limits, TLS. Knows no settings and no gRPC.

mod activity;
mod bounds;
mod connection;
mod crowd;
mod linger;
mod listener;
mod paced;
mod resets;
mod socket;
mod tls;

pub use self::{
    bounds::Bounds,
    socket::ListenAddress,
    tls::{ClientCertificates, GRPC_TLS, HTTP_TLS, ListenerTls, TlsNames},
};
pub(crate) use self::{
    listener::{Listener, Speaks},
    socket::Socket,
    tls::CertificateReloader,
};
