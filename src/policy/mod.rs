//! Who gets what: pools, tiers and organizations, in one immutable, validated snapshot.
//!
//! Rules: docs/CONTRACT.md, "The programme" and the order of the billed reasons. [`Assessor`] alone judges
//! eligibility. The store decides whether an eligible request still fits. `schema.rs` has the policy file's schema,
//! `programs.rs` the built-in programmes, `watch.rs` reloads the file while the service runs.

mod diff;
mod margins;
mod models;
mod programs;
mod schema;
mod shares;
mod thresholds;
mod warnings;
mod watch;

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use indexmap::IndexMap;

pub use self::{
    diff::{Diff, Truncated},
    models::{ComparedModel, ModelEntry},
    programs::{BuiltinProgram, PROGRAMS},
    shares::Shares,
    watch::{PolicySource, PolicyStatus},
};
use self::{
    margins::{Margins, Own, OwnTerms},
    models::Models,
    shares::SharedTerms,
};
use crate::{
    domain::{
        BilledReason, Eligibility, ModelCapacity, ModelName, OrgId, Overflow, PoolName, Portion,
        ProjectId, RequestFields, Terms, Thresholds, UtcDay, Workload, is_fine_tuned,
    },
    files::toml::Diagnostic,
};

/// The name of the built-in policy in logs and errors.
pub const BUILTIN_NAME: &str = "built-in";

const BUILTIN_TEXT: &str = include_str!("builtin.toml");

/// The setting `policy_bytes`: the size of the largest policy file. A million organizations with names of 28 bytes take
/// 67 MB.
pub const DEFAULT_FILE_BYTES: u64 = 128 << 20;

/// The least and the most that the setting may be.
pub const FILE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;

/// A validated policy. Look-ups cost the same with ten organizations and with 100,000.
#[derive(Debug)]
pub struct Policy {
    /// The rules for all organizations.
    pub program: Program,
    /// The pools, ordered by name.
    pub pools: Vec<PoolName>,
    models: Models,
    /// The terms of each tier.
    pub tiers: BTreeMap<u8, Arc<Terms>>,
    margins: Margins,
    /// The terms of organizations with margins or thresholds of their own.
    own_terms: OwnTerms,
    /// The terms of organizations with shares.
    shared_terms: SharedTerms,
    /// An allowance of 0 in every pool.
    no_terms: Arc<Terms>,
    /// Every threshold of an organization.
    pub thresholds: Thresholds,
    /// The organizations, ordered by name.
    pub orgs: IndexMap<OrgId, Organization>,
    lints: Lints,
}

/// The parser's findings that can lead to warnings.
#[derive(Debug, Default)]
struct Lints {
    /// Warnings about models' names, and about capacities that are missing.
    models: Vec<Diagnostic>,
    /// The line of `ends_on`, or of `extends`, if that has it.
    ends_on: KeyPosition,
    /// The line of `as_of`, or of `extends`, if that has it.
    as_of: KeyPosition,
}

/// Where a value of the programme stands in the file.
#[derive(Debug, Default, Clone, Copy)]
struct KeyPosition {
    line: usize,
    key: &'static str,
}

/// The rules for all organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The programme's name.
    pub name: String,
    /// The built-in programme that the policy extends.
    pub extends: Option<&'static str>,
    /// Whether a pool stays open after a request that did not fit.
    pub overflow: Overflow,
    /// The kinds of work that can be free.
    pub covered_workloads: Vec<Workload>,
    /// The last free day, if there is one.
    pub ends_on: Option<UtcDay>,
    /// How long before midnight FREE reservations count in the next day too. Whole seconds.
    pub midnight_guard: Duration,
    /// The date of the lists of models, if the file has it.
    pub as_of: Option<UtcDay>,
    /// Where the lists of models are from, if the file has it.
    pub source: Option<String>,
}

/// An organization's entry in the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// The usage tier, 1 to 5.
    pub tier: u8,
    /// Which projects share their data.
    pub data_sharing: DataSharing,
    /// Zero Data Retention: nothing of it is free.
    pub zero_data_retention: bool,
    /// An enterprise plan: nothing of it is free.
    pub enterprise: bool,
    /// In a box, and only if it has any: a policy may have a million organizations.
    options: Option<Box<OrganizationOptions>>,
}

/// What few organizations have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationOptions {
    /// Its own margin, in place of the pools' and the programme's.
    pub margin: Option<Portion>,
    /// At which parts of its allowances notices are due, in place of the usual ones.
    pub thresholds: Option<Thresholds>,
    /// The most that some of its projects may use of a pool.
    pub shares: Shares,
}

