//! Real processes and settable clocks for the tests.

pub mod calls;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod dice;
pub mod floods;
pub mod held_store;
pub mod proxy;
pub mod redis;
pub mod sentinels;
pub mod streams;
pub mod tollgate;
pub mod tools;
pub mod world;

use std::net::TcpListener;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Whether the long form of the tests is wanted: more rounds, and faults that take longer.
pub fn is_long() -> bool {
    std::env::var_os("TOLLGATE_LONG").is_some_and(|it| !it.is_empty())
}
