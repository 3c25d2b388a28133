//! What another policy changes: for the log of a reload, and for people before they make one.
//!
//! All is counted, and the first of each kind are named: a policy may have 100,000 organizations.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::{self, Display},
};

use super::{DataSharing, Organization, Policy, Program};
use crate::domain::{ModelName, OrgId, Overflow, PoolName, ProjectId, Tokens};

/// How many changes of a kind are named.
const MAX_NAMED: usize = 20;

/// What another policy changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// Settings of the programme.
    pub program: Truncated<Change<&'static str, String>>,
    /// Pools that there were not.
    pub pools_added: Truncated<PoolName>,
    /// Pools that there are no more.
    pub pools_removed: Truncated<PoolName>,
    /// Models that came, left or moved, with their pools.
    pub models: Truncated<Change<ModelName, PoolName>>,
    /// Allowances, also of tiers and pools that came or left.
    pub allowances: Truncated<Change<Grant, Tokens>>,
    /// Organizations that there were not.
    pub orgs_added: Truncated<OrgId>,
    /// Organizations that there are no more.
    pub orgs_removed: Truncated<OrgId>,
    /// Organizations that stand otherwise, those of another tier first.
    pub orgs_changed: Truncated<OrgChange>,
    /// How many of these are of another tier.
    pub tier_changes: usize,
}

/// Changes of a kind: the first of them by name, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated<T> {
    /// At most 20.
    pub first: Vec<T>,
    /// Of all.
    pub count: usize,
}

/// Something that has another value. `None` is that it was not there, or is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<W, V> {
    /// What has.
    pub what: W,
    /// In the policy before.
    pub before: Option<V>,
    /// In this one.
    pub after: Option<V>,
}

/// What a tier is granted in a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// 1 to 5.
    pub tier: u8,
    /// By its name.
    pub pool: PoolName,
}

/// An organization that stands otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgChange {
    /// Which.
    pub org: OrgId,
    /// The keys of it that have other values, but for its projects.
    pub keys: Vec<Change<&'static str, String>>,
    /// Projects that share their data and did not, of those that are named one by one.
    pub projects_added: Truncated<ProjectId>,
    /// Projects that were named and are no more.
    pub projects_removed: Truncated<ProjectId>,
}

impl Policy {
    /// What `next` changes. Takes longer with more organizations; not for a task that serves calls.
    #[must_use]
    pub fn diff(&self, next: &Self) -> Diff {
        let pools = |of: &Self| -> BTreeSet<PoolName> { of.pools.iter().cloned().collect() };
        let (before, after) = (pools(self), pools(next));
        let gone = |id: &&OrgId| !next.orgs.contains_key(*id);
        let new = |id: &&OrgId| !self.orgs.contains_key(*id);
        let (orgs_changed, tier_changes) = orgs_changed(&self.orgs, &next.orgs);
        Diff {
            program: program(&self.program, &next.program).into_iter().collect(),
            pools_added: after.difference(&before).cloned().collect(),
            pools_removed: before.difference(&after).cloned().collect(),
            models: models(&self.models, &next.models),
            allowances: allowances(self, next),
            orgs_added: Truncated::sorted(next.orgs.keys().filter(new).collect(), OrgId::clone),
            orgs_removed: Truncated::sorted(self.orgs.keys().filter(gone).collect(), OrgId::clone),
            orgs_changed,
            tier_changes,
        }
    }

    /// What a tier is granted in a pool, where it and the pool are there.
    fn allowance(&self, grant: &Grant) -> Option<Tokens> {
        let allowances = &self.tiers.get(&grant.tier)?.allowances;
        let mut allowances = allowances.iter();
        allowances.find_map(|(pool, tokens)| (*pool == grant.pool).then_some(*tokens))
    }
}

impl Diff {
    /// What changed, kind by kind: its name, how many of it, and the first of them.
    #[must_use]
    pub fn kinds(&self) -> Vec<(&'static str, usize, String)> {
        let kinds = [
            ("program", self.program.kind()),
            ("pools added", self.pools_added.kind()),
            ("pools removed", self.pools_removed.kind()),
            ("models", self.models.kind()),
            ("allowances", self.allowances.kind()),
            ("organizations added", self.orgs_added.kind()),
            ("organizations removed", self.orgs_removed.kind()),
            ("organizations changed", self.orgs_changed.kind()),
        ];
        let changed = kinds.into_iter().filter_map(|(name, kind)| {
            let (count, first) = kind?;
            Some((name, count, first))
        });
        changed.collect()
    }
}

impl<T> Truncated<T> {
    /// Of things that are in no order.
    fn sorted<R: Ord>(mut all: Vec<R>, named: impl Fn(R) -> T) -> Self {
        all.sort_unstable();
        let count = all.len();
        let first = all.into_iter().take(MAX_NAMED).map(named).collect();
        Self { first, count }
    }
}

impl<T: Display> Truncated<T> {
    fn kind(&self) -> Option<(usize, String)> {
        (self.count > 0).then(|| (self.count, self.to_string()))
    }
}

/// Of things that are in order.
impl<T> FromIterator<T> for Truncated<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        let first: Vec<T> = all.by_ref().take(MAX_NAMED).collect();
        let count = first.len() + all.count();
        Self { first, count }
    }
}

impl<W, V: PartialEq> Change<W, V> {
    fn of(what: W, before: Option<V>, after: Option<V>) -> Option<Self> {
        (before != after).then_some(Self {
            what,
            before,
            after,
        })
    }
}

