//! The schema's part about models: pools, retired models, aliases and capacities.

use std::collections::{BTreeMap, HashMap};

use super::super::{
    Lints, Policy,
    diff::Truncated,
    margins::margin,
    models::{ModelEntry, Models},
    warnings::lint_model_name,
};
use crate::{
    domain::{ModelCapacity, ModelName, PoolName, Portion, is_fine_tuned},
    files::toml::{Entry, Section, distinct},
};

/// The pools and models of a policy, and where the file names them.
pub(super) struct ModelReader<'d> {
    pub(super) pools: Vec<PoolName>,
    pub(super) models: Models,
    /// The margins of the pools that have one.
    pub(super) margins: BTreeMap<PoolName, Portion>,
    /// Pools that the extended programme does not have.
    pub(super) new_pools: Vec<(PoolName, Entry<'d>)>,
    /// The names that the file lists, in which pool, if it is one, and where.
    own: HashMap<&'d str, (Option<PoolName>, Entry<'d>)>,
    /// The names that the file drops.
    dropped: HashMap<&'d str, Entry<'d>>,
}

impl<'d> ModelReader<'d> {
    /// Reads pools and models: those of `base`, with what the file drops, adds and replaces.
    pub(super) fn read(
        root: &Section<'d>,
        program: &Section<'d>,
        base: Option<&Policy>,
        lints: &mut Lints,
    ) -> Self {
        let mut reader = Self {
            pools: base.map(|it| it.pools.clone()).unwrap_or_default(),
            models: base.map(|it| it.models.clone()).unwrap_or_default(),
            margins: BTreeMap::new(),
            new_pools: Vec::new(),
            own: HashMap::new(),
            dropped: HashMap::new(),
        };
        reader.models.own.clear();
        reader.drop_names(program, base);
        if let Some(prefixes) = program.get("strip_prefixes", |list| {
            Some(distinct(list.texts()?, prefix))
        }) {
            reader.models.strip_prefixes = prefixes;
        }
        reader.read_pools(root, base.is_some(), lints);
        reader.read_aliases(root, lints);
        reader.read_capacities(root, lints);
        reader.check_aliases();
        reader.lint_capacities(lints);
        reader.pools.sort();
        reader
    }

    /// Reads `without`.
    fn drop_names(&mut self, program: &Section<'d>, base: Option<&Policy>) {
        let Some(list) = program.entry("without") else {
            return;
        };
        let Some(extends) = base.and_then(|base| base.program.extends) else {
            return list.fault("stands only with extends");
        };
        for (name, entry) in list.texts().unwrap_or_default() {
            if self.models.entries.remove(name).is_some() {
                self.dropped.insert(name, entry);
            } else if self.dropped.contains_key(name) {
                entry.fault(format!("{name:?} is listed twice"));
            } else {
                entry.fault(format!("{extends:?} has no model or alias {name:?}"));
            }
        }
    }

    fn read_pools(&mut self, root: &Section<'d>, has_base: bool, lints: &mut Lints) {
        let section = match has_base {
            true => root.get("pools", Entry::section),
            false => root.require("pools", Entry::section),
        };
        let Some(section) = section else {
            return;
        };
        for (name, entry) in section.entries() {
            let Some(pool) = entry.check(PoolName::parse(name)) else {
                continue;
            };
            let is_new = !self.pools.contains(&pool);
            if is_new {
                self.pools.push(pool.clone());
            }
            if let Some(section) = entry.section() {
                self.read_pool(&pool, &section, is_new, lints);
            }
            if is_new {
                self.new_pools.push((pool, entry));
            }
        }
        if self.pools.is_empty() {
            section.fault("holds no pool");
        }
    }

    fn read_pool(
        &mut self,
        pool: &PoolName,
        section: &Section<'d>,
        is_new: bool,
        lints: &mut Lints,
    ) {
        let listed = match is_new {
            true => section.require("models", Entry::texts),
            false => section.get("models", Entry::texts),
        };
        let retired = section.get("retired", Entry::texts);
        let margin = margin(section).map(|it| (pool.clone(), it));
        self.margins.extend(margin);
        section.finish();
        for (name, entry) in listed.unwrap_or_default() {
            let listed = ModelEntry::Listed(pool.clone());
            self.add(name, Some(pool), entry, listed, lints);
        }
        for (name, entry) in retired.unwrap_or_default() {
            let retired = ModelEntry::Retired(pool.clone());
            self.add(name, Some(pool), entry, retired, lints);
        }
    }

