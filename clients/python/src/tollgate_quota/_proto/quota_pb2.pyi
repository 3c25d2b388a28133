import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_FREE: _ClassVar[Verdict]
    VERDICT_BILLED: _ClassVar[Verdict]

class BilledReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BILLED_REASON_UNSPECIFIED: _ClassVar[BilledReason]
    BILLED_REASON_ORGANIZATION_NOT_ENROLLED: _ClassVar[BilledReason]
    BILLED_REASON_ZERO_DATA_RETENTION: _ClassVar[BilledReason]
    BILLED_REASON_ENTERPRISE_PLAN: _ClassVar[BilledReason]
    BILLED_REASON_PROGRAM_ENDED: _ClassVar[BilledReason]
    BILLED_REASON_PROJECT_NOT_SHARING: _ClassVar[BilledReason]
    BILLED_REASON_WORKLOAD_NOT_COVERED: _ClassVar[BilledReason]
    BILLED_REASON_FINE_TUNED_MODEL: _ClassVar[BilledReason]
    BILLED_REASON_MODEL_NOT_COVERED: _ClassVar[BilledReason]
    BILLED_REASON_POOL_CLOSED: _ClassVar[BilledReason]
    BILLED_REASON_ALLOWANCE_EXCEEDED: _ClassVar[BilledReason]
    BILLED_REASON_DAY_CLOSED: _ClassVar[BilledReason]
    BILLED_REASON_STORE_UNAVAILABLE: _ClassVar[BilledReason]
    BILLED_REASON_RAN_OUTSIDE_PROGRAM: _ClassVar[BilledReason]
    BILLED_REASON_SHARE_EXCEEDED: _ClassVar[BilledReason]

