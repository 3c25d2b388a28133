//! Conversion between the proto's messages and the domain's values.

use chrono::{DateTime, Utc};
use tonic::Status;

use super::{
    authorization::Permit,
    proto::{
        self, DriftTokens, EstimateRequest, EstimateResponse, GetQuotaResponse, PoolQuota,
        ReleaseRequest, ReleaseResponse, ReserveRequest, ReserveResponse, SetExternalUsageRequest,
        SetExternalUsageResponse, SettleRequest, SettleResponse, ShareQuota,
    },
};
use crate::{
    domain::{
        BilledReason, ComparisonResult, ExternalSource, InvalidField, ModelCapacity, ModelName,
        OrgId, PoolCounters, PoolName, ProjectId, RequestFields, RequestId, ShareBalance, ShareId,
        Tokens, Verdict, Workload, ids::check_note,
    },
    estimate::{self, Endpoint, Estimate, EstimateBasis, EstimateError},
    ledger::{
        ComparedDay, ExternalUsageSet, Quota, Released, Reserve, Reserved, SetExternalUsage,
        Settle, Settled,
    },
    store::PoolBalance,
};

const DEFAULT_PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1000;

pub(super) fn reserve(request: ReserveRequest, permit: &Permit) -> Result<Reserve, Status> {
    let org = org(request.org, permit)?;
    let workload = workload(request.workload)?;
    let request_id = match request.request_id {
        // A dry run has no id.
        id if id.is_empty() || request.dry_run => None,
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
        has_run: false,
    })
}

pub(super) fn settle(request: SettleRequest, permit: &Permit) -> Result<Settle, Status> {
    Ok(Settle {
        org: org(request.org, permit)?,
        request_id: RequestId::parse(request.request_id).map_err(invalid)?,
        tokens: Tokens::of_settle(request.tokens).map_err(invalid)?,
        outside_program: request.outside_program,
    })
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

pub(super) fn set_external_usage(
    request: SetExternalUsageRequest,
    permit: &Permit,
) -> Result<SetExternalUsage, Status> {
    let org = org(request.org, permit)?;
    check_note(&request.note).map_err(invalid)?;
    Ok(SetExternalUsage {
        org,
        pool: PoolName::parse(request.pool).map_err(invalid)?,
        source: ExternalSource::Manual,
        tokens: Tokens::of_external_usage(request.tokens).map_err(invalid)?,
        note: request.note,
        caller: permit.caller().map(str::to_owned),
    })
}

/// A size beyond the maximum counts as the maximum: only a negative one is an error.
pub(super) fn page_size(size: i32) -> Result<usize, Status> {
    match usize::try_from(size) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(faulty(
            "page_size",
            format!("is {size}, and must not be negative"),
        )),
    }
}

/// Parses an organization's name, and checks that the caller may act for it.
pub(crate) fn org(org: String, permit: &Permit) -> Result<OrgId, Status> {
    let org = OrgId::parse(org).map_err(invalid)?;
    permit.covers(&org)?;
    Ok(org)
}

/// Estimates the request that the message has.
pub(super) fn estimate(
    request: &EstimateRequest,
    capacity: impl Fn(&str) -> ModelCapacity,
    covers: impl Fn(Workload) -> bool,
) -> Result<EstimateResponse, Status> {
    let model = Some(&*request.model).filter(|model| !model.is_empty());
    let endpoint = Endpoint::of_path(&request.path);
    let estimate =
        endpoint.and_then(|it| estimate::estimate(it, &request.body, model, capacity, covers));
    let invalid = |error: EstimateError| Status::invalid_argument(error.to_string());
    Ok(estimate.map_err(invalid)?.into())
}

impl From<Estimate> for EstimateResponse {
    fn from(estimate: Estimate) -> Self {
        let basis = match estimate.basis {
            EstimateBasis::TextBytes => proto::EstimateBasis::TextBytes,
            EstimateBasis::ContextWindow => proto::EstimateBasis::ContextWindow,
        };
        let workload = match estimate.workload {
            Workload::Inference => proto::Workload::Inference,
            Workload::HostedTool => proto::Workload::HostedTool,
            Workload::FineTuning => proto::Workload::FineTuning,
            Workload::Evaluation => proto::Workload::Evaluation,
            Workload::Batch => proto::Workload::Batch,
            Workload::FunctionCalling => proto::Workload::FunctionCalling,
            Workload::Flex => proto::Workload::Flex,
            Workload::Priority => proto::Workload::Priority,
        };
        Self {
            tokens: estimate.tokens.get(),
            input_tokens: estimate.input_tokens,
            output_tokens: estimate.output_tokens,
            basis: basis.into(),
            model: estimate.model.to_string(),
            workload: workload.into(),
            output_capped: estimate.output_capped,
        }
    }
}

