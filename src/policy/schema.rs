//! The policy file's schema, walked by hand so that every fault is reported at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    DataSharing, Organization, Policy, Program,
    warnings::{Lints, lint_model_name},
};
use crate::{
    domain::{ModelName, OrgId, Overflow, PoolName, ProjectId, Terms, Tokens, UtcDay, Workload},
    files::toml::{Entry, Section},
};

const HIGHEST_TIER: u8 = 5;

/// The whole file. `None` only where a fault was reported.
pub(super) fn policy(root: &Section<'_>) -> Option<Policy> {
    root.only(&["program", "pools", "tiers", "orgs"]);
    let mut lints = Lints::default();
    let program = program(root, &mut lints);
    let (pools, models) = pools(root, &mut lints);
    let overflow = program.overflow;
    let tiers = tiers(root, &pools, overflow);
    let orgs = orgs(root, &tiers);
    let allowances = pools
        .iter()
        .map(|pool| (pool.clone(), Tokens::ZERO))
        .collect();
    let nothing = Arc::new(Terms {
        overflow,
        allowances,
    });
    Some(Policy {
        program,
        pools,
        models,
        tiers,
        nothing,
        orgs,
        lints,
    })
}

fn program(root: &Section<'_>, lints: &mut Lints) -> Program {
    let mut program = Program {
        name: "unnamed".to_owned(),
        overflow: Overflow::default(),
        covered_workloads: vec![Workload::Inference],
        ends_on: None,
        as_of: None,
    };
    let Some(section) = root.section("program") else {
        return program;
    };
    section.only(&["name", "overflow", "covered_workloads", "ends_on", "as_of"]);
    if let Some(name) = section.get("name").and_then(|entry| entry.text()) {
        name.clone_into(&mut program.name);
    }
    if let Some(entry) = section.get("overflow")
        && let Some(text) = entry.text()
    {
        match text {
            "keep_open" => program.overflow = Overflow::KeepOpen,
            "close_until_reset" => program.overflow = Overflow::CloseUntilReset,
            _ => entry.fault(format!(
                "{text:?} is neither \"keep_open\" nor \"close_until_reset\""
            )),
        }
    }
    if let Some(listed) = section
        .get("covered_workloads")
        .and_then(|entry| entry.texts())
    {
        program.covered_workloads = workloads(&listed);
    }
    if let Some(entry) = section.get("ends_on") {
        lints.ends_on_line = entry.line();
        program.ends_on = day(&entry);
    }
    if let Some(entry) = section.get("as_of") {
        lints.as_of_line = entry.line();
        program.as_of = day(&entry);
    }
    program
}

fn day(entry: &Entry<'_>) -> Option<UtcDay> {
    let text = entry.day_text()?;
    let day = UtcDay::parse(&text).ok();
    if day.is_none() {
        entry.fault(format!("{text:?} is not a day such as \"2027-01-31\""));
    }
    day
}

