//! The changes of the policy that make it agree with the provider, as a fragment of a policy file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    mem,
};

use super::{
    causes::fitting_tier,
    comparison::{Comparison, Scope},
    drift::{Drift, DriftKind},
    overflow::OverflowEvidence,
};
use crate::{
    domain::{ModelName, Overflow, PoolName, ProjectId, is_fine_tuned},
    policy::{DataSharing, ModelEntry, Policy},
};

/// The keys of a table, and their values: names of a list, or one value as it stands.
#[derive(Debug, Default)]
struct PolicyChanges {
    lists: BTreeMap<(String, &'static str), BTreeSet<String>>,
    values: BTreeMap<(String, &'static str), String>,
    /// What a reader has to know of a table, and what is to be removed there.
    comments: BTreeMap<String, BTreeSet<String>>,
    /// The list in which each model belongs: `models` or `retired` of a pool.
    models: BTreeMap<String, (PoolName, &'static str)>,
    /// The projects that share.
    projects: Option<BTreeSet<String>>,
}

/// The fragment; `None` if no change of the policy would help. A list holds what is to be added to the file's, but for
/// `projects`, which is whole; comments say what is to be removed from the file (docs/CONTRACT.md, "Reconcile").
pub fn policy_changes<'e>(
    scope: &Scope<'_>,
    comparison: &Comparison,
    mut evidence: impl Iterator<Item = &'e OverflowEvidence>,
) -> Option<String> {
    let mut changes = PolicyChanges::default();
    for drift in &comparison.drifts {
        changes.add(scope, comparison, drift);
    }
    changes.list_models(scope.policy);
    changes.list_projects(scope);
    let closes = OverflowEvidence::Applied(Overflow::CloseUntilReset);
    if scope.policy.program.overflow == Overflow::KeepOpen && evidence.any(|it| *it == closes) {
        changes.set(
            "program",
            "overflow",
            quoted(Overflow::CloseUntilReset.name()),
        );
    }
    changes.complete_org(scope);
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

    fn comment(&mut self, table: &str, text: &str) {
        let comments = self.comments.entry(table.to_owned()).or_default();
        comments.insert(text.to_owned());
    }

    fn add(&mut self, scope: &Scope<'_>, comparison: &Comparison, drift: &Drift) {
        let names = || names_of(comparison, drift);
        match drift.kind {
            DriftKind::UnlistedButFree => self.add_models(scope, names()),
            DriftKind::ListedNeverFree => self.place_models(scope, drift, "retired", names()),
            DriftKind::PoolDiffers => self.place_models(scope, drift, "models", names()),
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
        let is_legal =
            |name: &String| !is_fine_tuned(name) && ModelName::parse(name.as_str()).is_ok();
        for name in names.into_iter().filter(is_legal) {
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
            let guess = "the report does not say which pool a model is in: see the provider's list";
            self.comment(&pool_table(pool), guess);
            self.models.entry(name).or_insert((pool.clone(), "models"));
        }
    }

    /// Puts the models of a drift into a list of its pool.
    fn place_models(
        &mut self,
        scope: &Scope<'_>,
        drift: &Drift,
        key: &'static str,
        names: BTreeSet<String>,
    ) {
        // A service with another policy may have more pools.
        let known = drift.pool.as_ref();
        let Some(pool) = known.filter(|it| scope.policy.pools.contains(it)) else {
            return;
        };
        for name in names {
            self.models.entry(name).or_insert((pool.clone(), key));
        }
    }

    /// Lists the models, and drops the aliases that stand for retired ones. What the file itself has of them can't stay.
    fn list_models(&mut self, policy: &Policy) {
        let models = mem::take(&mut self.models);
        let is_listed = |name: &str| match models.get(name) {
            Some((_, key)) => *key == "models",
            None => matches!(policy.entry(name), Some(ModelEntry::Listed(_))),
        };
        for (name, (pool, key)) in &models {
            if policy.is_own(name) {
                self.remove(policy, name);
            }
            self.list(&pool_table(pool), key).insert(name.clone());
            if is_listed(name) {
                continue;
            }
            for alias in policy.aliases_of(name) {
                if policy.is_own(alias) {
                    self.remove(policy, alias);
                }
                if let Some(ModelEntry::Alias(target)) = policy.inherited_entry(alias)
                    && !is_listed(target.as_str())
                {
                    self.list("program", "without").insert(alias.to_owned());
                }
            }
        }
    }

    /// Says where the file itself has the name.
    fn remove(&mut self, policy: &Policy, name: &str) {
        let (table, key) = match policy.entry(name) {
            Some(ModelEntry::Listed(pool)) => (pool_table(pool), " from models"),
            Some(ModelEntry::Retired(pool)) => (pool_table(pool), " from retired"),
            Some(ModelEntry::Alias(_)) | None => ("aliases".to_owned(), ""),
        };
        self.comment(&table, &format!("remove{key}: {}", quoted(name)));
    }

    /// Who shares, by the report.
    fn share(&mut self, scope: &Scope<'_>, comparison: &Comparison, drift: &Drift) {
        let Some(project) = &drift.project else {
            // If only an earlier day is not enrolled, sharing has been turned on again.
            if drift.kind == DriftKind::NotEnrolled && drift.day == comparison.days.last().copied()
            {
                self.projects = Some(BTreeSet::new());
            }
            return;
        };
        let is_sharing = scope.is_sharing(project);
        if is_sharing != (drift.kind == DriftKind::NotEnrolled) || !is_project(project) {
            return;
        }
        let known = scope.policy.orgs.get(scope.org).map(|it| &it.data_sharing);
        let projects = self.projects.get_or_insert_with(|| match known {
            Some(DataSharing::Selected(projects)) => {
                projects.iter().map(|it| it.as_str().to_owned()).collect()
            }
            _ => free_projects(comparison),
        });
        match is_sharing {
            true => projects.remove(project),
            false => projects.insert(project.clone()),
        };
    }

    fn list_projects(&mut self, scope: &Scope<'_>) {
        let Some(projects) = self.projects.take() else {
            return;
        };
        let table = org_table(scope);
        let sharing = match projects.is_empty() {
            true => "off",
            false => "selected",
        };
        self.set(&table, "data_sharing", quoted(sharing));
        let known = scope.policy.orgs.get(scope.org).map(|it| &it.data_sharing);
        if projects.is_empty() && matches!(known, Some(DataSharing::Selected(_))) {
            self.comment(&table, "remove: \"projects\"");
        }
        *self.list(&table, "projects") = projects;
    }

    /// Of an organization that the policy does not have, the entry needs all its keys.
    fn complete_org(&mut self, scope: &Scope<'_>) {
        let table = org_table(scope);
        let is_changed = self.values.keys().any(|(of, _)| *of == table);
        if !is_changed || scope.policy.orgs.contains_key(scope.org) {
            return;
        }
        let lowest = scope.policy.tiers.keys().next();
        for (key, value) in [
            ("tier", lowest.map(u8::to_string)),
            ("data_sharing", Some(quoted("all"))),
        ] {
            if let (Some(value), false) = (value, self.values.contains_key(&(table.clone(), key))) {
                self.comment(
                    &table,
                    &format!("the report does not say the {key}: see the provider's settings"),
                );
                self.set(&table, key, value);
            }
        }
    }

    fn text(&self) -> String {
        let lists = || self.lists.iter().filter(|(_, names)| !names.is_empty());
        let keys = lists().map(|(key, _)| key).chain(self.values.keys());
        let tables = keys.map(|(table, _)| table).chain(self.comments.keys());
        let tables: BTreeSet<&str> = tables.map(String::as_str).collect();
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

/// Whether a policy can have the project. The report may be without one.
fn is_project(name: &str) -> bool {
    ProjectId::parse(name).is_ok()
}

/// The projects that had free tokens.
fn free_projects(comparison: &Comparison) -> BTreeSet<String> {
    let free = comparison
        .usage
        .iter()
        .filter(|(key, usage)| usage.provider_free > 0 && is_project(&key.project));
    free.map(|(key, _)| key.project.clone()).collect()
}
