//! The differences between two policies: for the log of a reload, and for `check-policy --against`.
//!
//! All changes are counted, but only the first of each kind are described: a policy may have 100,000 organizations.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display},
};

use super::{DataSharing, Organization, Policy, models::ModelEntry};
use crate::domain::{
    ModelCapacity, ModelName, OrgId, PoolName, Portion, ProjectId, ShareId, Tokens,
};

/// How many changes of each kind are described.
const MAX_DESCRIBED: usize = 20;

/// The changes from one policy to another.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Diff {
    /// Settings of the programme.
    pub program: Truncated,
    /// New pools.
    pub pools_added: Truncated,
    /// Removed pools.
    pub pools_removed: Truncated,
    /// Names of models that were added or removed, or stand for something else, with their pools.
    pub models: Truncated,
    /// Capacities of models.
    pub capacities: Truncated,
    /// Margins of pools.
    pub margins: Truncated,
    /// Allowances, also of tiers and pools that were added or removed.
    pub allowances: Truncated,
    /// New organizations.
    pub orgs_added: Truncated,
    /// Removed organizations.
    pub orgs_removed: Truncated,
    /// Organizations with other values, those with another tier first.
    pub orgs_changed: Truncated,
    /// How many of these have another tier.
    pub tier_changes: usize,
}

/// Changes of a kind. Displays as "a, b and 17 more".
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// At most the first 20 of them.
    pub first: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl Policy {
    /// The changes from this policy to `next`. Too slow for a task that serves calls: it compares all organizations.
    pub fn diff(&self, next: &Self) -> Diff {
        let pools = |of: &Self, but: &Self| {
            let pools = of.pools.iter().filter(|pool| !but.pools.contains(pool));
            Truncated::of(pools, PoolName::to_string)
        };
        let gone = self.orgs.keys().filter(|id| !next.orgs.contains_key(*id));
        let new = next.orgs.keys().filter(|id| !self.orgs.contains_key(*id));
        let changed = next.orgs.iter().filter_map(|(id, org)| {
            let before = self.orgs.get(id).filter(|before| *before != org)?;
            // Sorted by this first: another tier is false, which comes before true.
            Some((before.tier == org.tier, id))
        });
        let changed: Vec<(bool, &OrgId)> = changed.collect();
        let program = program(self).into_iter().zip(program(next));
        let program = program.filter_map(|((key, was), (_, is))| change(key, was, is));
        Diff {
            program: Truncated::of(program.enumerate(), |(_, described)| described),
            pools_added: pools(next, self),
            pools_removed: pools(self, next),
            models: changes(&models(self), &models(next), ModelName::to_string),
            capacities: changes(&capacities(self), &capacities(next), ModelName::to_string),
            margins: changes(
                &pool_margins(self),
                &pool_margins(next),
                PoolName::to_string,
            ),
            allowances: changes(&allowances(self), &allowances(next), |(tier, pool)| {
                format!("{pool} of tier {tier}")
            }),
            orgs_added: Truncated::of(new, OrgId::to_string),
            orgs_removed: Truncated::of(gone, OrgId::to_string),
            tier_changes: changed.iter().filter(|(same_tier, _)| !same_tier).count(),
            orgs_changed: Truncated::of(changed, |(_, id)| {
                format!("{id} ({})", org_changes(&self.orgs[id], &next.orgs[id]))
            }),
        }
    }
}

impl Diff {
    /// The kinds with changes: name, count, and the first changes.
    pub fn kinds(&self) -> Vec<(&'static str, usize, String)> {
        let kinds = [
            ("program", &self.program),
            ("pools added", &self.pools_added),
            ("pools removed", &self.pools_removed),
            ("models", &self.models),
            ("capacities of models", &self.capacities),
            ("margins of pools", &self.margins),
            ("allowances", &self.allowances),
            ("organizations added", &self.orgs_added),
            ("organizations removed", &self.orgs_removed),
            ("organizations changed", &self.orgs_changed),
        ];
        let kinds = kinds.into_iter();
        let kinds = kinds.filter_map(|(name, kind)| Some((name, kind.count, kind.described()?)));
        kinds.collect()
    }
}

impl Truncated {
    /// Sorts `all`, and describes the first.
    pub(super) fn of<T: Ord>(
        all: impl IntoIterator<Item = T>,
        describe: impl Fn(T) -> String,
    ) -> Self {
        let mut all: Vec<T> = all.into_iter().collect();
        all.sort_unstable();
        let count = all.len();
        let first = all.into_iter().take(MAX_DESCRIBED).map(describe).collect();
        Self { first, count }
    }

    /// The text, if there are any.
    pub(super) fn described(&self) -> Option<String> {
        (self.count > 0).then(|| self.to_string())
    }
}

