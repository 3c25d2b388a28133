//! Ports: sockets, connections and their limits, TLS. Depends on neither the settings nor gRPC.

mod calls;
mod connection;
mod driver;
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
    tls::{ClientCertificates, ListenerTls},
};
pub(crate) use self::{
    listener::{ConnectionServer, Listener, PortService},
    socket::Socket,
    tls::WatchedCertificates,
};
