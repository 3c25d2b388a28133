//! The sections `[tls]`, `[http_tls]` and `[bounds]` of the settings file.

use std::{path::PathBuf, time::Duration};

use clap::{ValueEnum, builder::PossibleValue};

use super::chosen;
use crate::{
    files::toml::{Entry, Section},
    net::{ClientCertificates, Limits, ListenerTls, TlsNames},
};

impl ValueEnum for ClientCertificates {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Required, Self::Optional]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Required => "required".into(),
            Self::Optional => "optional".into(),
        })
    }
}

/// The keys of `[tls]` and `[http_tls]`.
pub(super) const TLS_KEYS: &[&str] = &[
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_certificates",
];

/// The keys of `[bounds]`.
pub(super) const BOUNDS_KEYS: &[&str] = &[
    "message_bytes",
    "header_list_bytes",
    "streams_per_connection",
    "cancelled_per_second",
    "connections",
    "handshake_time",
    "idle_time",
    "connection_age",
    "waiting_decisions",
];

/// A section of TLS, where there is one.
pub(super) fn tls(root: &Section<'_>, names: &'static TlsNames) -> Option<ListenerTls> {
    let section = root.section(names.section)?;
    section.only(TLS_KEYS);
    let path = |entry: Entry<'_>| entry.trimmed_text().map(PathBuf::from);
    let client_ca_file = section.get("client_ca_file").and_then(path);
    let client_certificates = section.get("client_certificates").and_then(|entry| {
        if section.get("client_ca_file").is_none() {
            entry.fault("needs client_ca_file beside it: whose certificates?");
        }
        chosen(entry.trimmed_text()?)
            .map_err(|fault| entry.fault(fault))
            .ok()
    });
    let (cert_file, key_file) = (section.require("cert_file"), section.require("key_file"));
    Some(ListenerTls {
        names,
        cert_file: cert_file.and_then(path)?,
        key_file: key_file.and_then(path)?,
        client_ca_file,
        client_certificates: client_certificates.unwrap_or(ClientCertificates::Required),
    })
}

/// What callers may take; what is not said is as by default.
pub(super) fn limits(section: &Section<'_>) -> Limits {
    section.only(BOUNDS_KEYS);
    let default = Limits::default();
    let number = |key, default: usize, least, most| {
        let given = section.get(key).and_then(|entry| entry.number(least, most));
        let given = given.and_then(|number| usize::try_from(number).ok());
        given.unwrap_or(default)
    };
    let short = |key, default: u32, least, most| {
        let given = section.get(key).and_then(|entry| entry.number(least, most));
        let given = given.and_then(|number| u32::try_from(number).ok());
        given.unwrap_or(default)
    };
    let time = |key, default, most| {
        let given = section.get(key).and_then(|entry| time(&entry, most));
        given.unwrap_or(default)
    };
    Limits {
        // The largest legal message is under 2 KiB.
        message_bytes: number("message_bytes", default.message_bytes, 2 * KIB, MIB),
        header_list_bytes: short("header_list_bytes", default.header_list_bytes, KIB, MIB),
        streams_per_connection: short(
            "streams_per_connection",
            default.streams_per_connection,
            1,
            100_000,
        ),
        cancelled_per_second: short(
            "cancelled_per_second",
            default.cancelled_per_second,
            10,
            1_000_000,
        ),
        connections: number("connections", default.connections, 16, 1_000_000),
        handshake_time: time("handshake_time", default.handshake_time, 60 * SECOND),
        idle_time: time("idle_time", default.idle_time, 7 * DAY),
        connection_age: time("connection_age", default.connection_age, 7 * DAY),
    }
}

/// How many decisions may wait for the store: two of the largest batches at least.
pub(super) fn waiting_decisions(section: &Section<'_>) -> Option<usize> {
    let given = section.get("waiting_decisions")?.number(KIB, MIB)?;
    usize::try_from(given).ok()
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn time(entry: &Entry<'_>, most: Duration) -> Option<Duration> {
    let time = entry.duration()?;
    if time < SECOND || time > most {
        let most = humantime::format_duration(most);
        entry.fault(format!("must be 1s to {most}"));
        return None;
    }
    Some(time)
}
