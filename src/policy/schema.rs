//! The policy file's schema.

mod models;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use indexmap::IndexMap;

use self::models::ModelReader;
use super::{
    BuiltinProgram, DataSharing, KeyPosition, Lints, Organization, OrganizationOptions, Policy,
    Program,
    margins::{Margins, margin},
    shares::{shares, with_shares},
    thresholds::notify_at,
};
use crate::{
    domain::{
        Grant, OrgId, Overflow, PoolName, ProjectId, Terms, Thresholds, Tokens, UtcDay, Workload,
    },
    files::toml::{self, Entry, Faults, Section, distinct},
};

const HIGHEST_TIER: u8 = 5;

const DEFAULT_MIDNIGHT_GUARD: Duration = Duration::from_secs(10 * 60);

const MAX_MIDNIGHT_GUARD: Duration = Duration::from_secs(12 * 60 * 60);

impl Policy {
    /// Parses a policy file, which is accepted or refused as a whole. `file` is its name in faults.
    ///
    /// # Errors
    ///
    /// Every fault in it, with line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        Self::from_bytes(file, text.as_bytes())
    }

    /// As [`parse`](Self::parse). Bytes that are not UTF-8 are a fault.
    ///
    /// # Errors
    ///
    /// Every fault in it.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self, Faults> {
        toml::read_split(file, bytes, "orgs", policy)
    }
}

/// Reads the whole file. Returns `None` only after reporting a fault.
fn policy(root: &Section<'_>) -> Option<Policy> {
    let mut lints = Lints::default();
    let section = root.section("program");
    let base = base(&section);
    let program = program(&section, base.as_ref(), &mut lints);
    let own_margin = margin(&section);
    let read = ModelReader::read(root, &section, base.as_ref(), &mut lints);
    section.finish();
    let overflow = program.overflow;
    let mut tiers = tiers(root, &read, overflow, base.as_ref());
    let orgs = orgs(root, &tiers, &read.pools);
    root.finish();
    let ModelReader {
        pools,
        models,
        margins,
        ..
    } = read;
    let margins = Margins {
        program: own_margin,
        pools: margins,
    };
    let guard = TimeDelta::from_std(program.midnight_guard).unwrap_or_default();
    for terms in tiers.values_mut() {
        let terms = Arc::make_mut(terms);
        (terms.midnight_guard, terms.thresholds) = (guard, Thresholds::USUAL);
    }
    let own = orgs.values().filter_map(|org| Some((org.tier, org.own()?)));
    let own_terms = margins.apply_to(&mut tiers, own);
    let nothing = pools.iter().map(|pool| (pool.clone(), Tokens::ZERO));
    let no_terms = terms(overflow, nothing);
    let with_shares = orgs
        .iter()
        .filter(|(_, org)| !org.options().shares.is_empty())
        .map(|(id, org)| {
            let own = org.own().and_then(|own| own_terms.get(&(org.tier, own)));
            (
                id.clone(),
                with_shares(own.unwrap_or(&tiers[&org.tier]), &org.options().shares),
            )
        });
    let shared_terms = with_shares.collect();
    let own_thresholds = orgs.values().filter_map(|org| org.options().thresholds);
    let thresholds = own_thresholds.fold(Thresholds::USUAL, Thresholds::union);
    Some(Policy {
        program,
        pools,
        models,
        tiers,
        margins,
        own_terms,
        shared_terms,
        no_terms,
        thresholds,
        orgs,
        lints,
    })
}

/// The built-in programme that the file extends.
fn base(section: &Section<'_>) -> Option<Policy> {
    let extends = section.entry("extends")?;
    let named = extends.text().map(BuiltinProgram::named);
    let named = named.and_then(|it| extends.check(it));
    // Otherwise all that the file doesn't say would be faults, too.
    let extended = named.unwrap_or_else(BuiltinProgram::newest);
    let mut base = extended.policy();
    base.program.extends = Some(extended.name);
    Some(base)
}

fn terms(overflow: Overflow, allowances: impl Iterator<Item = (PoolName, Tokens)>) -> Arc<Terms> {
    let grant = |(pool, allowance)| {
        let margin = Tokens::ZERO;
        (pool, Grant { allowance, margin })
    };
    let pools = allowances.map(grant).collect();
    Arc::new(Terms {
        overflow,
        pools,
        ..Terms::default()
    })
}

