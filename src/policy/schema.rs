//! The policy file's schema.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;

use super::{
    DataSharing, Lints, Organization, Policy, Program,
    margins::{Margins, margin},
    warnings::lint_model_name,
};
use crate::{
    domain::{
        Grant, ModelCapacity, ModelName, OrgId, Overflow, PoolName, ProjectId, Terms, Tokens,
        UtcDay, Workload,
    },
    files::toml::{self, Entry, Faults, Section, distinct},
};

const HIGHEST_TIER: u8 = 5;

const DEFAULT_MIDNIGHT_GUARD: Duration = Duration::from_secs(10 * 60);

const MAX_MIDNIGHT_GUARD: Duration = Duration::from_secs(12 * 60 * 60);

/// The size of the largest policy file, with some 250,000 organizations. Parsing takes 40 times as much memory.
pub const MAX_BYTES: u64 = 16 << 20;

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
        toml::read(file, bytes, policy)
    }
}

/// Reads the whole file. Returns `None` only after reporting a fault.
fn policy(root: &Section<'_>) -> Option<Policy> {
    let mut lints = Lints::default();
    let mut margins = Margins::default();
    let program = program(root, &mut margins, &mut lints);
    let (pools, models) = pools(root, &mut margins, &mut lints);
    let capacities = capacities(root, &mut lints);
    let overflow = program.overflow;
    let mut tiers = tiers(root, &pools, overflow);
    let orgs = orgs(root, &tiers);
    root.finish();
    let guard = TimeDelta::from_std(program.midnight_guard).unwrap_or_default();
    for terms in tiers.values_mut() {
        Arc::make_mut(terms).midnight_guard = guard;
    }
    let own = orgs
        .values()
        .filter_map(|org| Some((org.tier, org.margin?)));
    let own_terms = margins.apply_to(&mut tiers, own);
    let nothing = pools.iter().map(|pool| (pool.clone(), Tokens::ZERO));
    let no_terms = terms(overflow, nothing);
    Some(Policy {
        program,
        pools,
        models,
        capacities,
        tiers,
        margins,
        own_terms,
        no_terms,
        orgs,
        lints,
    })
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

fn program(root: &Section<'_>, margins: &mut Margins, lints: &mut Lints) -> Program {
    let mut program = Program {
        name: "unnamed".to_owned(),
        overflow: Overflow::default(),
        covered_workloads: vec![Workload::Inference],
        ends_on: None,
        as_of: None,
        midnight_guard: DEFAULT_MIDNIGHT_GUARD,
    };
    let Some(section) = root.get("program", Entry::section) else {
        return program;
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
    program.overflow = overflow.unwrap_or_default();
    if let Some(covered) = section.get("covered_workloads", |list| {
        Some(distinct(list.texts()?, workload))
    }) {
        program.covered_workloads = covered;
    }
    program.ends_on = section.get("ends_on", |entry| day(entry, &mut lints.ends_on_line));
    program.as_of = section.get("as_of", |entry| day(entry, &mut lints.as_of_line));
    margins.program = margin(&section);
    if let Some(guard) = section.get("midnight_guard", midnight_guard) {
        program.midnight_guard = guard;
    }
    section.finish();
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

fn day(entry: &Entry<'_>, line: &mut usize) -> Option<UtcDay> {
    *line = entry.line();
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

type Pools = (Vec<PoolName>, HashMap<ModelName, PoolName>);

fn pools(root: &Section<'_>, margins: &mut Margins, lints: &mut Lints) -> Pools {
    let mut pools = Vec::new();
    let mut models = HashMap::new();
    let Some(section) = root.require("pools", Entry::section) else {
        return (pools, models);
    };
    let mut first_lines: HashMap<&str, (PoolName, usize)> = HashMap::new();
    for (name, entry) in section.entries() {
        let Some(pool) = entry.check(PoolName::parse(name)) else {
            continue;
        };
        pools.push(pool.clone());
        let Some(section) = entry.section() else {
            continue;
        };
        let listed = section.require("models", Entry::texts);
        let margin = margin(&section).map(|margin| (pool.clone(), margin));
        margins.pools.extend(margin);
        section.finish();
        for (name, entry) in listed.unwrap_or_default() {
            let Some(model) = entry.check(ModelName::parse(name)) else {
                continue;
            };
            if model.is_fine_tuned() {
                entry.fault(format!(
                    "{name:?} is a fine-tuned model, and those are never covered"
                ));
            } else if let Some((other, line)) = first_lines.get(name) {
                entry.fault(format!(
                    "{name:?} is in pool {:?} already (line {line})",
                    other.as_str()
                ));
            } else {
                first_lines.insert(name, (pool.clone(), entry.line()));
                lints.models.extend(lint_model_name(name, &entry));
                models.insert(model, pool.clone());
            }
        }
    }
    if pools.is_empty() {
        section.fault("holds no pool");
    }
    pools.sort();
    (pools, models)
}

/// The capacities of models. A key that is left out has the value of a model about which nothing is known.
fn capacities(root: &Section<'_>, lints: &mut Lints) -> HashMap<ModelName, ModelCapacity> {
    let Some(section) = root.get("models", Entry::section) else {
        return HashMap::new();
    };
    let capacities = section.entries().filter_map(|(name, entry)| {
        let model = entry.check(ModelName::parse(name));
        lints.models.extend(lint_model_name(name, &entry));
        let section = entry.section()?;
        let tokens =
            |key, default| section.get_or(key, default, |it| it.number(1, ModelCapacity::MAX));
        let default = ModelCapacity::default();
        let capacity = ModelCapacity {
            context: tokens("context", default.context),
            max_output: tokens("max_output", default.max_output),
            image: tokens("image", default.image),
        };
        section.finish();
        Some((model?, capacity))
    });
    capacities.collect()
}

fn tiers(root: &Section<'_>, pools: &[PoolName], overflow: Overflow) -> BTreeMap<u8, Arc<Terms>> {
    let mut tiers = BTreeMap::new();
    let Some(section) = root.require("tiers", Entry::section) else {
        return tiers;
    };
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
    if tiers.is_empty() {
        section.fault("holds no tier");
    }
    tiers
}

fn orgs(root: &Section<'_>, tiers: &BTreeMap<u8, Arc<Terms>>) -> HashMap<OrgId, Organization> {
    let Some(section) = root.get("orgs", Entry::section) else {
        return HashMap::new();
    };
    let orgs = section.entries().filter_map(|(name, entry)| {
        let id = entry.check(OrgId::parse(name));
        let org = organization(&entry.section()?, tiers)?;
        Some((id?, org))
    });
    orgs.collect()
}

fn organization(section: &Section<'_>, tiers: &BTreeMap<u8, Arc<Terms>>) -> Option<Organization> {
    let tier = section.require("tier", |entry| {
        let tier: u8 = entry.number(1, u64::from(HIGHEST_TIER))?;
        let missing = || format!("is {tier}, and there is no [tiers.{tier}]");
        entry.check(tiers.get(&tier).map(|_| tier).ok_or_else(missing))
    });
    let data_sharing = data_sharing(section);
    let zero_data_retention = section.get("zero_data_retention", Entry::flag);
    let enterprise = section.get("enterprise", Entry::flag);
    let margin = margin(section);
    section.finish();
    Some(Organization {
        tier: tier?,
        data_sharing: data_sharing?,
        zero_data_retention: zero_data_retention.unwrap_or(false),
        enterprise: enterprise.unwrap_or(false),
        margin,
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
                let projects = distinct(projects.texts()?, ProjectId::parse);
                Some(DataSharing::Selected(projects.into_iter().collect()))
            }
            ("selected", None) => entry.check(Err("is \"selected\", and projects is missing")),
            _ => entry.check(Err(format!(
                "{sharing:?} is neither \"all\", \"selected\" nor \"off\""
            ))),
        }
    })
}
