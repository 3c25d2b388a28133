//! What the names of models stand for (docs/CONTRACT.md, "Models").

use std::{collections::HashMap, fmt};

use crate::domain::{ModelCapacity, ModelName, PoolName};

/// What a name of the policy stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEntry {
    /// A model of this pool.
    Listed(PoolName),
    /// A model that is not covered any more. It keeps its pool in the usage history.
    Retired(PoolName),
    /// Another name, of a listed model.
    Alias(ModelName),
}

impl ModelEntry {
    /// The pool that lists the model.
    pub(super) fn listing_pool(&self) -> Option<&PoolName> {
        match self {
            Self::Listed(pool) => Some(pool),
            Self::Retired(_) | Self::Alias(_) => None,
        }
    }
}

/// What a name is compared as with the provider's reports. Two names with the same value are one model there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComparedModel {
    /// The name without its prefix and date, if the pool has the name without the date, too; otherwise the name of the
    /// model that it stands for.
    pub name: String,
    /// The pool that lists it.
    pub pool: Option<PoolName>,
}

/// The names of models, and the capacities of models. Names match exactly.
#[derive(Debug, Clone, Default)]
pub(super) struct Models {
    pub(super) entries: HashMap<ModelName, ModelEntry>,
    /// The names that the file itself has, and what the programme that it extends has for them.
    pub(super) own: HashMap<ModelName, Option<ModelEntry>>,
    /// The capacities that the policy states, of models that it lists and of others.
    pub(super) capacities: HashMap<ModelName, ModelCapacity>,
    /// Removed from the beginning of a name that the policy does not have.
    pub(super) strip_prefixes: Vec<String>,
}

impl Models {
    /// The model that a name stands for, never an alias; and its entry, if the policy has one.
    pub(super) fn resolve<'p: 'n, 'n>(
        &'p self,
        name: &'n str,
    ) -> (&'n str, Option<&'p ModelEntry>) {
        let (name, entry) = match self.entries.get(name) {
            Some(entry) => (name, Some(entry)),
            None => {
                let rest = self.stripped(name);
                (rest, self.entries.get(rest))
            }
        };
        match entry {
            Some(ModelEntry::Alias(target)) => (target.as_str(), self.entries.get(target)),
            entry => (name, entry),
        }
    }

    /// What a name is compared as: snapshots of one alias in one pool are one model.
    pub(super) fn compared(&self, name: &str) -> ComparedModel {
        let (model, entry) = self.resolve(name);
        let pool = entry.and_then(ModelEntry::listing_pool);
        let undated = without_date(model).filter(|it| {
            let entry = self.resolve(it).1;
            pool.is_some() && entry.and_then(ModelEntry::listing_pool) == pool
        });
        ComparedModel {
            name: undated.unwrap_or(model).to_owned(),
            pool: pool.cloned(),
        }
    }

    /// The name without a prefix of `strip_prefixes`. Of several prefixes, the longest.
    fn stripped<'n>(&self, name: &'n str) -> &'n str {
        let prefixes = self.strip_prefixes.iter();
        let rests = prefixes.filter_map(|prefix| name.strip_prefix(prefix.as_str()));
        let rest = rests.min_by_key(|rest| rest.len());
        rest.filter(|rest| !rest.is_empty()).unwrap_or(name)
    }

    /// The capacity that the policy states: of the name itself, otherwise of the name without its prefix, otherwise of
    /// the model that it stands for.
    pub(super) fn stated_capacity(&self, name: &str) -> Option<ModelCapacity> {
        let rest = match self.entries.contains_key(name) {
            true => name,
            false => self.stripped(name),
        };
        let names = [name, rest, self.resolve(name).0];
        let mut stated = names.iter().filter_map(|name| self.capacities.get(*name));
        stated.next().copied()
    }

    /// How many names have such an entry.
    pub(super) fn count(&self, is_counted: impl Fn(&ModelEntry) -> bool) -> usize {
        self.entries.values().filter(|it| is_counted(it)).count()
    }
}

/// The name of a snapshot without its date: `gpt-4o` of `gpt-4o-2024-08-06`.
pub(super) fn without_date(model: &str) -> Option<&str> {
    const DATE: &str = "-0000-00-00";
    let (name, date) = model.split_at_checked(model.len().checked_sub(DATE.len())?)?;
    let is_date = date.bytes().zip(DATE.bytes());
    let mut is_date = is_date.map(|(byte, wanted)| match wanted {
        b'0' => byte.is_ascii_digit(),
        wanted => byte == wanted,
    });
    (!name.is_empty() && is_date.all(|it| it)).then_some(name)
}

impl fmt::Display for ModelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(pool) => pool.fmt(f),
            Self::Retired(pool) => write!(f, "{pool} (retired)"),
            Self::Alias(target) => write!(f, "alias of {target}"),
        }
    }
}
