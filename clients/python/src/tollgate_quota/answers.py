"""What the service answers, as immutable values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from enum import IntEnum
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ._proto import quota_pb2 as pb
from .errors import error_of

_Enum = TypeVar("_Enum", bound="_OpenEnum")
_Answer = TypeVar("_Answer")


class _OpenEnum(IntEnum):
    """An enum that keeps the values of newer services: `BilledReason(99).name` is `UNKNOWN_99`."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)

    @classmethod
    def _missing_(cls: type[_Enum], value: object) -> _Enum | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        # Of two threads that see it first, both get the same member.
        return cast(_Enum, cls._value2member_map_.setdefault(value, member))


class Verdict(_OpenEnum):
    """Whether a request is free or billed. Always the whole request."""

    FREE = 1
    BILLED = 2


class BilledReason(_OpenEnum):
    """Why a request is billed. docs/CONTRACT.md, "The gRPC surface"."""

    ORGANIZATION_NOT_ENROLLED = 1
    ZERO_DATA_RETENTION = 2
    ENTERPRISE_PLAN = 3
    PROGRAM_ENDED = 4
    PROJECT_NOT_SHARING = 5
    WORKLOAD_NOT_COVERED = 6
    FINE_TUNED_MODEL = 7
    MODEL_NOT_COVERED = 8
    POOL_CLOSED = 9
    ALLOWANCE_EXCEEDED = 10
    DAY_CLOSED = 11
    STORE_UNAVAILABLE = 12
    RAN_OUTSIDE_PROGRAM = 13
    SHARE_EXCEEDED = 14


class Workload(_OpenEnum):
    """The kind of work of a request."""

    INFERENCE = 1
    HOSTED_TOOL = 2
    FINE_TUNING = 3
    EVALUATION = 4
    BATCH = 5
    FUNCTION_CALLING = 6
    FLEX = 7
    PRIORITY = 8


class EstimateBasis(_OpenEnum):
    """What the input of a request was bounded by."""

    TEXT_BYTES = 1
    CONTEXT_WINDOW = 2


@dataclass(frozen=True)
class Balance:
    """The figures of a request's pool, in tokens; empty and 0 where the request has no pool."""

    pool: str
    allowance: int
    used: int
    remaining: int
    #: The next UTC midnight by the store's clock.
    resets_at: datetime
    #: True if the same call was answered before: this one counted nothing.
    replayed: bool


@dataclass(frozen=True)
class Decision(Balance):
    """The answer of Reserve."""

    verdict: Verdict
    #: None with FREE.
    billed_reason: BilledReason | None

    @property
    def free(self) -> bool:
        """Whether the request may be sent within the programme."""
        return self.verdict is Verdict.FREE


@dataclass(frozen=True)
class Settlement(Decision):
    """The answer of Settle: the verdict on the actual tokens."""

    verdict_changed: bool


@dataclass(frozen=True)
class ReleaseResult(Balance):
    """The answer of Release."""

    #: The tokens, free or billed, that no longer count.
    released_tokens: int


@dataclass(frozen=True)
class Estimate:
    """An upper bound on the tokens of a request."""

    tokens: int
    input_tokens: int
    output_tokens: int
    basis: EstimateBasis
    model: str
    workload: Workload
    #: Whether the request itself bounds its output.
    output_capped: bool


@dataclass(frozen=True)
class ShareQuota:
    """What a project may use of a pool today, and has used."""

    project: str
    share: int
    used: int
    remaining: int


@dataclass(frozen=True)
class PoolQuota:
    """Today's figures of one pool."""

    pool: str
    allowance: int
    used: int
    remaining: int
    billed_tokens: int
    free_requests: int
    billed_requests: int
    #: Tokens of FREE reservations that are neither settled nor released; a part of `used`.
    held_tokens: int
    #: Whether an overflow closed the pool until midnight.
    closed: bool
    #: The part of the allowance that no Reserve gets.
    margin_tokens: int
    #: Tokens that the provider counted today and Tollgate did not.
    external_tokens: int
    #: The projects that may use only a part of the pool, ordered by name.
    shares: tuple[ShareQuota, ...] = ()


@dataclass(frozen=True)
class Quota:
    """What an organization has today."""

    org: str
    tier: int
    enrolled: bool
    not_enrolled_reason: BilledReason | None
    #: The UTC day of the figures, such as "2026-11-22".
    day: str
    resets_at: datetime
    pools: tuple[PoolQuota, ...]

    def pool(self, name: str) -> PoolQuota:
        """The pool of this name; KeyError if the policy has none."""
        for pool in self.pools:
            if pool.pool == name:
                return pool
        names = ", ".join(pool.pool for pool in self.pools)
        raise KeyError(f"no pool {name!r}; the policy has {names or 'none'}")


@dataclass(frozen=True)
class ProviderUsage:
    """What the provider counted of a project and a model on a day."""

    #: Tokens that were free by their service tier.
    free_tokens: int
    #: All other tokens.
    billed_tokens: int


@dataclass(frozen=True)
class UsageRow:
    """What one project used of one model on a day. In a row that only the provider has, these figures are 0."""

    project: str
    model: str
    #: The pool that lists the model now; empty if none does.
    pool: str
    free_tokens: int
    billed_tokens: int
    free_requests: int
    billed_requests: int
    #: The UTC day, such as "2026-11-22"; empty if the service is of an earlier release.
    day: str = ""
    #: What the provider counted, as of the last comparison; None if the row was not compared, or that can't be read.
    provider: ProviderUsage | None = None


@dataclass(frozen=True)
class Usage:
    """The usage of a day, or of a range of days."""

    #: The UTC day; empty for a range.
    day: str
    #: Ordered by day, then by project, then by model.
    rows: tuple[UsageRow, ...]
    #: The first day with figures: later than the one that was asked for if days before it are not kept any more.
    from_day: str = ""
    #: The last day.
    to_day: str = ""


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=timezone.utc)


def _reason(number: int) -> BilledReason | None:
    return BilledReason(number) if number else None


# How the fields that aren't plain numbers, texts and flags are read.
_FIELDS: dict[str, Callable[[Any], object]] = {
    "resets_at": _time,
    "verdict": Verdict,
    "billed_reason": _reason,
    "not_enrolled_reason": _reason,
    "basis": EstimateBasis,
    # Unspecified counts as inference.
    "workload": lambda number: Workload(number or Workload.INFERENCE),
    "pools": lambda pools: tuple(read(PoolQuota, pool) for pool in pools),
    "shares": lambda shares: tuple(read(ShareQuota, share) for share in shares),
    "provider": lambda usage: read(ProviderUsage, usage),
    "rows": lambda rows: tuple(read(UsageRow, row) for row in rows),
}


def read(answer: type[_Answer], message: Message) -> _Answer:
    """The value of a message that has the same fields."""
    names = [field.name for field in fields(cast(Any, answer))]
    return answer(**{name: _field(message, name) for name in names})


def read_usage(request: pb.ListUsageRequest, page: pb.ListUsageResponse) -> Usage:
    """The usage of a page. A service of an earlier release takes a range for today."""
    if (request.from_day or request.to_day) and not page.from_day:
        message = "the service is of an earlier release, which lists no ranges of days"
        raise error_of(grpc.StatusCode.UNIMPLEMENTED, message)
    return read(Usage, page)


def _field(message: Message, name: str) -> object:
    if name == "provider" and not message.HasField(name):
        return None
    value, convert = getattr(message, name), _FIELDS.get(name)
    return convert(value) if convert else value
