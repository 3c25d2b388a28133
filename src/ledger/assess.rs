//! From what callers ask to operations for the store, with what the policy says of them.

use std::{collections::HashMap, sync::Arc};

use super::ReserveCall;
use crate::{
    domain::{BilledReason, Eligibility, OrgId, Terms, UtcDay},
    policy::Policy,
    store::{Batch, Operation, Recording},
};

/// Requests of one organization, and their places among all that were asked together.
pub(super) struct Group {
    pub(super) org: OrgId,
    pub(super) at: Vec<usize>,
    pub(super) operations: Vec<Operation>,
}

/// Splits what is asked together by organization, and by how many the store takes at a time.
pub(super) fn groups(calls: Vec<ReserveCall>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut latest: HashMap<OrgId, usize> = HashMap::new();
    for (at, call) in calls.into_iter().enumerate() {
        let (org, operation) = operation(call);
        let known = latest.get(&org).copied();
        let known = known.filter(|it| groups[*it].operations.len() < Batch::MOST_OPERATIONS);
        let group = known.unwrap_or_else(|| {
            latest.insert(org.clone(), groups.len());
            let (at, operations) = (Vec::new(), Vec::new());
            groups.push(Group {
                org,
                at,
                operations,
            });
            groups.len() - 1
        });
        groups[group].at.push(at);
        groups[group].operations.push(operation);
    }
    groups
}

/// A Reserve, before it is assessed.
pub(super) fn operation(call: ReserveCall) -> (OrgId, Operation) {
    let ReserveCall {
        org,
        fields,
        request_id,
        dry_run,
    } = call;
    let recording = if dry_run {
        Recording::DryRun
    } else {
        Recording::Stranger
    };
    let operation = Operation::Reserve {
        request_id: request_id.filter(|_| !dry_run),
        fields,
        eligibility: Eligibility::Ineligible(BilledReason::OrganizationNotEnrolled),
        is_listed: false,
        recording,
    };
    (org, operation)
}

/// Writes into Reserves what the policy says of them on a day, and gives the organization's terms.
/// Settle and Release are decided on a reservation, whatever the policy knows by now.
pub(super) fn assess(
    policy: &Policy,
    org: &OrgId,
    day: UtcDay,
    operations: &mut [Operation],
) -> Arc<Terms> {
    let assessor = policy.assessor(org, day);
    for operation in operations {
        if let Operation::Reserve {
            fields,
            eligibility,
            is_listed,
            recording,
            ..
        } = operation
        {
            *is_listed = policy.pool_of(&fields.model).is_some();
            *eligibility = assessor.eligibility(fields);
            if *recording != Recording::DryRun {
                *recording = if assessor.knows_org() {
                    Recording::Record
                } else {
                    Recording::Stranger
                };
            }
        }
    }
    assessor.terms()
}
