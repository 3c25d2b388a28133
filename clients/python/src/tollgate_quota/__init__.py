"""Client of Tollgate, the quota service for LLM gateways.

`Client` is for threads, `tollgate_quota.aio.Client` for asyncio, with the same names.
`tollgate_quota.testing.FakeTollgate` takes the service's place in unit tests, and `tollgate_quota.litellm` is a
plugin of the LiteLLM proxy.
"""

from .answers import (
    Balance,
    BilledReason,
    Decision,
    Estimate,
    EstimateBasis,
    PoolQuota,
    ProviderUsage,
    Quota,
    ReleaseResult,
    Settlement,
    ShareQuota,
    Usage,
    UsageRow,
    Verdict,
    Workload,
)
from .client import Client, Reservation
from .connection import TLS
from .errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    TollgateError,
    UnauthenticatedError,
    UnavailableError,
)
from .lifecycle import State

__all__ = [
    "TLS",
    "AlreadyExistsError",
    "Balance",
    "BilledReason",
    "Client",
    "DeadlineExceededError",
    "Decision",
    "Estimate",
    "EstimateBasis",
    "FailedPreconditionError",
    "InvalidArgumentError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "PoolQuota",
    "ProviderUsage",
    "Quota",
    "ReleaseResult",
    "Reservation",
    "ResourceExhaustedError",
    "Settlement",
    "ShareQuota",
    "State",
    "TollgateError",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
    "UsageRow",
    "Verdict",
    "Workload",
]
