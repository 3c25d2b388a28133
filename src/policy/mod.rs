//! Who gets what: pools, tiers and organizations, in one immutable, validated snapshot.
//!
//! Rules: docs/CONTRACT.md, "The programme" and the order of the billed reasons. [`Assessor`] alone judges
//! eligibility. The store decides whether an eligible request still fits. `schema.rs` has the policy file's schema,
//! `watch.rs` reloads the file while the service runs.

mod diff;
mod margins;
mod schema;
mod warnings;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use self::margins::{Margins, OwnTerms};
pub use self::{
    diff::{Diff, Truncated},
    schema::MAX_BYTES,
    watch::{PolicySource, PolicyStatus},
};
use crate::{
    domain::{
        BilledReason, Eligibility, Margin, ModelCapacity, ModelName, OrgId, Overflow, PoolName,
        ProjectId, RequestFields, Terms, UtcDay, Workload,
    },
    files::toml::Diagnostic,
};

/// The name of the built-in policy in logs and errors.
pub const BUILTIN_NAME: &str = "built-in";

const BUILTIN_TEXT: &str = include_str!("builtin.toml");

/// A validated policy. Look-ups cost the same with ten organizations and with 100,000.
#[derive(Debug)]
pub struct Policy {
    /// The rules for all organizations.
    pub program: Program,
    /// The pools, ordered by name.
    pub pools: Vec<PoolName>,
    models: HashMap<ModelName, PoolName>,
    /// The capacities of models that the policy states, listed in a pool or not.
    capacities: HashMap<ModelName, ModelCapacity>,
    /// The terms of each tier.
    pub tiers: BTreeMap<u8, Arc<Terms>>,
    margins: Margins,
    /// The terms of organizations with margins of their own.
    own_terms: OwnTerms,
    /// An allowance of 0 in every pool.
    no_terms: Arc<Terms>,
    /// The organizations.
    pub orgs: HashMap<OrgId, Organization>,
    lints: Lints,
}

/// The parser's findings that can lead to warnings.
#[derive(Debug, Default)]
struct Lints {
    /// Warnings about models' names.
    models: Vec<Diagnostic>,
    /// The line of `ends_on`.
    ends_on_line: usize,
    /// The line of `as_of`.
    as_of_line: usize,
}

/// The rules for all organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The programme's name.
    pub name: String,
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
    /// Its own margin, in place of the pools' and the programme's.
    pub margin: Option<Margin>,
}

/// Which projects of an organization share their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSharing {
    /// All of them.
    All,
    /// These.
    Selected(HashSet<ProjectId>),
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

    /// The pool that lists the model, by its exact name.
    pub fn pool_of(&self, model: &ModelName) -> Option<&PoolName> {
        self.models.get(model)
    }

    /// How many models a pool lists.
    pub fn model_count(&self, pool: &PoolName) -> usize {
        self.models.values().filter(|it| *it == pool).count()
    }

    /// The capacity of a model, by its exact name; the default if the policy does not state it.
    pub fn capacity(&self, model: &str) -> ModelCapacity {
        self.capacities.get(model).copied().unwrap_or_default()
    }

    /// The programme's margin, if it has one.
    pub fn program_margin(&self) -> Option<Margin> {
        self.margins.program
    }

    /// How many models' capacities the policy states.
    pub fn capacity_count(&self) -> usize {
        self.capacities.len()
    }

    /// The enrollment of an organization on a day; `None` if the policy doesn't know it.
    pub fn enrollment(&self, org: &OrgId, day: UtcDay) -> Option<Enrollment> {
        self.orgs.get(org).map(|org| self.enrollment_of(org, day))
    }

    /// Assesses an organization's requests on a day.
    pub fn assessor(&self, org: &OrgId, day: UtcDay) -> Assessor<'_> {
        let org = self.orgs.get(org);
        Assessor {
            policy: self,
            org: org.map(|org| (org, self.enrollment_of(org, day))),
        }
    }

    fn enrollment_of(&self, org: &Organization, day: UtcDay) -> Enrollment {
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
        let terms = match (not_enrolled, org.margin) {
            (Some(_), _) => &self.no_terms,
            (None, Some(margin)) => &self.own_terms[&(org.tier, margin)],
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
        let program = &self.policy.program;
        let ineligible = if enrollment.not_enrolled.is_some() {
            enrollment.not_enrolled
        } else if !org.data_sharing.includes(&request.project) {
            Some(BilledReason::ProjectNotSharing)
        } else if !program.covered_workloads.contains(&request.workload) {
            Some(BilledReason::WorkloadNotCovered)
        } else if request.model.is_fine_tuned() {
            Some(BilledReason::FineTunedModel)
        } else {
            None
        };
        match (ineligible, self.policy.pool_of(&request.model)) {
            (Some(reason), _) => Eligibility::Ineligible(reason),
            (None, Some(pool)) => Eligibility::Eligible(pool.clone()),
            (None, None) => Eligibility::Ineligible(BilledReason::ModelNotCovered),
        }
    }
}

impl DataSharing {
    /// Whether the project shares its data.
    pub fn includes(&self, project: &ProjectId) -> bool {
        match self {
            Self::All => true,
            Self::Selected(projects) => projects.contains(project),
            Self::Off => false,
        }
    }
}

#[cfg(test)]
mod tests;