class Workload(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKLOAD_UNSPECIFIED: _ClassVar[Workload]
    WORKLOAD_INFERENCE: _ClassVar[Workload]
    WORKLOAD_HOSTED_TOOL: _ClassVar[Workload]
    WORKLOAD_FINE_TUNING: _ClassVar[Workload]
    WORKLOAD_EVALUATION: _ClassVar[Workload]
    WORKLOAD_BATCH: _ClassVar[Workload]
    WORKLOAD_FUNCTION_CALLING: _ClassVar[Workload]
    WORKLOAD_FLEX: _ClassVar[Workload]
    WORKLOAD_PRIORITY: _ClassVar[Workload]

class ComparisonResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARISON_RESULT_UNSPECIFIED: _ClassVar[ComparisonResult]
    COMPARISON_RESULT_AGREES: _ClassVar[ComparisonResult]
    COMPARISON_RESULT_DRIFTS: _ClassVar[ComparisonResult]
    COMPARISON_RESULT_UNKNOWN: _ClassVar[ComparisonResult]

class EstimateBasis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ESTIMATE_BASIS_UNSPECIFIED: _ClassVar[EstimateBasis]
    ESTIMATE_BASIS_TEXT_BYTES: _ClassVar[EstimateBasis]
    ESTIMATE_BASIS_CONTEXT_WINDOW: _ClassVar[EstimateBasis]

class OrganizationOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORGANIZATION_ORDER_UNSPECIFIED: _ClassVar[OrganizationOrder]
    ORGANIZATION_ORDER_NAME: _ClassVar[OrganizationOrder]
    ORGANIZATION_ORDER_NEAREST_TO_END: _ClassVar[OrganizationOrder]

class ExternalSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXTERNAL_SOURCE_UNSPECIFIED: _ClassVar[ExternalSource]
    EXTERNAL_SOURCE_MANUAL: _ClassVar[ExternalSource]
    EXTERNAL_SOURCE_RECONCILED: _ClassVar[ExternalSource]
VERDICT_UNSPECIFIED: Verdict
VERDICT_FREE: Verdict
VERDICT_BILLED: Verdict
BILLED_REASON_UNSPECIFIED: BilledReason
BILLED_REASON_ORGANIZATION_NOT_ENROLLED: BilledReason
BILLED_REASON_ZERO_DATA_RETENTION: BilledReason
BILLED_REASON_ENTERPRISE_PLAN: BilledReason
BILLED_REASON_PROGRAM_ENDED: BilledReason
BILLED_REASON_PROJECT_NOT_SHARING: BilledReason
BILLED_REASON_WORKLOAD_NOT_COVERED: BilledReason
BILLED_REASON_FINE_TUNED_MODEL: BilledReason
BILLED_REASON_MODEL_NOT_COVERED: BilledReason
BILLED_REASON_POOL_CLOSED: BilledReason
BILLED_REASON_ALLOWANCE_EXCEEDED: BilledReason
BILLED_REASON_DAY_CLOSED: BilledReason
BILLED_REASON_STORE_UNAVAILABLE: BilledReason
BILLED_REASON_RAN_OUTSIDE_PROGRAM: BilledReason
BILLED_REASON_SHARE_EXCEEDED: BilledReason
WORKLOAD_UNSPECIFIED: Workload
WORKLOAD_INFERENCE: Workload
WORKLOAD_HOSTED_TOOL: Workload
WORKLOAD_FINE_TUNING: Workload
WORKLOAD_EVALUATION: Workload
WORKLOAD_BATCH: Workload
WORKLOAD_FUNCTION_CALLING: Workload
WORKLOAD_FLEX: Workload
WORKLOAD_PRIORITY: Workload
COMPARISON_RESULT_UNSPECIFIED: ComparisonResult
COMPARISON_RESULT_AGREES: ComparisonResult
COMPARISON_RESULT_DRIFTS: ComparisonResult
COMPARISON_RESULT_UNKNOWN: ComparisonResult
ESTIMATE_BASIS_UNSPECIFIED: EstimateBasis
ESTIMATE_BASIS_TEXT_BYTES: EstimateBasis
ESTIMATE_BASIS_CONTEXT_WINDOW: EstimateBasis
ORGANIZATION_ORDER_UNSPECIFIED: OrganizationOrder
ORGANIZATION_ORDER_NAME: OrganizationOrder
ORGANIZATION_ORDER_NEAREST_TO_END: OrganizationOrder
EXTERNAL_SOURCE_UNSPECIFIED: ExternalSource
EXTERNAL_SOURCE_MANUAL: ExternalSource
EXTERNAL_SOURCE_RECONCILED: ExternalSource

class ReserveRequest(_message.Message):
    __slots__ = ("org", "project", "model", "tokens", "request_id", "workload", "dry_run")
    ORG_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    org: str
    project: str
    model: str
    tokens: int
    request_id: str
    workload: Workload
    dry_run: bool
    def __init__(self, org: _Optional[str] = ..., project: _Optional[str] = ..., model: _Optional[str] = ..., tokens: _Optional[int] = ..., request_id: _Optional[str] = ..., workload: _Optional[_Union[Workload, str]] = ..., dry_run: bool = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("verdict", "billed_reason", "pool", "allowance", "used", "remaining", "resets_at", "replayed")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    BILLED_REASON_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    billed_reason: BilledReason
    pool: str
    allowance: int
    used: int
    remaining: int
    resets_at: _timestamp_pb2.Timestamp
    replayed: bool
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., billed_reason: _Optional[_Union[BilledReason, str]] = ..., pool: _Optional[str] = ..., allowance: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class ReserveStreamResponse(_message.Message):
    __slots__ = ("reserved", "error")
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    reserved: ReserveResponse
    error: ItemError
    def __init__(self, reserved: _Optional[_Union[ReserveResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("org", "request_id", "tokens", "outside_program")
    ORG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_PROGRAM_FIELD_NUMBER: _ClassVar[int]
    org: str
    request_id: str
    tokens: int
    outside_program: bool
    def __init__(self, org: _Optional[str] = ..., request_id: _Optional[str] = ..., tokens: _Optional[int] = ..., outside_program: bool = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ("verdict", "billed_reason", "verdict_changed", "pool", "allowance", "used", "remaining", "resets_at", "replayed")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    BILLED_REASON_FIELD_NUMBER: _ClassVar[int]
    VERDICT_CHANGED_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    billed_reason: BilledReason
    verdict_changed: bool
    pool: str
    allowance: int
    used: int
    remaining: int
    resets_at: _timestamp_pb2.Timestamp
    replayed: bool
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., billed_reason: _Optional[_Union[BilledReason, str]] = ..., verdict_changed: bool = ..., pool: _Optional[str] = ..., allowance: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("org", "request_id")
    ORG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    org: str
    request_id: str
    def __init__(self, org: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("released_tokens", "pool", "allowance", "used", "remaining", "resets_at", "replayed")
    RELEASED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    released_tokens: int
    pool: str
    allowance: int
    used: int
    remaining: int
    resets_at: _timestamp_pb2.Timestamp
    replayed: bool
    def __init__(self, released_tokens: _Optional[int] = ..., pool: _Optional[str] = ..., allowance: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class GetQuotaRequest(_message.Message):
    __slots__ = ("org",)
    ORG_FIELD_NUMBER: _ClassVar[int]
    org: str
    def __init__(self, org: _Optional[str] = ...) -> None: ...

class GetQuotaResponse(_message.Message):
    __slots__ = ("org", "tier", "enrolled", "not_enrolled_reason", "day", "resets_at", "pools", "comparisons")
    ORG_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    NOT_ENROLLED_REASON_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    org: str
    tier: int
    enrolled: bool
    not_enrolled_reason: BilledReason
    day: str
    resets_at: _timestamp_pb2.Timestamp
    pools: _containers.RepeatedCompositeFieldContainer[PoolQuota]
    comparisons: _containers.RepeatedCompositeFieldContainer[DayComparison]
    def __init__(self, org: _Optional[str] = ..., tier: _Optional[int] = ..., enrolled: bool = ..., not_enrolled_reason: _Optional[_Union[BilledReason, str]] = ..., day: _Optional[str] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pools: _Optional[_Iterable[_Union[PoolQuota, _Mapping]]] = ..., comparisons: _Optional[_Iterable[_Union[DayComparison, _Mapping]]] = ...) -> None: ...

class DayComparison(_message.Message):
    __slots__ = ("day", "compared_at", "result", "drift")
    DAY_FIELD_NUMBER: _ClassVar[int]
    COMPARED_AT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    day: str
    compared_at: _timestamp_pb2.Timestamp
    result: ComparisonResult
    drift: _containers.RepeatedCompositeFieldContainer[DriftTokens]
    def __init__(self, day: _Optional[str] = ..., compared_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result: _Optional[_Union[ComparisonResult, str]] = ..., drift: _Optional[_Iterable[_Union[DriftTokens, _Mapping]]] = ...) -> None: ...

class DriftTokens(_message.Message):
    __slots__ = ("kind", "tokens")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    tokens: int
    def __init__(self, kind: _Optional[str] = ..., tokens: _Optional[int] = ...) -> None: ...

class PoolQuota(_message.Message):
    __slots__ = ("pool", "allowance", "used", "remaining", "billed_tokens", "free_requests", "billed_requests", "held_tokens", "closed", "margin_tokens", "external_tokens", "shares")
    POOL_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    BILLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BILLED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    HELD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    MARGIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    pool: str
    allowance: int
    used: int
    remaining: int
    billed_tokens: int
    free_requests: int
    billed_requests: int
    held_tokens: int
    closed: bool
    margin_tokens: int
    external_tokens: int
    shares: _containers.RepeatedCompositeFieldContainer[ShareQuota]
    def __init__(self, pool: _Optional[str] = ..., allowance: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., billed_tokens: _Optional[int] = ..., free_requests: _Optional[int] = ..., billed_requests: _Optional[int] = ..., held_tokens: _Optional[int] = ..., closed: bool = ..., margin_tokens: _Optional[int] = ..., external_tokens: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[ShareQuota, _Mapping]]] = ...) -> None: ...

class ShareQuota(_message.Message):
    __slots__ = ("project", "share", "used", "remaining")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    project: str
    share: int
    used: int
    remaining: int
    def __init__(self, project: _Optional[str] = ..., share: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ...) -> None: ...

class ListUsageRequest(_message.Message):
    __slots__ = ("org", "day", "page_size", "page_token", "from_day", "to_day")
    ORG_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    org: str
    day: str
    page_size: int
    page_token: str
    from_day: str
    to_day: str
    def __init__(self, org: _Optional[str] = ..., day: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., from_day: _Optional[str] = ..., to_day: _Optional[str] = ...) -> None: ...

class ListUsageResponse(_message.Message):
    __slots__ = ("day", "rows", "next_page_token", "from_day", "to_day", "comparisons")
    DAY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    day: str
    rows: _containers.RepeatedCompositeFieldContainer[UsageRow]
    next_page_token: str
    from_day: str
    to_day: str
    comparisons: _containers.RepeatedCompositeFieldContainer[DayComparison]
    def __init__(self, day: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[UsageRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., from_day: _Optional[str] = ..., to_day: _Optional[str] = ..., comparisons: _Optional[_Iterable[_Union[DayComparison, _Mapping]]] = ...) -> None: ...

class UsageRow(_message.Message):
    __slots__ = ("project", "model", "pool", "free_tokens", "billed_tokens", "free_requests", "billed_requests", "day", "provider")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    FREE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BILLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BILLED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    project: str
    model: str
    pool: str
    free_tokens: int
    billed_tokens: int
    free_requests: int
    billed_requests: int
    day: str
    provider: ProviderUsage
    def __init__(self, project: _Optional[str] = ..., model: _Optional[str] = ..., pool: _Optional[str] = ..., free_tokens: _Optional[int] = ..., billed_tokens: _Optional[int] = ..., free_requests: _Optional[int] = ..., billed_requests: _Optional[int] = ..., day: _Optional[str] = ..., provider: _Optional[_Union[ProviderUsage, _Mapping]] = ...) -> None: ...

class ProviderUsage(_message.Message):
    __slots__ = ("free_tokens", "billed_tokens")
    FREE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BILLED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    free_tokens: int
    billed_tokens: int
    def __init__(self, free_tokens: _Optional[int] = ..., billed_tokens: _Optional[int] = ...) -> None: ...

class EstimateRequest(_message.Message):
    __slots__ = ("path", "body", "model")
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    path: str
    body: bytes
    model: str
    def __init__(self, path: _Optional[str] = ..., body: _Optional[bytes] = ..., model: _Optional[str] = ...) -> None: ...

class EstimateResponse(_message.Message):
    __slots__ = ("tokens", "input_tokens", "output_tokens", "basis", "model", "workload", "output_capped")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_CAPPED_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    input_tokens: int
    output_tokens: int
    basis: EstimateBasis
    model: str
    workload: Workload
    output_capped: bool
    def __init__(self, tokens: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., basis: _Optional[_Union[EstimateBasis, str]] = ..., model: _Optional[str] = ..., workload: _Optional[_Union[Workload, str]] = ..., output_capped: bool = ...) -> None: ...

class SetExternalUsageRequest(_message.Message):
    __slots__ = ("org", "pool", "tokens", "note")
    ORG_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    org: str
    pool: str
    tokens: int
    note: str
    def __init__(self, org: _Optional[str] = ..., pool: _Optional[str] = ..., tokens: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class SetExternalUsageResponse(_message.Message):
    __slots__ = ("previous_tokens", "external_tokens", "pool", "allowance", "used", "remaining", "resets_at")
    PREVIOUS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    previous_tokens: int
    external_tokens: int
    pool: str
    allowance: int
    used: int
    remaining: int
    resets_at: _timestamp_pb2.Timestamp
    def __init__(self, previous_tokens: _Optional[int] = ..., external_tokens: _Optional[int] = ..., pool: _Optional[str] = ..., allowance: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListOrganizationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "query", "order")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    query: str
    order: OrganizationOrder
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., query: _Optional[str] = ..., order: _Optional[_Union[OrganizationOrder, str]] = ...) -> None: ...

class OrganizationSummary(_message.Message):
    __slots__ = ("org", "tier", "enrolled", "not_enrolled_reason", "pools", "as_of", "comparisons")
    ORG_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    NOT_ENROLLED_REASON_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    org: str
    tier: int
    enrolled: bool
    not_enrolled_reason: BilledReason
    pools: _containers.RepeatedCompositeFieldContainer[PoolQuota]
    as_of: _timestamp_pb2.Timestamp
    comparisons: _containers.RepeatedCompositeFieldContainer[DayComparison]
    def __init__(self, org: _Optional[str] = ..., tier: _Optional[int] = ..., enrolled: bool = ..., not_enrolled_reason: _Optional[_Union[BilledReason, str]] = ..., pools: _Optional[_Iterable[_Union[PoolQuota, _Mapping]]] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., comparisons: _Optional[_Iterable[_Union[DayComparison, _Mapping]]] = ...) -> None: ...

class ListOrganizationsResponse(_message.Message):
    __slots__ = ("organizations", "next_page_token", "total")
    ORGANIZATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    organizations: _containers.RepeatedCompositeFieldContainer[OrganizationSummary]
    next_page_token: str
    total: int
    def __init__(self, organizations: _Optional[_Iterable[_Union[OrganizationSummary, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class ListExternalChangesRequest(_message.Message):
    __slots__ = ("org", "from_day", "to_day")
    ORG_FIELD_NUMBER: _ClassVar[int]
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    org: str
    from_day: str
    to_day: str
    def __init__(self, org: _Optional[str] = ..., from_day: _Optional[str] = ..., to_day: _Optional[str] = ...) -> None: ...

class ListExternalChangesResponse(_message.Message):
    __slots__ = ("changes", "from_day", "to_day", "truncated_days", "next_to_day")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_DAYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_TO_DAY_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[ExternalChange]
    from_day: str
    to_day: str
    truncated_days: _containers.RepeatedScalarFieldContainer[str]
    next_to_day: str
    def __init__(self, changes: _Optional[_Iterable[_Union[ExternalChange, _Mapping]]] = ..., from_day: _Optional[str] = ..., to_day: _Optional[str] = ..., truncated_days: _Optional[_Iterable[str]] = ..., next_to_day: _Optional[str] = ...) -> None: ...

class ExternalChange(_message.Message):
    __slots__ = ("changed_at", "pool", "source", "before", "after", "caller", "note", "outcome_known")
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_KNOWN_FIELD_NUMBER: _ClassVar[int]
    changed_at: _timestamp_pb2.Timestamp
    pool: str
    source: ExternalSource
    before: int
    after: int
    caller: str
    note: str
    outcome_known: bool
    def __init__(self, changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pool: _Optional[str] = ..., source: _Optional[_Union[ExternalSource, str]] = ..., before: _Optional[int] = ..., after: _Optional[int] = ..., caller: _Optional[str] = ..., note: _Optional[str] = ..., outcome_known: bool = ...) -> None: ...