fn workloads(listed: &[(&str, Entry<'_>)]) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for (name, entry) in listed {
        match Workload::ALL
            .into_iter()
            .find(|workload| workload.name() == *name)
        {
            Some(workload) if workloads.contains(&workload) => {
                entry.fault(format!("{name:?} is listed twice"));
            }
            Some(workload) => workloads.push(workload),
            None => {
                let known = Workload::ALL.map(Workload::name).join("\", \"");
                entry.fault(format!("{name:?} is no workload; there are \"{known}\""));
            }
        }
    }
    workloads
}

type Pools = (Vec<PoolName>, HashMap<ModelName, PoolName>);

fn pools(root: &Section<'_>, lints: &mut Lints) -> Pools {
    let mut pools = Vec::new();
    let mut models = HashMap::new();
    let Some(section) = root.require("pools").and_then(|entry| entry.section()) else {
        return (pools, models);
    };
    let mut first_lines: HashMap<&str, (PoolName, usize)> = HashMap::new();
    for (name, entry) in section.entries() {
        let Some(pool) = named(&entry, PoolName::parse(name)) else {
            continue;
        };
        pools.push(pool.clone());
        let Some(section) = entry.section() else {
            continue;
        };
        section.only(&["models"]);
        let Some(listed) = section.require("models").and_then(|entry| entry.texts()) else {
            continue;
        };
        for (name, entry) in listed {
            let Some(model) = named(&entry, ModelName::parse(name)) else {
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

fn tiers(root: &Section<'_>, pools: &[PoolName], overflow: Overflow) -> BTreeMap<u8, Arc<Terms>> {
    let mut tiers = BTreeMap::new();
    let Some(section) = root.require("tiers").and_then(|entry| entry.section()) else {
        return tiers;
    };
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    for (name, entry) in section.entries() {
        let Some(tier) = tier_number(name) else {
            entry.fault("is no usage tier; there are 1 to 5");
            continue;
        };
        let Some(section) = entry.section() else {
            continue;
        };
        // Without any pool, each allowance would only be one more fault of the same kind.
        if !names.is_empty() {
            section.only(&names);
        }
        let allowances = pools.iter().map(|pool| {
            let entry = section.require(pool.as_str());
            let number = entry.and_then(|entry| entry.number(0, Tokens::MAX.get()));
            (
                pool.clone(),
                number.and_then(Tokens::new).unwrap_or_default(),
            )
        });
        tiers.insert(
            tier,
            Arc::new(Terms {
                overflow,
                allowances: allowances.collect(),
            }),
        );
    }
    if tiers.is_empty() {
        section.fault("holds no tier");
    }
    tiers
}

fn tier_number(name: &str) -> Option<u8> {
    (1..=HIGHEST_TIER).find(|tier| tier.to_string() == name)
}

fn orgs(root: &Section<'_>, tiers: &BTreeMap<u8, Arc<Terms>>) -> HashMap<OrgId, Organization> {
    let Some(section) = root.section("orgs") else {
        return HashMap::new();
    };
    let mut orgs = HashMap::new();
    for (name, entry) in section.entries() {
        let id = named(&entry, OrgId::parse(name));
        let org = entry
            .section()
            .and_then(|section| organization(&section, tiers));
        if let (Some(id), Some(org)) = (id, org) {
            orgs.insert(id, org);
        }
    }
    orgs
}

fn organization(section: &Section<'_>, tiers: &BTreeMap<u8, Arc<Terms>>) -> Option<Organization> {
    section.only(&[
        "tier",
        "data_sharing",
        "projects",
        "zero_data_retention",
        "enterprise",
    ]);
    let tier = section.require("tier").and_then(|entry| {
        let number = entry.number(1, u64::from(HIGHEST_TIER))?;
        let tier = u8::try_from(number)
            .ok()
            .filter(|tier| tiers.contains_key(tier));
        if tier.is_none() {
            entry.fault(format!("is {number}, and there is no [tiers.{number}]"));
        }
        tier
    });
    let data_sharing = data_sharing(section);
    let flag = |key| {
        section
            .get(key)
            .is_some_and(|entry| entry.flag() == Some(true))
    };
    let (zero_data_retention, enterprise) = (flag("zero_data_retention"), flag("enterprise"));
    Some(Organization {
        tier: tier?,
        data_sharing: data_sharing?,
        zero_data_retention,
        enterprise,
    })
}

fn data_sharing(section: &Section<'_>) -> Option<DataSharing> {
    let entry = section.require("data_sharing")?;
    let sharing = entry.text()?;
    let projects = section.get("projects");
    if sharing != "selected"
        && let Some(projects) = &projects
    {
        projects.fault(format!(
            "stands only with data_sharing = \"selected\", and it is {sharing:?}"
        ));
    }
    match sharing {
        "all" => Some(DataSharing::All),
        "off" => Some(DataSharing::Off),
        "selected" => {
            let Some(projects) = projects else {
                entry.fault("is \"selected\", and projects is missing");
                return None;
            };
            Some(DataSharing::Selected(selected(&projects)?))
        }
        _ => {
            entry.fault(format!(
                "{sharing:?} is neither \"all\", \"selected\" nor \"off\""
            ));
            None
        }
    }
}

fn selected(projects: &Entry<'_>) -> Option<HashSet<ProjectId>> {
    let mut selected = HashSet::new();
    for (name, entry) in projects.texts()? {
        if let Some(project) = named(&entry, ProjectId::parse(name))
            && !selected.insert(project)
        {
            entry.fault(format!("{name:?} is listed twice"));
        }
    }
    Some(selected)
}

fn named<T>(entry: &Entry<'_>, parsed: Result<T, crate::domain::InvalidField>) -> Option<T> {
    match parsed {
        Ok(name) => Some(name),
        Err(invalid) => {
            entry.fault(invalid.to_string());
            None
        }
    }
}
