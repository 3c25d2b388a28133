//! The settings file: the sections `[tls]`, `[http_tls]` and `[bounds]`, and how values are read.

use std::{path::PathBuf, time::Duration};

use super::choice;
use crate::{
    files::toml::{Entry, Section},
    net::{Bounds, ClientCertificates, ListenerTls, TlsNames},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A section of TLS, if there is one.
pub(super) fn tls(root: &Section<'_>, names: &'static TlsNames) -> Option<ListenerTls> {
    let section = root.get(names.section, Entry::section)?;
    let client_ca_file = section.entry("client_ca_file");
    let client_certificates = section.get("client_certificates", |entry| {
        if client_ca_file.is_none() {
            entry.fault("needs client_ca_file beside it: whose certificates?");
        }
        entry.parse(choice)
    });
    let client_ca_file = client_ca_file.and_then(|entry| path(&entry));
    let cert_file = section.require("cert_file", path);
    let key_file = section.require("key_file", path);
    section.finish();
    Some(ListenerTls {
        names,
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificates: client_certificates.unwrap_or(ClientCertificates::Required),
    })
}

/// What callers may take. What is left out has its default.
pub(super) fn bounds(section: &Section<'_>) -> Bounds {
    fn number<T: TryFrom<u64>>(
        section: &Section<'_>,
        key: &'static str,
        default: T,
        (min, max): (u64, u64),
    ) -> T {
        let given = section.get(key, |entry| entry.number(min, max));
        given.unwrap_or(default)
    }
    let time = |key, default, max| {
        let given = section.get(key, |entry| time(entry, max));
        given.unwrap_or(default)
    };
    let default = Bounds::default();
    let bounds = Bounds {
        // The largest legal message is under 2 KiB.
        message_bytes: number(
            section,
            "message_bytes",
            default.message_bytes,
            (2 * KIB, MIB),
        ),
        header_list_bytes: number(
            section,
            "header_list_bytes",
            default.header_list_bytes,
            (KIB, MIB),
        ),
        streams_per_connection: number(
            section,
            "streams_per_connection",
            default.streams_per_connection,
            (1, 100_000),
        ),
        cancelled_per_second: number(
            section,
            "cancelled_per_second",
            default.cancelled_per_second,
            (10, 1_000_000),
        ),
        connections: number(section, "connections", default.connections, (16, 1_000_000)),
        handshake_time: time("handshake_time", default.handshake_time, 60 * SECOND),
        idle_time: time("idle_time", default.idle_time, 7 * DAY),
        connection_age: time("connection_age", default.connection_age, 7 * DAY),
        // Two of the largest batches at least.
        waiting_decisions: number(
            section,
            "waiting_decisions",
            default.waiting_decisions,
            (KIB, MIB),
        ),
    };
    section.finish();
    bounds
}

pub(super) fn text(entry: &Entry<'_>) -> Option<String> {
    entry.trimmed().map(str::to_owned)
}

pub(super) fn path(entry: &Entry<'_>) -> Option<PathBuf> {
    entry.trimmed().map(PathBuf::from)
}

pub(super) fn timeout(entry: &Entry<'_>) -> Option<Duration> {
    let timeout = entry.duration()?;
    if timeout.is_zero() || timeout > 60 * SECOND {
        entry.fault("must be more than 0 and at most 60s");
        return None;
    }
    Some(timeout)
}

fn time(entry: &Entry<'_>, max: Duration) -> Option<Duration> {
    let time = entry.duration()?;
    if time < SECOND || time > max {
        let max = humantime::format_duration(max);
        entry.fault(format!("must be 1s to {max}"));
        return None;
    }
    Some(time)
}

/// In days. At least one: a reservation can be settled until the end of the day after its own.
pub(super) fn retention(entry: &Entry<'_>) -> Option<u32> {
    let retention = entry.duration()?;
    let days = u32::try_from(retention.as_secs() / DAY.as_secs()).ok();
    let whole = days.filter(|days| DAY.saturating_mul(*days) == retention);
    let whole = whole.filter(|days| (1..=3660).contains(days));
    if whole.is_none() {
        entry.fault("must be whole days, 1day to 3660days");
    }
    whole
}
