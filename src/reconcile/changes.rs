//! The changes of the policy that make it agree with the provider, as a fragment of a policy file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    causes::fitting_tier,
    comparison::{Comparison, Scope},
    drift::{Drift, DriftKind},
    overflow::OverflowEvidence,
};
use crate::{
    domain::{Overflow, PoolName, is_fine_tuned},
    policy::DataSharing,
};

/// The keys of a table, and their values: names of a list, or one value as it stands.
#[derive(Debug, Default)]
struct PolicyChanges {
    lists: BTreeMap<(String, &'static str), BTreeSet<String>>,
    values: BTreeMap<(String, &'static str), String>,
    /// What a reader has to know of a table.
    comments: BTreeMap<String, BTreeSet<&'static str>>,
}

/// The fragment; `None` if no change of the policy would help. Lists hold additions to the file's lists, except
/// `projects`, which is complete.
pub fn policy_changes<'e>(
    scope: &Scope<'_>,
    comparison: &Comparison,
    mut evidence: impl Iterator<Item = &'e OverflowEvidence>,
) -> Option<String> {
    let mut changes = PolicyChanges::default();
    for drift in &comparison.drifts {
        changes.add(scope, comparison, drift);
    }
    let closes = OverflowEvidence::Applied(Overflow::CloseUntilReset);
    if scope.policy.program.overflow == Overflow::KeepOpen && evidence.any(|it| *it == closes) {
        changes.set(
            "program",
            "overflow",
            quoted(Overflow::CloseUntilReset.name()),
        );
    }
    let text = changes.text();
    (!text.is_empty()).then_some(text)
}

/// A basic string of TOML: JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A key of TOML, bare if it can be.
fn key(text: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !text.is_empty() && text.bytes().all(is_bare) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

impl PolicyChanges {
    fn set(&mut self, table: &str, key: &'static str, value: String) {
        self.values.insert((table.to_owned(), key), value);
    }

    fn list(&mut self, table: &str, key: &'static str) -> &mut BTreeSet<String> {
        self.lists.entry((table.to_owned(), key)).or_default()
    }

    fn add(&mut self, scope: &Scope<'_>, comparison: &Comparison, drift: &Drift) {
        let names = || names_of(comparison, drift);
        match drift.kind {
            DriftKind::UnlistedButFree => self.add_models(scope, names()),
            DriftKind::ListedNeverFree => self.retire(scope, drift, names()),
            DriftKind::PoolDiffers => {
                if let Some(pool) = &drift.pool {
                    self.list(&pool_table(pool), "models").extend(names());
                }
            }
            DriftKind::OverAllowance => {
                let tier = drift
                    .day
                    .and_then(|day| fitting_tier(scope, comparison, day));
                if let Some(tier) = tier {
                    self.set(&org_table(scope), "tier", tier.to_string());
                }
            }
            DriftKind::NotEnrolled | DriftKind::MissedFree => self.share(scope, comparison, drift),
            _ => {}
        }
    }

    /// Lists models. Where they belong is a guess, by their names.
    fn add_models(&mut self, scope: &Scope<'_>, names: BTreeSet<String>) {
        for name in names.into_iter().filter(|name| !is_fine_tuned(name)) {
            let pools = &scope.policy.pools;
            let is_small = ["mini", "nano"].iter().any(|it| name.contains(it));
            let by_size = pools
                .iter()
                .find(|pool| (pool.as_str() == "mini") == is_small);
            let Some(pool) = scope
                .policy
                .sibling_pool(&name)
                .or(by_size)
                .or(pools.first())
            else {
                continue;
            };
            let table = pool_table(pool);
            let guess = "the report does not say which pool a model is in: see the provider's list";
            self.comments
                .entry(table.clone())
                .or_default()
                .insert(guess);
            self.list(&table, "models").insert(name);
        }
    }

    /// Retires the models of a drift, and drops the aliases that stand for them.
    fn retire(&mut self, scope: &Scope<'_>, drift: &Drift, names: BTreeSet<String>) {
        let Some(pool) = &drift.pool else {
            return;
        };
        for name in names {
            let aliases = scope
                .policy
                .aliases_of(&name)
                .into_iter()
                .map(str::to_owned);
            if scope.policy.program.extends.is_some() {
                let without = self.list("program", "without");
                without.extend(aliases);
            }
            self.list(&pool_table(pool), "retired").insert(name);
        }
    }

    /// Who shares, by the report.
    fn share(&mut self, scope: &Scope<'_>, comparison: &Comparison, drift: &Drift) {
        let table = org_table(scope);
        let Some(project) = &drift.project else {
            // If only an earlier day is not enrolled, sharing has been turned on again.
            if drift.kind == DriftKind::NotEnrolled && drift.day == comparison.days.last().copied()
            {
                self.set(&table, "data_sharing", quoted("off"));
            }
            return;
        };
        let is_sharing = scope.is_sharing(project);
        if is_sharing != (drift.kind == DriftKind::NotEnrolled) {
            return;
        }
        let mut projects = match scope.policy.orgs.get(scope.org).map(|it| &it.data_sharing) {
            Some(DataSharing::Selected(projects)) => {
                projects.iter().map(|it| it.as_str().to_owned()).collect()
            }
            _ => free_projects(comparison),
        };
        let earlier = self.lists.get(&(table.clone(), "projects"));
        projects = earlier.cloned().unwrap_or(projects);
        match is_sharing {
            true => projects.remove(project),
            false => projects.insert(project.clone()),
        };
        let sharing = if projects.is_empty() {
            "off"
        } else {
            "selected"
        };
        self.set(&table, "data_sharing", quoted(sharing));
        *self.list(&table, "projects") = projects;
    }

    fn text(&self) -> String {
        let lists = || self.lists.iter().filter(|(_, names)| !names.is_empty());
        let keys = lists().map(|(key, _)| key).chain(self.values.keys());
        let tables: BTreeSet<&str> = keys.map(|(table, _)| table.as_str()).collect();
        let mut text = String::new();
        for table in tables {
            let _ = writeln!(text, "[{table}]");
            for comment in self.comments.get(table).into_iter().flatten() {
                let _ = writeln!(text, "# {comment}");
            }
            for ((_, key), value) in self.values.iter().filter(|((of, _), _)| of == table) {
                let _ = writeln!(text, "{key} = {value}");
            }
            for ((_, key), names) in lists().filter(|((of, _), _)| of == table) {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                let _ = writeln!(text, "{key} = [{}]", names.join(", "));
            }
        }
        text
    }
}

fn pool_table(pool: &PoolName) -> String {
    format!("pools.{}", key(pool.as_str()))
}

fn org_table(scope: &Scope<'_>) -> String {
    format!("orgs.{}", key(scope.org.as_str()))
}

/// The provider's names of the drift's model.
fn names_of(comparison: &Comparison, drift: &Drift) -> BTreeSet<String> {
    let same = comparison
        .usage
        .iter()
        .filter(|(key, _)| Some(&key.model.name) == drift.model.as_ref());
    same.flat_map(|(_, usage)| usage.names.iter().cloned())
        .collect()
}

/// The projects that had free tokens.
fn free_projects(comparison: &Comparison) -> BTreeSet<String> {
    let free = comparison
        .usage
        .iter()
        .filter(|(_, usage)| usage.provider_free > 0);
    free.map(|(key, _)| key.project.clone()).collect()
}
