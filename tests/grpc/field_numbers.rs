//! The numbers of the proto never change: callers are compiled with them.

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tollgate::grpc::proto::DESCRIPTORS;

/// Each enum with its values, numbered from 0.
const ENUMS: &[(&str, &str, &str)] = &[
    ("Verdict", "VERDICT_", "UNSPECIFIED FREE BILLED"),
    (
        "BilledReason",
        "BILLED_REASON_",
        "UNSPECIFIED ORGANIZATION_NOT_ENROLLED ZERO_DATA_RETENTION ENTERPRISE_PLAN PROGRAM_ENDED \
         PROJECT_NOT_SHARING WORKLOAD_NOT_COVERED FINE_TUNED_MODEL MODEL_NOT_COVERED POOL_CLOSED \
         ALLOWANCE_EXCEEDED DAY_CLOSED STORE_UNAVAILABLE RAN_OUTSIDE_PROGRAM SHARE_EXCEEDED",
    ),
    (
        "Workload",
        "WORKLOAD_",
        "UNSPECIFIED INFERENCE HOSTED_TOOL FINE_TUNING EVALUATION BATCH FUNCTION_CALLING FLEX \
         PRIORITY",
    ),
    (
        "EstimateBasis",
        "ESTIMATE_BASIS_",
        "UNSPECIFIED TEXT_BYTES CONTEXT_WINDOW",
    ),
    (
        "ExternalSource",
        "EXTERNAL_SOURCE_",
        "UNSPECIFIED MANUAL RECONCILED",
    ),
    (
        "OrganizationOrder",
        "ORGANIZATION_ORDER_",
        "UNSPECIFIED NAME NEAREST_TO_END",
    ),
    (
        "ComparisonResult",
        "COMPARISON_RESULT_",
        "UNSPECIFIED AGREES DRIFTS UNKNOWN",
    ),
];

/// Each message with its fields, numbered from 1.
const MESSAGES: &[(&str, &str)] = &[
    (
        "ReserveRequest",
        "org project model tokens request_id workload dry_run",
    ),
    (
        "ReserveResponse",
        "verdict billed_reason pool allowance used remaining resets_at replayed",
    ),
    ("ReserveStreamResponse", "reserved error"),
    ("ItemError", "code message"),
    ("SettleRequest", "org request_id tokens outside_program"),
    (
        "SettleResponse",
        "verdict billed_reason verdict_changed pool allowance used remaining resets_at replayed",
    ),
    ("ReleaseRequest", "org request_id"),
    (
        "ReleaseResponse",
        "released_tokens pool allowance used remaining resets_at replayed",
    ),
    ("GetQuotaRequest", "org"),
    (
        "GetQuotaResponse",
        "org tier enrolled not_enrolled_reason day resets_at pools comparisons",
    ),
    (
        "PoolQuota",
        "pool allowance used remaining billed_tokens free_requests billed_requests held_tokens closed \
         margin_tokens external_tokens shares",
    ),
    ("ShareQuota", "project share used remaining"),
    (
        "ListUsageRequest",
        "org day page_size page_token from_day to_day",
    ),
    (
        "ListUsageResponse",
        "day rows next_page_token from_day to_day comparisons",
    ),
    ("EstimateRequest", "path body model"),
    (
        "EstimateResponse",
        "tokens input_tokens output_tokens basis model workload output_capped",
    ),
    ("SetExternalUsageRequest", "org pool tokens note"),
    (
        "SetExternalUsageResponse",
        "previous_tokens external_tokens pool allowance used remaining resets_at",
    ),
    ("ListExternalChangesRequest", "org from_day to_day"),
    (
        "ListExternalChangesResponse",
        "changes from_day to_day truncated_days next_to_day",
    ),
    (
        "ExternalChange",
        "changed_at pool source before after caller note outcome_known",
    ),
    (
        "ListOrganizationsRequest",
        "page_size page_token query order",
    ),
    (
        "OrganizationSummary",
        "org tier enrolled not_enrolled_reason pools as_of comparisons",
    ),
    (
        "ListOrganizationsResponse",
        "organizations next_page_token total",
    ),
    (
        "UsageRow",
        "project model pool free_tokens billed_tokens free_requests billed_requests day provider",
    ),
    ("DayComparison", "day compared_at result drift"),
    ("DriftTokens", "kind tokens"),
    ("ProviderUsage", "free_tokens billed_tokens"),
];

fn file() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = |file: &FileDescriptorProto| file.package() == "tollgate.v1";
    set.file.into_iter().find(ours).unwrap()
}

#[test]
fn the_numbers_of_the_enums_are_frozen() {
    let file = file();
    for (name, prefix, values) in ENUMS {
        let found = file.enum_type.iter().find(|it| it.name() == *name).unwrap();
        for (number, value) in (0..).zip(values.split_whitespace()) {
            let value = format!("{prefix}{value}");
            let found = found.value.iter().find(|it| it.name() == value);
            assert_eq!(found.map(|it| it.number()), Some(number), "{value}");
        }
    }
}

#[test]
fn the_numbers_of_the_fields_are_frozen() {
    let file = file();
    for (name, fields) in MESSAGES {
        let found = file
            .message_type
            .iter()
            .find(|it| it.name() == *name)
            .unwrap();
        for (number, field) in (1..).zip(fields.split_whitespace()) {
            let found = found.field.iter().find(|it| it.name() == field);
            assert_eq!(found.map(|it| it.number()), Some(number), "{name}.{field}");
        }
    }
}
