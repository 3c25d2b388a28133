"""Errors of calls, with the service's own words."""

from __future__ import annotations

import grpc

# These say that nothing was counted, also by an earlier attempt of the same call.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class TollgateError(Exception):
    """A call failed. `code` is the gRPC status, `message` what the service or gRPC said."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, self.message)

    @property
    def outcome_unknown(self) -> bool:
        """Whether the call, or an attempt before a retry, may have counted all the same."""
        return self.code not in _REFUSALS


class InvalidArgumentError(TollgateError):
    """A field is out of bounds; the message names it."""


class NotFoundError(TollgateError):
    """The organization or the reservation is unknown."""


class AlreadyExistsError(TollgateError):
    """The reservation was settled with another amount, or its id reserved with other fields."""


class FailedPreconditionError(TollgateError):
    """Settle or a dispatch after Release, or Release after Settle."""


class OutOfRangeError(TollgateError):
    """A day without figures, or a counter that would overflow."""


class UnauthenticatedError(TollgateError):
    """The service does not know the caller."""


class PermissionDeniedError(TollgateError):
    """The caller may not do this, or not for this organization."""


class ResourceExhaustedError(TollgateError):
    """More decisions wait than the service accepts, after all attempts."""


class UnavailableError(TollgateError):
    """The service or its store can't be reached, after all attempts."""


class DeadlineExceededError(TollgateError):
    """There was no answer in time."""


_BY_CODE: dict[grpc.StatusCode, type[TollgateError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
}


def error_of(code: grpc.StatusCode, message: str) -> TollgateError:
    """The error of a status."""
    return _BY_CODE.get(code, TollgateError)(code, message)