fn program(section: &Section<'_>, base: Option<&Policy>, lints: &mut Lints) -> Program {
    let mut program = match base {
        Some(base) => base.program.clone(),
        None => Program {
            name: "unnamed".to_owned(),
            extends: None,
            overflow: Overflow::default(),
            covered_workloads: vec![Workload::Inference],
            ends_on: None,
            as_of: None,
            source: None,
            midnight_guard: DEFAULT_MIDNIGHT_GUARD,
        },
    };
    if let Some(name) = section.get("name", Entry::text) {
        name.clone_into(&mut program.name);
    }
    let overflow = section.get("overflow", |entry| {
        entry.check(match entry.text()? {
            "keep_open" => Ok(Overflow::KeepOpen),
            "close_until_reset" => Ok(Overflow::CloseUntilReset),
            other => Err(format!(
                "{other:?} is neither \"keep_open\" nor \"close_until_reset\""
            )),
        })
    });
    program.overflow = overflow.unwrap_or(program.overflow);
    if let Some(covered) = section.get("covered_workloads", |list| {
        Some(distinct(list.texts()?, workload))
    }) {
        program.covered_workloads = covered;
    }
    let ends_on = day(section, "ends_on", "program.ends_on", &mut lints.ends_on);
    program.ends_on = ends_on.or(program.ends_on);
    let as_of = day(section, "as_of", "program.as_of", &mut lints.as_of);
    program.as_of = as_of.or(program.as_of);
    if let Some(source) = section.get("source", Entry::text) {
        program.source = Some(source.to_owned());
    }
    if let Some(guard) = section.get("midnight_guard", midnight_guard) {
        program.midnight_guard = guard;
    }
    program
}

fn midnight_guard(entry: &Entry<'_>) -> Option<Duration> {
    let guard = entry.duration()?;
    let is_allowed = guard <= MAX_MIDNIGHT_GUARD && guard.subsec_nanos() == 0;
    let fault = || {
        let max = humantime::format_duration(MAX_MIDNIGHT_GUARD);
        format!("is not whole seconds up to {max}")
    };
    entry.check(is_allowed.then_some(guard).ok_or_else(fault))
}

/// The day of a key, and where it is from: the key, or `extends`.
fn day(
    section: &Section<'_>,
    name: &'static str,
    key: &'static str,
    position: &mut KeyPosition,
) -> Option<UtcDay> {
    if let Some(extends) = section.entry("extends") {
        *position = KeyPosition {
            line: extends.line(),
            key: "program.extends",
        };
    }
    let entry = section.entry(name)?;
    let line = entry.line();
    *position = KeyPosition { line, key };
    let text = entry.day_text()?;
    let day = UtcDay::parse(&text);
    entry.check(day.map_err(|_| format!("{text:?} is not a day such as \"2027-01-31\"")))
}

fn workload(name: &str) -> Result<Workload, String> {
    let mut workloads = Workload::ALL.into_iter();
    let workload = workloads.find(|workload| workload.name() == name);
    workload.ok_or_else(|| {
        let known = Workload::ALL.map(Workload::name).join("\", \"");
        format!("{name:?} is no workload; there are \"{known}\"")
    })
}

fn tiers(
    root: &Section<'_>,
    read: &ModelReader<'_>,
    overflow: Overflow,
    base: Option<&Policy>,
) -> BTreeMap<u8, Arc<Terms>> {
    let of_base = base.iter().flat_map(|base| &base.tiers);
    let of_base = of_base.map(|(tier, of_tier)| {
        let grants = of_tier.pools.iter();
        let allowances = grants.map(|(pool, grant)| (pool.clone(), grant.allowance));
        (*tier, terms(overflow, allowances))
    });
    let mut tiers: BTreeMap<u8, Arc<Terms>> = of_base.collect();
    let section = match base {
        Some(_) => root.get("tiers", Entry::section),
        None => root.require("tiers", Entry::section),
    };
    let mut kept: Vec<u8> = tiers.keys().copied().collect();
    if let Some(section) = section {
        let own = own_tiers(&section, &read.pools, overflow);
        kept.retain(|tier| !own.contains_key(tier));
        tiers.extend(own);
        if tiers.is_empty() {
            section.fault("holds no tier");
        }
    }
    let kept: Vec<String> = kept.iter().map(u8::to_string).collect();
    if !kept.is_empty() {
        let kept = kept.join(", ");
        for (_, entry) in &read.new_pools {
            entry.fault(format!(
                "has no allowance in the built-in programme's tiers {kept}: name them, each with every pool's allowance"
            ));
        }
    }
    tiers
}

