//! Assessment: forms the batch of one organization's requests, with their eligibility under the policy.

use super::api::Request;
use crate::{
    domain::{OrgId, UtcDay},
    policy::{Assessor, Policy},
    store::{Batch, Operation, Recording},
};

/// Forms the batch of one organization's requests on a day. Settle and Release depend on their reservation
/// alone, not on the policy.
pub(super) fn assess(
    policy: &Policy,
    org: OrgId,
    day: UtcDay,
    requests: impl IntoIterator<Item = Request>,
) -> Batch {
    let assessor = policy.assessor(&org, day);
    let operations = requests
        .into_iter()
        .map(|request| operation(policy, &assessor, request))
        .collect();
    Batch {
        day,
        terms: assessor.terms(),
        operations,
        org,
    }
}

/// Assesses a batch again for another day. Nothing of it may have been written.
pub(super) fn reassess(policy: &Policy, day: UtcDay, batch: Batch) -> Batch {
    let requests = batch.operations.into_iter().map(Request::from);
    assess(policy, batch.org, day, requests)
}

fn operation(policy: &Policy, assessor: &Assessor<'_>, request: Request) -> Operation {
    match request {
        Request::Reserve {
            fields,
            request_id,
            dry_run,
        } => Operation::Reserve {
            request_id: request_id.filter(|_| !dry_run),
            eligibility: assessor.eligibility(&fields),
            is_listed: policy.pool_of(&fields.model).is_some(),
            recording: match (dry_run, assessor.knows_org()) {
                (true, _) => Recording::DryRun,
                (false, true) => Recording::Record,
                (false, false) => Recording::Stranger,
            },
            fields,
        },
        Request::Settle { request_id, tokens } => Operation::Settle { request_id, tokens },
        Request::Release { request_id } => Operation::Release { request_id },
    }
}

impl From<Operation> for Request {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                recording,
                ..
            } => Self::Reserve {
                fields,
                request_id,
                dry_run: recording == Recording::DryRun,
            },
            Operation::Settle { request_id, tokens } => Self::Settle { request_id, tokens },
            Operation::Release { request_id } => Self::Release { request_id },
        }
    }
}
