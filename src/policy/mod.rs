//! Who gets what: pools, tiers and organizations, in one immutable, validated snapshot.
//!
//! Rules: docs/CONTRACT.md, "The programme" and the order of the billed reasons. [`Policy::assess`]
//! is the one place that judges eligibility; whether an eligible request still fits, the store
//! decides. `file.rs` reads and validates the policy file.

mod file;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    document::Faults,
    domain::{
        BilledReason, Eligibility, ModelName, OrgId, Overflow, PoolName, ProjectId, RequestFields,
        Terms, UtcDay, Workload,
    },
};

/// The name under which the built-in policy is reported.
pub const BUILTIN_NAME: &str = "built-in";

/// A validated policy. Look-ups cost the same with ten organizations and with 100,000.
#[derive(Debug)]
pub struct Policy {
    program: Program,
    pools: Vec<PoolName>,
    models: HashMap<ModelName, PoolName>,
    tiers: BTreeMap<u8, Arc<Terms>>,
    /// An allowance of 0 in every pool.
    nothing: Arc<Terms>,
    orgs: HashMap<OrgId, Organization>,
}

/// What holds for all organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The programme's name.
    pub name: String,
    /// What an overflow does to a pool.
    pub overflow: Overflow,
    /// The kinds of work that can be free.
    pub covered_workloads: Vec<Workload>,
    /// The last free day; none while no end is announced.
    pub ends_on: Option<UtcDay>,
}

/// What the policy knows of one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// The usage tier, 1 to 5.
    pub tier: u8,
    /// Which projects share their data.
    pub data_sharing: DataSharing,
    /// With Zero Data Retention nothing is shared.
    pub zero_data_retention: bool,
    /// Enterprise plans are not in the programme.
    pub enterprise: bool,
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

/// Where an organization stands today.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The usage tier, 1 to 5.
    pub tier: u8,
    /// Why nothing of it can be free today, where that is so.
    pub not_enrolled: Option<BilledReason>,
    /// What it is granted in each pool; nothing where it is not enrolled.
    pub terms: Arc<Terms>,
}

/// What the policy says of one request.
#[derive(Debug, Clone)]
pub struct Assessment {
    /// Whether the policy knows the organization. A stranger's requests are not counted.
    pub known: bool,
    /// Whether the request can be free, and in which pool.
    pub eligibility: Eligibility,
    /// What the organization is granted in each pool.
    pub terms: Arc<Terms>,
}

impl Policy {
    /// The programme of docs/CONTRACT.md with a demo organization, `org-demo`.
    ///
    /// # Panics
    ///
    /// Never: the text is part of the program, and a test reads it.
    #[must_use]
    pub fn builtin() -> Self {
        Self::parse(BUILTIN_NAME, include_str!("builtin.toml"))
            .expect("the built-in policy is valid, as a test shows")
    }

    /// Reads a policy file's text. It is taken whole or not at all.
    ///
    /// # Errors
    ///
    /// Every fault in it, with line and key; `file` names it there.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        crate::document::read(file, text, file::policy)
    }

    /// What holds for all organizations.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The pools, ordered by name.
    #[must_use]
    pub fn pools(&self) -> &[PoolName] {
        &self.pools
    }

    /// What each tier is granted.
    #[must_use]
    pub fn tiers(&self) -> &BTreeMap<u8, Arc<Terms>> {
        &self.tiers
    }

    /// The organizations, in no particular order.
    #[must_use]
    pub fn orgs(&self) -> &HashMap<OrgId, Organization> {
        &self.orgs
    }

    /// The pool that lists the model, by its exact name.
    #[must_use]
    pub fn pool_of(&self, model: &ModelName) -> Option<&PoolName> {
        self.models.get(model)
    }

    /// How many models a pool lists.
    #[must_use]
    pub fn model_count(&self, pool: &PoolName) -> usize {
        self.models
            .values()
            .filter(|listed| *listed == pool)
            .count()
    }

    /// Where an organization stands on a day; `None` where the policy doesn't know it.
    #[must_use]
    pub fn standing(&self, org: &OrgId, day: UtcDay) -> Option<Standing> {
        self.orgs.get(org).map(|org| self.standing_of(org, day))
    }

    /// What the organization is granted on a day; nothing where it is unknown or not enrolled.
    #[must_use]
    pub fn terms(&self, org: &OrgId, day: UtcDay) -> Arc<Terms> {
        self.standing(org, day)
            .map_or_else(|| Arc::clone(&self.nothing), |it| it.terms)
    }

    /// Judges eligibility, in the order of the billed reasons.
    #[must_use]
    pub fn assess(&self, org: &OrgId, request: &RequestFields, day: UtcDay) -> Assessment {
        let Some(org) = self.orgs.get(org) else {
            return Assessment {
                known: false,
                eligibility: Eligibility::Ineligible(BilledReason::OrganizationNotEnrolled),
                terms: Arc::clone(&self.nothing),
            };
        };
        let standing = self.standing_of(org, day);
        let ineligible = if standing.not_enrolled.is_some() {
            standing.not_enrolled
        } else if !org.data_sharing.includes(&request.project) {
            Some(BilledReason::ProjectNotSharing)
        } else if !self.program.covered_workloads.contains(&request.workload) {
            Some(BilledReason::WorkloadNotCovered)
        } else if request.model.is_fine_tuned() {
            Some(BilledReason::FineTunedModel)
        } else {
            None
        };
        let eligibility = match (ineligible, self.pool_of(&request.model)) {
            (Some(reason), _) => Eligibility::Ineligible(reason),
            (None, Some(pool)) => Eligibility::Eligible(pool.clone()),
            (None, None) => Eligibility::Ineligible(BilledReason::ModelNotCovered),
        };
        Assessment {
            known: true,
            eligibility,
            terms: standing.terms,
        }
    }

    fn standing_of(&self, org: &Organization, day: UtcDay) -> Standing {
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
        let terms = match not_enrolled {
            Some(_) => &self.nothing,
            None => &self.tiers[&org.tier],
        };
        Standing {
            tier: org.tier,
            not_enrolled,
            terms: Arc::clone(terms),
        }
    }
}

impl DataSharing {
    /// Whether the project shares its data.
    #[must_use]
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
