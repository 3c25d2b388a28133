//! Ports: sockets, connections and their limits, TLS. Depends on neither the settings nor gRPC.

mod connection;
mod connection_state;
mod limiter;
mod limits;
mod lingering_close;
mod listener;
mod socket;
mod tls;

pub use self::{
    limits::Limits,
    socket::ListenAddress,
    tls::{ClientCertificates, GRPC_TLS, HTTP_TLS, ListenerTls, TlsNames},
};
pub(crate) use self::{
    listener::{Listener, Protocol},
    socket::Socket,
    tls::CertificateReloader,
};