/// Which projects of an organization share their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSharing {
    /// All of them.
    All,
    /// These, ordered by name.
    Selected(Box<[ProjectId]>),
    /// None: the organization is not enrolled.
    Off,
}

/// What an organization is entitled to on a day.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// The usage tier, 1 to 5.
    pub tier: u8,
    /// Why nothing of it can be free, if it is not enrolled.
    pub not_enrolled: Option<BilledReason>,
    /// Its allowance in each pool; 0 if it is not enrolled.
    pub terms: Arc<Terms>,
}

/// Assesses the requests of one organization on one day.
#[derive(Debug)]
pub struct Assessor<'p> {
    policy: &'p Policy,
    /// None if the policy doesn't know the organization.
    org: Option<(&'p Organization, Enrollment)>,
}

impl Policy {
    /// The programme of docs/CONTRACT.md, with a demo organization.
    ///
    /// # Panics
    ///
    /// Never: the text is part of the program, and a test reads it.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN_NAME, BUILTIN_TEXT)
            .expect("the built-in policy is valid, as a test shows")
    }

    /// The pool that lists the model.
    pub fn pool_of(&self, model: &ModelName) -> Option<&PoolName> {
        self.models.resolve(model.as_str()).1?.listing_pool()
    }

    /// The pool of the model in the usage history: the one that lists it, or lists it as retired.
    pub fn history_pool(&self, model: &ModelName) -> Option<&PoolName> {
        match self.models.resolve(model.as_str()).1? {
            ModelEntry::Listed(pool) | ModelEntry::Retired(pool) => Some(pool),
            ModelEntry::Alias(_) => None,
        }
    }

    /// What a name is compared as with the provider's reports (docs/CONTRACT.md, "Reconcile").
    pub fn compared_model(&self, name: &str) -> ComparedModel {
        self.models.compared(name)
    }

    /// The model that a name stands for, never an alias.
    pub fn resolved_model<'p: 'n, 'n>(&'p self, name: &'n str) -> &'n str {
        self.models.resolve(name).0
    }

    /// The model that a name stands for, without the date of its snapshot.
    pub fn undated_model<'p: 'n, 'n>(&'p self, name: &'n str) -> &'n str {
        let model = self.resolved_model(name);
        models::without_date(model).unwrap_or(model)
    }

    /// The pool in which an unlisted model probably belongs: that of a snapshot of the same name, or of the model
    /// without the date.
    pub fn sibling_pool(&self, model: &str) -> Option<&PoolName> {
        let name = models::without_date(model)?;
        let same =
            |(other, _): &(&ModelName, _)| models::without_date(other.as_str()) == Some(name);
        let mut siblings = self.models.entries.iter().filter(same);
        let entry = self
            .models
            .resolve(name)
            .1
            .or_else(|| siblings.next().map(|it| it.1));
        match entry? {
            ModelEntry::Listed(pool) | ModelEntry::Retired(pool) => Some(pool),
            ModelEntry::Alias(_) => None,
        }
    }

    /// The aliases that stand for a model, in order.
    pub fn aliases_of(&self, model: &str) -> Vec<&str> {
        let is_alias =
            |entry: &ModelEntry| matches!(entry, ModelEntry::Alias(it) if it.as_str() == model);
        let aliases = self
            .models
            .entries
            .iter()
            .filter(|(_, entry)| is_alias(entry));
        let mut aliases: Vec<&str> = aliases.map(|(name, _)| name.as_str()).collect();
        aliases.sort_unstable();
        aliases
    }

    /// What the policy has for a name.
    pub fn entry(&self, name: &str) -> Option<&ModelEntry> {
        self.models.entries.get(name)
    }

    /// Whether the file itself has the name in a list or as an alias, not only the programme that it extends.
    pub fn is_own(&self, name: &str) -> bool {
        self.models.own.contains_key(name)
    }

    /// What is left for a name if the file itself does not have it: the entry of the programme that it extends.
    pub fn inherited_entry(&self, name: &str) -> Option<&ModelEntry> {
        match self.models.own.get(name) {
            Some(replaced) => replaced.as_ref(),
            None => self.entry(name),
        }
    }

    /// How many models a pool lists.
    pub fn model_count(&self, pool: &PoolName) -> usize {
        let listed = ModelEntry::Listed(pool.clone());
        self.models.count(|entry| *entry == listed)
    }

    /// How many names are aliases.
    pub fn alias_count(&self) -> usize {
        self.models.count(|it| matches!(it, ModelEntry::Alias(_)))
    }

    /// How many models are retired.
    pub fn retired_count(&self) -> usize {
        self.models.count(|it| matches!(it, ModelEntry::Retired(_)))
    }

    /// The capacity of a model; the default if the policy does not state it.
    pub fn capacity(&self, model: &str) -> ModelCapacity {
        self.models.stated_capacity(model).unwrap_or_default()
    }

    /// The programme's margin, if it has one.
    pub fn program_margin(&self) -> Option<Portion> {
        self.margins.program
    }

    /// How many models' capacities the policy states.
    pub fn capacity_count(&self) -> usize {
        self.models.capacities.len()
    }

    /// Whether the programme covers this kind of work.
    pub fn covers(&self, workload: Workload) -> bool {
        self.program.covered_workloads.contains(&workload)
    }

    /// The enrollment of an organization on a day; `None` if the policy doesn't know it.
    pub fn enrollment(&self, org: &OrgId, day: UtcDay) -> Option<Enrollment> {
        let known = self.orgs.get(org)?;
        Some(self.enrollment_of(org, known, day))
    }

    /// Assesses an organization's requests on a day.
    pub fn assessor(&self, org: &OrgId, day: UtcDay) -> Assessor<'_> {
        let known = self.orgs.get(org);
        Assessor {
            policy: self,
            org: known.map(|known| (known, self.enrollment_of(org, known, day))),
        }
    }

    /// The enrollment of an organization of this policy on a day.
    pub(crate) fn enrollment_of(&self, id: &OrgId, org: &Organization, day: UtcDay) -> Enrollment {
        let not_enrolled = if org.data_sharing == DataSharing::Off {
            Some(BilledReason::OrganizationNotEnrolled)
        } else if org.zero_data_retention {
            Some(BilledReason::ZeroDataRetention)
        } else if org.enterprise {
            Some(BilledReason::EnterprisePlan)
        } else if self.program.ends_on.is_some_and(|last| day > last) {
            Some(BilledReason::ProgramEnded)
        } else {
            None
        };
        let terms = match (not_enrolled, org.own()) {
            (Some(_), _) => &self.no_terms,
            (None, _) if !org.options().shares.is_empty() => &self.shared_terms[id],
            (None, Some(own)) => &self.own_terms[&(org.tier, own)],
            (None, None) => &self.tiers[&org.tier],
        };
        Enrollment {
            tier: org.tier,
            not_enrolled,
            terms: Arc::clone(terms),
        }
    }
}