fn workload(number: i32) -> Result<Workload, Status> {
    let workload = proto::Workload::try_from(number)
        .map_err(|_| faulty("workload", format!("has no value of number {number}")))?;
    Ok(match workload {
        proto::Workload::Unspecified | proto::Workload::Inference => Workload::Inference,
        proto::Workload::HostedTool => Workload::HostedTool,
        proto::Workload::FineTuning => Workload::FineTuning,
        proto::Workload::Evaluation => Workload::Evaluation,
        proto::Workload::Batch => Workload::Batch,
        proto::Workload::FunctionCalling => Workload::FunctionCalling,
        proto::Workload::Flex => Workload::Flex,
        proto::Workload::Priority => Workload::Priority,
    })
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

pub(super) fn external_usage_response(set: ExternalUsageSet) -> SetExternalUsageResponse {
    let external_tokens = set.pool.external.get();
    let (pool, allowance, used, remaining) = balance_fields(Some(set.pool));
    SetExternalUsageResponse {
        previous_tokens: set.before.get(),
        external_tokens,
        pool,
        allowance,
        used,
        remaining,
        resets_at: Some(timestamp(set.resets_at)),
    }
}

pub(super) fn quota_response(
    org: &OrgId,
    quota: Quota,
    comparisons: &[ComparedDay],
) -> GetQuotaResponse {
    let enrollment = quota.enrollment;
    let pools = quota.pools.into_iter().map(|(balance, counters)| {
        let shares = share_quotas(&quota.shares, &balance.pool);
        PoolQuota {
            shares,
            ..pool_quota((balance, counters))
        }
    });
    GetQuotaResponse {
        org: org.to_string(),
        tier: u32::from(enrollment.tier),
        enrolled: enrollment.not_enrolled.is_none(),
        not_enrolled_reason: not_enrolled_number(enrollment.not_enrolled),
        day: quota.day.to_string(),
        resets_at: Some(timestamp(quota.resets_at)),
        pools: pools.collect(),
        comparisons: day_comparisons(comparisons),
    }
}

/// How days were compared with the provider.
pub(super) fn day_comparisons(days: &[ComparedDay]) -> Vec<proto::DayComparison> {
    let days = days.iter().map(|(day, comparison)| {
        let drift = comparison.drift.iter();
        let drift = drift.map(|(kind, tokens)| DriftTokens {
            kind: kind.name().to_owned(),
            tokens: tokens.get(),
        });
        proto::DayComparison {
            day: day.to_string(),
            compared_at: Some(timestamp(comparison.compared_at)),
            result: comparison_result(comparison.result).into(),
            drift: drift.collect(),
        }
    });
    days.collect()
}

pub(crate) fn comparison_result(result: ComparisonResult) -> proto::ComparisonResult {
    match result {
        ComparisonResult::Agrees => proto::ComparisonResult::Agrees,
        ComparisonResult::Drifts => proto::ComparisonResult::Drifts,
        ComparisonResult::Unknown => proto::ComparisonResult::Unknown,
    }
}

/// The number of the reason why an organization is not enrolled, if it is not.
pub(super) fn not_enrolled_number(why: Option<BilledReason>) -> i32 {
    why.map_or(proto::BilledReason::Unspecified, reason).into()
}

/// A pool without its shares.
pub(super) fn pool_quota((balance, counters): (PoolBalance, PoolCounters)) -> PoolQuota {
    PoolQuota {
        pool: balance.pool.to_string(),
        allowance: balance.allowance.get(),
        used: balance.used.get(),
        remaining: balance.remaining().get(),
        billed_tokens: counters.billed_tokens.get(),
        free_requests: counters.free_requests,
        billed_requests: counters.billed_requests,
        held_tokens: counters.held.get(),
        closed: balance.is_closed,
        margin_tokens: balance.margin.get(),
        external_tokens: balance.external.get(),
        shares: Vec::new(),
    }
}

fn share_quotas(shares: &[(ShareId, ShareBalance)], pool: &PoolName) -> Vec<ShareQuota> {
    let of_pool = shares.iter().filter(|(id, _)| id.pool == *pool);
    let of_pool = of_pool.map(|(id, balance)| ShareQuota {
        project: id.project.to_string(),
        share: balance.share.get(),
        used: balance.used.get(),
        remaining: balance.remaining().get(),
    });
    of_pool.collect()
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
        BilledReason::RanOutsideProgram => proto::BilledReason::RanOutsideProgram,
        BilledReason::ShareExceeded => proto::BilledReason::ShareExceeded,
    }
}

pub(super) fn timestamp(moment: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.timestamp(),
        nanos: 0,
    }
}

pub(super) fn faulty(field: &'static str, fault: impl Into<String>) -> Status {
    let fault = fault.into();
    invalid(InvalidField { field, fault })
}

/// The status of a field that is out of bounds.
pub(crate) fn invalid(invalid: InvalidField) -> Status {
    Status::invalid_argument(invalid.to_string())
}
