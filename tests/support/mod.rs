//! Real processes and settable clocks for the tests.

pub mod calls;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod envoy;
pub mod floods;
pub mod held_store;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod sentinels;
pub mod shim;
pub mod streams;
pub mod tollgate;
pub mod tools;
pub mod usage_api;
pub mod world;

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// A free port that is given out only once in this process. It is below the range of outgoing connections: a flood's
/// connection could take it before its server does.
pub fn free_port() -> u16 {
    static NEXT_PORT: AtomicU32 = AtomicU32::new(0);
    // Another run of the tests starts elsewhere.
    let first = std::process::id().wrapping_mul(7_919);
    loop {
        let next = first.wrapping_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + next % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether to run the long form of the tests: more rounds, longer faults.
pub fn is_long() -> bool {
    std::env::var_os("TOLLGATE_LONG").is_some_and(|it| !it.is_empty())
}