/// The tiers that the file names, each with every pool's allowance.
fn own_tiers(
    section: &Section<'_>,
    pools: &[PoolName],
    overflow: Overflow,
) -> BTreeMap<u8, Arc<Terms>> {
    let mut tiers = BTreeMap::new();
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    for (name, entry) in section.entries() {
        let Some(tier) = (1..=HIGHEST_TIER).find(|tier| tier.to_string() == name) else {
            entry.fault("is no usage tier; there are 1 to 5");
            continue;
        };
        let Some(section) = entry.section() else {
            continue;
        };
        // If there are no pools, that is the fault, not each allowance.
        if !names.is_empty() {
            section.only(&names);
        }
        let allowances = pools.iter().map(|pool| {
            let entry = section.require_named(pool.as_str());
            let number = entry.and_then(|entry| entry.number(0, Tokens::MAX.get()));
            let tokens = number.and_then(Tokens::new).unwrap_or_default();
            (pool.clone(), tokens)
        });
        tiers.insert(tier, terms(overflow, allowances));
    }
    tiers
}

fn orgs(
    root: &Section<'_>,
    tiers: &BTreeMap<u8, Arc<Terms>>,
    pools: &[PoolName],
) -> IndexMap<OrgId, Organization> {
    let mut orgs = IndexMap::with_capacity(root.max_tables());
    root.for_each_table("orgs", |name, entry| {
        let id = entry.check(OrgId::parse(name));
        let section = entry.section();
        let org = section.and_then(|section| organization(&section, tiers, pools));
        orgs.extend(id.zip(org));
    });
    orgs.sort_unstable_keys();
    orgs.shrink_to_fit();
    orgs
}

fn organization(
    section: &Section<'_>,
    tiers: &BTreeMap<u8, Arc<Terms>>,
    pools: &[PoolName],
) -> Option<Organization> {
    let tier = section.require("tier", |entry| {
        let tier: u8 = entry.number(1, u64::from(HIGHEST_TIER))?;
        let missing = || format!("is {tier}, and there is no [tiers.{tier}]");
        entry.check(tiers.get(&tier).map(|_| tier).ok_or_else(missing))
    });
    let data_sharing = data_sharing(section);
    let zero_data_retention = section.get("zero_data_retention", Entry::flag);
    let enterprise = section.get("enterprise", Entry::flag);
    let margin = margin(section);
    let selected = match &data_sharing {
        Some(DataSharing::Selected(projects)) => Some(&**projects),
        _ => None,
    };
    let thresholds = notify_at(section);
    let shares = shares(section, pools, selected);
    section.finish();
    let options = OrganizationOptions {
        margin,
        thresholds,
        shares,
    };
    Some(Organization {
        tier: tier?,
        data_sharing: data_sharing?,
        zero_data_retention: zero_data_retention.unwrap_or(false),
        enterprise: enterprise.unwrap_or(false),
        options: (options != *OrganizationOptions::NONE).then(|| Box::new(options)),
    })
}

fn data_sharing(section: &Section<'_>) -> Option<DataSharing> {
    let projects = section.entry("projects");
    section.require("data_sharing", |entry| {
        let sharing = entry.text()?;
        if let Some(projects) = &projects
            && sharing != "selected"
        {
            projects.fault(format!(
                "stands only with data_sharing = \"selected\", and it is {sharing:?}"
            ));
        }
        match (sharing, &projects) {
            ("all", _) => Some(DataSharing::All),
            ("off", _) => Some(DataSharing::Off),
            ("selected", Some(projects)) => {
                let mut projects = distinct(projects.texts()?, ProjectId::parse);
                projects.sort_unstable();
                Some(DataSharing::Selected(projects.into()))
            }
            ("selected", None) => entry.check(Err("is \"selected\", and projects is missing")),
            _ => entry.check(Err(format!(
                "{sharing:?} is neither \"all\", \"selected\" nor \"off\""
            ))),
        }
    })
}

#[cfg(test)]
mod tests;