    fn read_aliases(&mut self, root: &Section<'d>, lints: &mut Lints) {
        let Some(section) = root.get("aliases", Entry::section) else {
            return;
        };
        for (name, entry) in section.entries() {
            let target = entry.text().map(ModelName::parse);
            if let Some(target) = target.and_then(|it| entry.check(it)) {
                self.add(name, None, entry, ModelEntry::Alias(target), lints);
            }
        }
    }

    /// Adds a name of the file, or replaces the built-in programme's entry for it.
    fn add(
        &mut self,
        name: &'d str,
        pool: Option<&PoolName>,
        entry: Entry<'d>,
        value: ModelEntry,
        lints: &mut Lints,
    ) {
        let Some(model) = entry.check(ModelName::parse(name)) else {
            return;
        };
        if is_fine_tuned(name) {
            entry.fault(format!(
                "{name:?} is a fine-tuned model, and those are never covered"
            ));
        } else if let Some((Some(other), first)) = self.own.get(name) {
            entry.fault(format!(
                "{name:?} is in pool {:?} already (line {})",
                other.as_str(),
                first.line()
            ));
        } else {
            lints.models.extend(lint_model_name(name, &entry));
            let replaced = self.models.entries.insert(model.clone(), value);
            self.models.own.insert(model, replaced);
            self.own.insert(name, (pool.cloned(), entry));
        }
    }

    /// A key that is left out has the value of a model about which nothing is known.
    fn read_capacities(&mut self, root: &Section<'d>, lints: &mut Lints) {
        let Some(section) = root.get("models", Entry::section) else {
            return;
        };
        for (name, entry) in section.entries() {
            let model = entry.check(ModelName::parse(name));
            lints.models.extend(lint_model_name(name, &entry));
            let Some(section) = entry.section() else {
                continue;
            };
            let tokens =
                |key, default| section.get_or(key, default, |it| it.number(1, ModelCapacity::MAX));
            let default = ModelCapacity::default();
            let capacity = ModelCapacity {
                context: tokens("context", default.context),
                max_output: tokens("max_output", default.max_output),
                image: tokens("image", default.image),
            };
            section.finish();
            if let Some(model) = model {
                self.models.capacities.insert(model, capacity);
            }
        }
    }

    /// Every alias stands for a model that a pool lists.
    fn check_aliases(&self) {
        let entries = &self.models.entries;
        let aliases = entries.iter().filter_map(|(name, entry)| match entry {
            ModelEntry::Alias(target) => Some((name.as_str(), target.as_str())),
            ModelEntry::Listed(_) | ModelEntry::Retired(_) => None,
        });
        let mut aliases: Vec<(&str, &str)> = aliases.collect();
        aliases.sort_unstable();
        for (alias, target) in aliases {
            let why = match entries.get(target) {
                Some(ModelEntry::Listed(_)) => continue,
                Some(ModelEntry::Retired(_)) => "is retired",
                Some(ModelEntry::Alias(_)) => "is an alias itself",
                None => "is in no pool",
            };
            if let Some((_, entry)) = self.own.get(alias) {
                entry.fault(format!("stands for {target:?}, which {why}"));
                continue;
            }
            // The programme's own aliases are right, so the file names or drops the target.
            let named = self.own.get(target).map(|(_, entry)| entry);
            if let Some(entry) = named.or_else(|| self.dropped.get(target)) {
                entry.fault(format!(
                    "{target:?} {why}, and the programme's alias {alias:?} stands for it: drop {alias:?} too, or name it"
                ));
            }
        }
    }

    /// Warns of models that the file lists without a capacity, if capacities are stated at all.
    fn lint_capacities(&self, lints: &mut Lints) {
        if self.models.capacities.is_empty() {
            return;
        }
        let mut missing: BTreeMap<&PoolName, Vec<(usize, &str)>> = BTreeMap::new();
        for (name, (pool, entry)) in &self.own {
            let is_listed = matches!(self.models.entries.get(*name), Some(ModelEntry::Listed(_)));
            if let Some(pool) = pool
                && is_listed
                && self.models.stated_capacity(name).is_none()
            {
                let missing = missing.entry(pool).or_default();
                missing.push((entry.line(), name));
            }
        }
        let ModelCapacity {
            context,
            max_output,
            ..
        } = ModelCapacity::default();
        for mut names in missing.into_values() {
            names.sort_unstable();
            let (_, first) = &self.own[names[0].1];
            let names = Truncated::of(names.into_iter().map(|(_, name)| name), str::to_owned);
            lints.models.push(first.warning(format!(
                "[models] has no capacity of {names}: estimates take a context of {context} and a max_output of {max_output}"
            )));
        }
    }
}

fn prefix(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("an empty prefix removes nothing"),
        text => Ok(text.to_owned()),
    }
}
