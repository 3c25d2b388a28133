//! Ports: sockets, connections and their limits, TLS. Knows no settings and no gRPC.

mod connection;
mod connection_state;
mod limiter;
mod limits;
mod lingering_close;
mod listener;
mod reset_counter;
mod reset_guard;
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
