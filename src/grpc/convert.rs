//! Conversion between the proto's messages and the domain's values.

use chrono::{DateTime, Utc};
use tonic::Status;

use super::{
    authorization::Permit,
    page_token::PageToken,
    proto::{
        self, GetQuotaResponse, ListUsageRequest, ListUsageResponse, PoolQuota, ReleaseRequest,
        ReleaseResponse, ReserveRequest, ReserveResponse, SettleRequest, SettleResponse,
    },
};
use crate::{
    domain::{
        BilledReason, InvalidField, ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens,
        UtcDay, Verdict, Workload,
    },
    ledger::{Quota, Released, Reserve, Reserved, Settled, Usage, UsagePage},
    store::PoolBalance,
};

const DEFAULT_PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1000;

pub(super) fn reserve(request: ReserveRequest, permit: &Permit) -> Result<Reserve, Status> {
    let org = org(request.org, permit)?;
    let workload = workload(request.workload)?;
    let request_id = match request.request_id {
        id if id.is_empty() => None,
        id => Some(RequestId::parse(id).map_err(invalid)?),
    };
    Ok(Reserve {
        org,
        fields: RequestFields {
            project: ProjectId::parse(request.project).map_err(invalid)?,
            model: ModelName::parse(request.model).map_err(invalid)?,
            tokens: Tokens::of_reserve(request.tokens).map_err(invalid)?,
            workload,
        },
        request_id,
        dry_run: request.dry_run,
    })
}

pub(super) fn settle(
    request: SettleRequest,
    permit: &Permit,
) -> Result<(OrgId, RequestId, Tokens), Status> {
    let org = org(request.org, permit)?;
    let request_id = RequestId::parse(request.request_id).map_err(invalid)?;
    let tokens = Tokens::of_settle(request.tokens).map_err(invalid)?;
    Ok((org, request_id, tokens))
}

pub(super) fn release(
    request: ReleaseRequest,
    permit: &Permit,
) -> Result<(OrgId, RequestId), Status> {
    Ok((
        org(request.org, permit)?,
        RequestId::parse(request.request_id).map_err(invalid)?,
    ))
}

pub(super) fn usage_page(
    request: ListUsageRequest,
    permit: &Permit,
) -> Result<(OrgId, UsagePage), Status> {
    let org = org(request.org, permit)?;
    let day = match request.day.as_str() {
        "" => None,
        day => Some(UtcDay::parse(day).map_err(invalid)?),
    };
    let token = PageToken::decode(&request.page_token, &org, day).map_err(invalid)?;
    // A size beyond the maximum counts as the maximum: only a negative one is an error.
    let size = usize::try_from(request.page_size).map_err(|_| {
        invalid(InvalidField {
            field: "page_size",
            fault: format!("is {}, and must not be negative", request.page_size),
        })
    })?;
    let size = if size == 0 {
        DEFAULT_PAGE_SIZE
    } else {
        size.min(MAX_PAGE_SIZE)
    };
    let (day, after) = match token {
        Some(PageToken {
            day,
            project,
            model,
        }) => (Some(day), Some((project, model))),
        None => (day, None),
    };
    Ok((org, UsagePage { day, after, size }))
}

/// Parses an organization's name, and checks that the caller may act for it.
pub(super) fn org(org: String, permit: &Permit) -> Result<OrgId, Status> {
    let org = OrgId::parse(org).map_err(invalid)?;
    permit.covers(&org)?;
    Ok(org)
}

fn workload(number: i32) -> Result<Workload, Status> {
    match proto::Workload::try_from(number) {
        Ok(proto::Workload::Unspecified | proto::Workload::Inference) => Ok(Workload::Inference),
        Ok(proto::Workload::HostedTool) => Ok(Workload::HostedTool),
        Ok(proto::Workload::FineTuning) => Ok(Workload::FineTuning),
        Ok(proto::Workload::Evaluation) => Ok(Workload::Evaluation),
        Err(_) => Err(invalid(InvalidField {
            field: "workload",
            fault: format!("has no value of number {number}"),
        })),
    }
}

pub(super) fn reserve_response(reserved: Reserved) -> ReserveResponse {
    let (verdict, billed_reason) = verdict_numbers(reserved.verdict);
    let (pool, allowance, used, remaining) = balance_fields(reserved.pool);
    ReserveResponse {
        verdict,
        billed_reason,
        pool,
        allowance,
        used,
        remaining,
        resets_at: Some(timestamp(reserved.resets_at)),
        replayed: reserved.replayed,
    }
}