impl Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// "tier 1 → 3", if the value changes. `None` is an absent value.
fn change<V: PartialEq + Display>(what: &str, was: Option<V>, is: Option<V>) -> Option<String> {
    let shown = |value: &Option<V>| value.as_ref().map_or("none".to_owned(), V::to_string);
    (was != is).then(|| format!("{what} {} → {}", shown(&was), shown(&is)))
}

fn changes<K: Ord + Copy, V: PartialEq + Display>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    name: impl Fn(K) -> String,
) -> Truncated {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let other = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value));
    let keys = gone.chain(other.map(|(key, _)| key));
    Truncated::of(keys, |key| {
        change(&name(*key), before.get(key), after.get(key)).unwrap_or_default()
    })
}

fn models(policy: &Policy) -> BTreeMap<&ModelName, &ModelEntry> {
    policy.models.entries.iter().collect()
}

fn capacities(policy: &Policy) -> BTreeMap<&ModelName, &ModelCapacity> {
    policy.models.capacities.iter().collect()
}

fn pool_margins(policy: &Policy) -> BTreeMap<&PoolName, &Portion> {
    policy.margins.pools.iter().collect()
}

fn allowances(policy: &Policy) -> BTreeMap<(u8, &PoolName), Tokens> {
    let tiers = policy.tiers.iter();
    let allowances = tiers.flat_map(|(tier, terms)| {
        let pools = terms.pools.iter();
        pools.map(|(pool, grant)| ((*tier, pool), grant.allowance))
    });
    allowances.collect()
}

/// The keys of the programme, with their values.
fn program(policy: &Policy) -> [(&'static str, Option<String>); 10] {
    let program = &policy.program;
    let guard = humantime::format_duration(program.midnight_guard);
    let overflow = program.overflow.name();
    let prefixes = &policy.models.strip_prefixes;
    let covered = program.covered_workloads.iter();
    let mut covered: Vec<&str> = covered.map(|it| it.name()).collect();
    covered.sort_unstable();
    [
        ("name", Some(program.name.clone())),
        ("extends", program.extends.map(str::to_owned)),
        ("overflow", Some(overflow.to_owned())),
        ("covered_workloads", Some(covered.join("+"))),
        ("ends_on", program.ends_on.map(|day| day.to_string())),
        ("as_of", program.as_of.map(|day| day.to_string())),
        ("source", program.source.clone()),
        (
            "strip_prefixes",
            (!prefixes.is_empty()).then(|| prefixes.join("+")),
        ),
        ("midnight_guard", Some(guard.to_string())),
        ("margin", policy.margins.program.map(|it| it.to_string())),
    ]
}

/// "tier 1 → 3, projects added: p".
fn org_changes(before: &Organization, after: &Organization) -> String {
    let keys = organization(before).into_iter().zip(organization(after));
    let keys = keys.filter_map(|((key, was), (_, is))| change(key, was, is));
    let (old, new) = (projects(before), projects(after));
    let projects = [
        ("projects added", new.difference(&old)),
        ("projects removed", old.difference(&new)),
    ];
    let projects = projects.map(|(kind, it)| (kind, Truncated::of(it, ToString::to_string)));
    let shares = [
        (
            "shares added",
            Truncated::of(shares(after, before), |it| it),
        ),
        (
            "shares removed",
            Truncated::of(shares(before, after), |it| it),
        ),
    ];
    let lists = projects.into_iter().chain(shares);
    let lists = lists.filter_map(|(kind, list)| Some(format!("{kind}: {}", list.described()?)));
    keys.chain(lists).collect::<Vec<_>>().join(", ")
}

/// The shares of an organization that another one does not have like that: "p of large 40%".
fn shares<'o>(org: &'o Organization, other: &'o Organization) -> impl Iterator<Item = String> + 'o {
    let only = org
        .options()
        .shares
        .iter()
        .filter(|(id, portion)| other.options().shares.get(*id) != Some(*portion));
    only.map(|(ShareId { pool, project }, portion)| format!("{project} of {pool} {portion}"))
}

/// The keys of an organization with their values, without its projects and shares.
fn organization(org: &Organization) -> [(&'static str, Option<String>); 6] {
    let sharing = match &org.data_sharing {
        DataSharing::All => "all",
        DataSharing::Selected(_) => "selected",
        DataSharing::Off => "off",
    };
    [
        ("tier", Some(org.tier.to_string())),
        ("data_sharing", Some(sharing.to_owned())),
        (
            "zero_data_retention",
            Some(org.zero_data_retention.to_string()),
        ),
        ("enterprise", Some(org.enterprise.to_string())),
        ("margin", org.options().margin.map(|it| it.to_string())),
        (
            "notify_at",
            org.options().thresholds.map(|it| it.to_string()),
        ),
    ]
}

/// The projects that share their data by name.
fn projects(org: &Organization) -> HashSet<&ProjectId> {
    match &org.data_sharing {
        DataSharing::Selected(projects) => projects.iter().collect(),
        DataSharing::All | DataSharing::Off => HashSet::new(),
    }
}

#[cfg(test)]
mod tests;
