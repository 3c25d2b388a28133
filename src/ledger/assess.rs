//! Assessment: forms the batch of one organization's requests, with their eligibility under the policy.

use super::api::{Request, Reserve};
use crate::{
    domain::{OrgId, UtcDay},
    policy::{Assessor, Policy},
    store::{Batch, Operation, Recording},
};

/// Forms the batch of one organization's requests on a day.
pub(super) fn assess(
    policy: &Policy,
    org: OrgId,
    day: UtcDay,
    requests: impl IntoIterator<Item = Request>,
) -> Batch {
    let assessor = policy.assessor(&org, day);
    let operations = requests.into_iter().map(|request| match request {
        Request::Reserve(request) => reserve(policy, &assessor, request),
        Request::Assessed(operation) => operation,
    });
    Batch {
        day,
        terms: assessor.terms(),
        operations: operations.collect(),
        org,
    }
}

/// Assesses a batch again for another day. Nothing of it may have been written.
pub(super) fn reassess(policy: &Policy, day: UtcDay, batch: Batch) -> Batch {
    let org = batch.org.clone();
    let operations = batch.operations.into_iter();
    let requests = operations.map(|operation| match operation {
        Operation::Reserve {
            request_id,
            fields,
            recording,
            has_run,
            ..
        } => Request::Reserve(Reserve {
            org: org.clone(),
            fields,
            request_id,
            dry_run: recording == Recording::DryRun,
            has_run,
        }),
        operation => Request::Assessed(operation),
    });
    assess(policy, batch.org, day, requests)
}

fn reserve(policy: &Policy, assessor: &Assessor<'_>, request: Reserve) -> Operation {
    Operation::Reserve {
        request_id: request.request_id,
        eligibility: assessor.eligibility(&request.fields),
        is_listed: policy.history_pool(&request.fields.model).is_some(),
        recording: match (request.dry_run, assessor.knows_org()) {
            (true, _) => Recording::DryRun,
            (false, true) => Recording::Record,
            (false, false) => Recording::Stranger,
        },
        fields: request.fields,
        has_run: request.has_run,
    }
}
