//! Conversion of ListExternalChanges (docs/CONTRACT.md, "External usage").

use tonic::Status;

use super::{
    authorization::Permit,
    convert::{self, timestamp},
    proto::{self, ListExternalChangesRequest, ListExternalChangesResponse},
    usage,
};
use crate::{
    domain::{ExternalChange, ExternalSource, OrgId, Tokens, UtcDay},
    ledger::{ExternalChangeList, UsageDays},
};

/// The organization and the days.
pub(super) fn query(
    request: ListExternalChangesRequest,
    permit: &Permit,
) -> Result<(OrgId, UsageDays), Status> {
    let org = convert::org(request.org, permit)?;
    let days = usage::days("", &request.from_day, &request.to_day)?;
    Ok((org, days))
}

pub(super) fn response(list: ExternalChangeList) -> ListExternalChangesResponse {
    let text = |day: UtcDay| day.to_string();
    ListExternalChangesResponse {
        changes: list.changes.into_iter().map(Into::into).collect(),
        from_day: text(list.from_day),
        to_day: text(list.to_day),
        truncated_days: list.truncated_days.into_iter().map(text).collect(),
        next_to_day: list.next_to_day.map(text).unwrap_or_default(),
    }
}

impl From<ExternalChange> for proto::ExternalChange {
    fn from(change: ExternalChange) -> Self {
        let source = match change.source {
            ExternalSource::Manual => proto::ExternalSource::Manual,
            ExternalSource::Reconciled => proto::ExternalSource::Reconciled,
        };
        Self {
            changed_at: Some(timestamp(change.at)),
            pool: change.pool.to_string(),
            source: source.into(),
            before: change.before.unwrap_or(Tokens::ZERO).get(),
            after: change.after.get(),
            caller: change.caller.unwrap_or_default(),
            note: change.note,
            outcome_known: change.before.is_some(),
        }
    }
}
