//! Real processes and settable clocks for the tests.

pub mod calls;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod compared;
pub mod costs_api;
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
pub mod terminal;
pub mod tollgate;
pub mod tools;
pub mod usage_api;
pub mod world;

use std::{
    net::TcpListener,
    ops::Range,
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

/// The seeds of a random test, and whether one of them is replayed. `TOLLGATE_SIMULATIONS` sets their number, otherwise
/// `TOLLGATE_LONG` takes the long one. `TOLLGATE_SEED` is the first; without a number it is the only one.
pub fn seeds(short: u64, long: u64) -> (Range<u64>, bool) {
    let (seed, number) = (variable("TOLLGATE_SEED"), variable("TOLLGATE_SIMULATIONS"));
    let is_replay = seed.is_some() && number.is_none();
    let number = number.unwrap_or(match is_long() {
        _ if is_replay => 1,
        true => long,
        false => short,
    });
    let first = seed.unwrap_or(0);
    (first..first + number, is_replay)
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}