fn program(before: &Program, after: &Program) -> Vec<Change<&'static str, String>> {
    let overflow = |of: &Program| match of.overflow {
        Overflow::KeepOpen => "keep_open".to_owned(),
        Overflow::CloseUntilReset => "close_until_reset".to_owned(),
    };
    let covered = |of: &Program| {
        let mut names: Vec<_> = of.covered_workloads.iter().map(|it| it.name()).collect();
        names.sort_unstable();
        names.join("+")
    };
    let end = |of: &Program| of.ends_on.map(|day| day.to_string());
    let as_of = |of: &Program| of.as_of.map(|day| day.to_string());
    let name = |of: &Program| Some(of.name.clone());
    let changes = [
        Change::of("name", name(before), name(after)),
        Change::of("overflow", Some(overflow(before)), Some(overflow(after))),
        Change::of(
            "covered_workloads",
            Some(covered(before)),
            Some(covered(after)),
        ),
        Change::of("ends_on", end(before), end(after)),
        Change::of("as_of", as_of(before), as_of(after)),
    ];
    changes.into_iter().flatten().collect()
}

fn models(
    before: &HashMap<ModelName, PoolName>,
    after: &HashMap<ModelName, PoolName>,
) -> Truncated<Change<ModelName, PoolName>> {
    let gone = before.keys().filter(|model| !after.contains_key(*model));
    let other = after.iter().filter_map(|(model, pool)| {
        let moved = before.get(model) != Some(pool);
        moved.then_some(model)
    });
    let named = |model: &ModelName| Change {
        what: model.clone(),
        before: before.get(model).cloned(),
        after: after.get(model).cloned(),
    };
    Truncated::sorted(gone.chain(other).collect(), named)
}

fn allowances(before: &Policy, after: &Policy) -> Truncated<Change<Grant, Tokens>> {
    let both = [before, after];
    let tiers: BTreeSet<u8> = both
        .iter()
        .flat_map(|of| of.tiers.keys().copied())
        .collect();
    let pools: BTreeSet<&PoolName> = both.iter().flat_map(|of| &of.pools).collect();
    let changes = tiers.into_iter().flat_map(|tier| {
        pools.iter().filter_map(move |pool| {
            let grant = Grant {
                tier,
                pool: PoolName::clone(pool),
            };
            let (was, is) = (before.allowance(&grant), after.allowance(&grant));
            Change::of(grant, was, is)
        })
    });
    changes.collect()
}

type Orgs = HashMap<OrgId, Organization>;

/// The organizations that stand otherwise, and how many of them are of another tier.
fn orgs_changed(before: &Orgs, after: &Orgs) -> (Truncated<OrgChange>, usize) {
    let changed = after.iter().filter_map(|(id, org)| {
        let was = before.get(id).filter(|was| *was != org)?;
        // What orders them: false comes before true.
        Some((was.tier == org.tier, id))
    });
    let changed: Vec<(bool, &OrgId)> = changed.collect();
    let tier_changes = changed.iter().filter(|(same_tier, _)| !same_tier).count();
    let named = |(_, id): (bool, &OrgId)| org_change(id, &before[id], &after[id]);
    (Truncated::sorted(changed, named), tier_changes)
}

fn org_change(id: &OrgId, before: &Organization, after: &Organization) -> OrgChange {
    let sharing = |of: &Organization| match of.data_sharing {
        DataSharing::All => "all".to_owned(),
        DataSharing::Selected(_) => "selected".to_owned(),
        DataSharing::Off => "off".to_owned(),
    };
    let key = |key, was: String, is: String| Change::of(key, Some(was), Some(is));
    let flag = |name, was: bool, is: bool| key(name, was.to_string(), is.to_string());
    let keys = [
        key("tier", before.tier.to_string(), after.tier.to_string()),
        key("data_sharing", sharing(before), sharing(after)),
        flag(
            "zero_data_retention",
            before.zero_data_retention,
            after.zero_data_retention,
        ),
        flag("enterprise", before.enterprise, after.enterprise),
    ];
    let none = HashSet::new();
    let (was, is) = (
        before.data_sharing.projects().unwrap_or(&none),
        after.data_sharing.projects().unwrap_or(&none),
    );
    OrgChange {
        org: id.clone(),
        keys: keys.into_iter().flatten().collect(),
        projects_added: Truncated::sorted(is.difference(was).collect(), ProjectId::clone),
        projects_removed: Truncated::sorted(was.difference(is).collect(), ProjectId::clone),
    }
}

impl DataSharing {
    /// Those that are named one by one.
    fn projects(&self) -> Option<&HashSet<ProjectId>> {
        match self {
            Self::Selected(projects) => Some(projects),
            Self::All | Self::Off => None,
        }
    }
}

/// "a, b and 17 more".
impl<T: Display> Display for Truncated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, it) in self.first.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{it}")?;
        }
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// "tier 1 → 3".
impl<W: Display, V: Display> Display for Change<W, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            before,
            after,
        } = self;
        match (before, after) {
            (Some(before), Some(after)) => write!(f, "{what} {before} → {after}"),
            (None, Some(after)) => write!(f, "{what} none → {after}"),
            (Some(before), None) => write!(f, "{what} {before} → none"),
            (None, None) => write!(f, "{what}"),
        }
    }
}

impl Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of tier {}", self.pool, self.tier)
    }
}

/// "org-acme (tier 1 → 3, projects added: p)".
impl Display for OrgChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string);
        let projects = [
            ("projects added", &self.projects_added),
            ("projects removed", &self.projects_removed),
        ];
        let projects = projects.into_iter().filter(|(_, listed)| listed.count > 0);
        let projects = projects.map(|(kind, listed)| format!("{kind}: {listed}"));
        let all: Vec<String> = keys.chain(projects).collect();
        write!(f, "{} ({})", self.org, all.join(", "))
    }
}

#[cfg(test)]
mod tests;