pub(super) fn settle_response(settled: Settled) -> SettleResponse {
    let (verdict, billed_reason) = verdict_numbers(settled.verdict);
    let (pool, allowance, used, remaining) = balance_fields(settled.pool);
    SettleResponse {
        verdict,
        billed_reason,
        verdict_changed: settled.verdict_changed,
        pool,
        allowance,
        used,
        remaining,
        resets_at: Some(timestamp(settled.resets_at)),
        replayed: settled.replayed,
    }
}

pub(super) fn release_response(released: Released) -> ReleaseResponse {
    let (pool, allowance, used, remaining) = balance_fields(released.pool);
    ReleaseResponse {
        released_tokens: released.tokens.get(),
        pool,
        allowance,
        used,
        remaining,
        resets_at: Some(timestamp(released.resets_at)),
        replayed: released.replayed,
    }
}

pub(super) fn quota_response(org: &OrgId, quota: Quota) -> GetQuotaResponse {
    let Quota {
        enrollment,
        day,
        resets_at,
        pools,
    } = quota;
    let not_enrolled = enrollment
        .not_enrolled
        .map_or(proto::BilledReason::Unspecified, reason);
    let pools = pools.into_iter().map(|(balance, counters)| PoolQuota {
        pool: balance.pool.to_string(),
        allowance: balance.allowance.get(),
        used: balance.used.get(),
        remaining: balance.remaining().get(),
        billed_tokens: counters.billed_tokens.get(),
        free_requests: counters.free_requests,
        billed_requests: counters.billed_requests,
        held_tokens: counters.held.get(),
        closed: balance.is_closed,
    });
    GetQuotaResponse {
        org: org.to_string(),
        tier: u32::from(enrollment.tier),
        enrolled: enrollment.not_enrolled.is_none(),
        not_enrolled_reason: not_enrolled.into(),
        day: day.to_string(),
        resets_at: Some(timestamp(resets_at)),
        pools: pools.collect(),
    }
}

pub(super) fn usage_response(org: &OrgId, usage: Usage) -> ListUsageResponse {
    let Usage { day, rows, more } = usage;
    let next_page_token = match rows.last() {
        Some(last) if more => {
            let (project, model) = (last.project.clone(), last.model.clone());
            PageToken {
                day,
                project,
                model,
            }
            .encode(org)
        }
        _ => String::new(),
    };
    let rows = rows.into_iter().map(|row| proto::UsageRow {
        project: row.project.to_string(),
        model: row.model.to_string(),
        pool: row.pool.map(|pool| pool.to_string()).unwrap_or_default(),
        free_tokens: row.counters.free_tokens.get(),
        billed_tokens: row.counters.billed_tokens.get(),
        free_requests: row.counters.free_requests,
        billed_requests: row.counters.billed_requests,
    });
    ListUsageResponse {
        day: day.to_string(),
        rows: rows.collect(),
        next_page_token,
    }
}

fn balance_fields(pool: Option<PoolBalance>) -> (String, u64, u64, u64) {
    pool.map_or_else(Default::default, |balance| {
        let remaining = balance.remaining().get();
        (
            balance.pool.to_string(),
            balance.allowance.get(),
            balance.used.get(),
            remaining,
        )
    })
}

fn verdict_numbers(verdict: Verdict) -> (i32, i32) {
    let (verdict, reason) = match verdict {
        Verdict::Free => (proto::Verdict::Free, proto::BilledReason::Unspecified),
        Verdict::Billed(why) => (proto::Verdict::Billed, reason(why)),
    };
    (verdict.into(), reason.into())
}

fn reason(reason: BilledReason) -> proto::BilledReason {
    match reason {
        BilledReason::OrganizationNotEnrolled => proto::BilledReason::OrganizationNotEnrolled,
        BilledReason::ZeroDataRetention => proto::BilledReason::ZeroDataRetention,
        BilledReason::EnterprisePlan => proto::BilledReason::EnterprisePlan,
        BilledReason::ProgramEnded => proto::BilledReason::ProgramEnded,
        BilledReason::ProjectNotSharing => proto::BilledReason::ProjectNotSharing,
        BilledReason::WorkloadNotCovered => proto::BilledReason::WorkloadNotCovered,
        BilledReason::FineTunedModel => proto::BilledReason::FineTunedModel,
        BilledReason::ModelNotCovered => proto::BilledReason::ModelNotCovered,
        BilledReason::PoolClosed => proto::BilledReason::PoolClosed,
        BilledReason::AllowanceExceeded => proto::BilledReason::AllowanceExceeded,
        BilledReason::DayClosed => proto::BilledReason::DayClosed,
        BilledReason::StoreUnavailable => proto::BilledReason::StoreUnavailable,
    }
}

fn timestamp(moment: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.timestamp(),
        nanos: 0,
    }
}

fn invalid(invalid: InvalidField) -> Status {
    Status::invalid_argument(invalid.to_string())
}