impl Assessor<'_> {
    /// Whether the policy knows the organization. If not, its requests are not counted.
    pub fn knows_org(&self) -> bool {
        self.org.is_some()
    }

    /// The organization's allowance in each pool; 0 if it is unknown or not enrolled.
    pub fn terms(&self) -> Arc<Terms> {
        let enrolled = self.org.as_ref();
        Arc::clone(enrolled.map_or(&self.policy.no_terms, |(_, it)| &it.terms))
    }

    /// Judges eligibility, in the order of the billed reasons.
    pub fn eligibility(&self, request: &RequestFields) -> Eligibility {
        let Some((org, enrollment)) = &self.org else {
            return Eligibility::Ineligible(BilledReason::OrganizationNotEnrolled);
        };
        let (model, entry) = self.policy.models.resolve(request.model.as_str());
        let ineligible = if enrollment.not_enrolled.is_some() {
            enrollment.not_enrolled
        } else if !org.data_sharing.includes(&request.project) {
            Some(BilledReason::ProjectNotSharing)
        } else if !self.policy.covers(request.workload) {
            Some(BilledReason::WorkloadNotCovered)
        } else if is_fine_tuned(model) {
            Some(BilledReason::FineTunedModel)
        } else {
            None
        };
        match (ineligible, entry) {
            (Some(reason), _) => Eligibility::Ineligible(reason),
            (None, Some(ModelEntry::Listed(pool))) => Eligibility::Eligible(pool.clone()),
            (None, _) => Eligibility::Ineligible(BilledReason::ModelNotCovered),
        }
    }
}

impl OrganizationOptions {
    const NONE: &'static Self = &Self {
        margin: None,
        thresholds: None,
        shares: Shares::new(),
    };
}

impl Organization {
    /// What it has beside what every organization has.
    pub fn options(&self) -> &OrganizationOptions {
        self.options.as_deref().unwrap_or(OrganizationOptions::NONE)
    }

    /// What it has in place of what its tier has, if anything.
    fn own(&self) -> Option<Own> {
        let options = self.options();
        let own = Own {
            margin: options.margin,
            thresholds: options.thresholds,
        };
        (own != Own::NOTHING).then_some(own)
    }
}

impl DataSharing {
    /// Whether the project shares its data.
    pub fn includes(&self, project: &ProjectId) -> bool {
        match self {
            Self::All => true,
            Self::Selected(projects) => projects.binary_search(project).is_ok(),
            Self::Off => false,
        }
    }
}

#[cfg(test)]
mod tests;
