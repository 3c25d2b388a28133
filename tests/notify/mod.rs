//! Notifications: what is posted, how failures of the receiver and of the ledger are borne, and the settings.

mod deliveries;
mod receiver;
mod service;
mod settings;
mod webhook;

use tollgate::{
    domain::{OrgId, PoolName, Threshold, Tokens, UtcDay},
    ledger::Notice,
};

/// The notice that an organization has reached a threshold of `large`.
fn notice_of(org: &str, threshold: u8) -> Notice {
    Notice {
        org: OrgId::parse(org).unwrap(),
        pool: PoolName::parse("large").unwrap(),
        day: UtcDay::parse("2026-11-30").unwrap(),
        threshold: Threshold::new(threshold).unwrap(),
        used: Tokens::new(951_000).unwrap(),
        external: Tokens::new(2_000).unwrap(),
        allowance: Tokens::new(1_000_000).unwrap(),
        noticed_at: "2026-11-30T14:03:07.5Z".parse().unwrap(),
    }
}
