//! The section `[reconcile]` (docs/CONTRACT.md, "Background reconcile").

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use http::Uri;

use super::file::{choice, time};
use crate::{
    domain::{OrgId, ProjectId},
    files::toml::{Entry, Section, distinct},
    reconcile::{
        Raise, ReconcileSettings, ReconciledOrg, api,
        comparison::{CLOSED_AFTER, FREE_TIER},
        overflow::SETTLED_AFTER,
    },
};

const HOUR: Duration = Duration::from_secs(60 * 60);

const EVERY: Duration = Duration::from_secs(5 * 60);
const MAX_EVERY: Duration = HOUR;
const MAX_SETTLE_LAG: Duration = Duration::from_secs(6 * 60 * 60);

/// The shortest and the longest `close_after`.
const CLOSE_AFTER: (Duration, Duration) = (
    Duration::from_secs(6 * 60 * 60),
    Duration::from_secs(7 * 24 * 60 * 60),
);

/// Reads the section, if there is one. `usage_retention_days` is how many days of usage are kept.
pub(super) fn settings(root: &Section<'_>, usage_retention_days: u32) -> Option<ReconcileSettings> {
    let section = root.get("reconcile", Entry::section)?;
    let orgs = section.section("orgs");
    let settings = ReconcileSettings {
        every: section.get_or("every", EVERY, |it| time(it, MAX_EVERY)),
        settle_lag: section.get_or(
            "settle_lag",
            SETTLED_AFTER.to_std().unwrap_or_default(),
            |it| time(it, MAX_SETTLE_LAG),
        ),
        close_after: section.get_or("close_after", CLOSED_AFTER, close_after),
        raise: section.get_or("raise", Raise::Off, choice),
        free_tiers: section.get_or("free_tiers", vec![FREE_TIER.to_owned()], tiers),
        api_base: section.get_or("api_base", Uri::from_static(api::DEFAULT_BASE), api_base),
        orgs: orgs
            .entries()
            .filter_map(|(name, entry)| org(name, &entry))
            .collect(),
    };
    if orgs.entries().next().is_none() {
        section.fault("names no organization: add [reconcile.orgs.ORG], or remove the section");
    }
    if settings.every > settings.settle_lag {
        let lag = humantime::format_duration(settings.settle_lag);
        let fault = format!(
            "every must not be longer than settle_lag ({lag}): a poll shows what the ledger had then"
        );
        section.fault(&fault);
    }
    let days = compared_days(settings.close_after);
    if days > u64::from(usage_retention_days) {
        let fault =
            format!("needs usage_retention = \"{days}days\" at least, for these days are compared");
        section.fault(&fault);
    }
    section.finish();
    Some(settings)
}

/// The service tiers that are free. Without one, nothing would be.
fn tiers(entry: &Entry<'_>) -> Option<Vec<String>> {
    let tiers = entry.texts()?;
    if tiers.is_empty() {
        entry.fault("must name a service tier");
    }
    Some(distinct(tiers, non_empty))
}

fn non_empty(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("must not be empty"),
        text => Ok(text.to_owned()),
    }
}

fn close_after(entry: &Entry<'_>) -> Option<TimeDelta> {
    let (min, max) = CLOSE_AFTER;
    let time = entry.duration()?;
    let is_allowed = (min..=max).contains(&time);
    let time = entry.check(is_allowed.then_some(time).ok_or("must be 6h to 7days"));
    TimeDelta::from_std(time?).ok()
}

/// How many days before today are compared at the most: those that are open, and the one that was closed last.
fn compared_days(close_after: TimeDelta) -> u64 {
    let seconds = close_after.num_seconds().unsigned_abs();
    seconds.div_ceil(24 * 60 * 60) + 1
}

fn api_base(entry: &Entry<'_>) -> Option<Uri> {
    let base: Uri = entry.value()?;
    entry.check(api::check_base(&base))?;
    Some(base)
}

fn org(name: &str, entry: &Entry<'_>) -> Option<(OrgId, ReconciledOrg)> {
    let org = entry.check(OrgId::parse(name));
    let section = entry.section()?;
    let admin_key_file = section.require("admin_key_file", Entry::value);
    let mut projects = BTreeMap::new();
    for (name, entry) in section.section("projects").entries() {
        entry.check(ProjectId::parse(name));
        let Some(id) = entry.parse(non_empty) else {
            continue;
        };
        if projects.insert(id, name.to_owned()).is_some() {
            entry.fault("is the id of another project, too");
        }
    }
    section.finish();
    let admin_key_file = admin_key_file?;
    Some((
        org?,
        ReconciledOrg {
            admin_key_file,
            projects,
        },
    ))
}
