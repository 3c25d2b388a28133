"""What has become of a reservation, and what leaving it means."""

from __future__ import annotations

import logging
from enum import Enum, auto

from .answers import BilledReason, Decision, Verdict

logger = logging.getLogger("tollgate_quota")


class State(Enum):
    """The state of a reservation, as this process knows it."""

    HELD = auto()
    DISPATCHED = auto()
    SETTLED = auto()
    RELEASED = auto()
    KEPT = auto()


class Lifecycle:
    """The part of a reservation that makes no call: the same for threads and asyncio."""

    def __init__(self, request_id: str, org: str, tokens: int, decision: Decision) -> None:
        #: The id of the reservation, made by the client.
        self.request_id = request_id
        self.org = org
        #: The reserved tokens.
        self.tokens = tokens
        #: The whole answer of Reserve.
        self.decision = decision
        self._state = State.HELD

    @property
    def free(self) -> bool:
        """Whether the request may be sent within the programme."""
        return self.decision.free

    @property
    def verdict(self) -> Verdict:
        """FREE or BILLED."""
        return self.decision.verdict

    @property
    def billed_reason(self) -> BilledReason | None:
        """Why the request is billed; None with FREE."""
        return self.decision.billed_reason

    @property
    def state(self) -> State:
        """What has become of it."""
        return self._state

    def dispatched(self) -> None:
        """States that the request is about to be sent. From here on it may have run: it is not released by default."""
        if self._state is State.HELD:
            self._state = State.DISPATCHED

    def keep(self) -> None:
        """States that the request may have run, with unknown use: its tokens stay counted until midnight."""
        if self._state in (State.HELD, State.DISPATCHED):
            self._state = State.KEPT

    def _leave(self) -> bool:
        """Ends it. Returns whether it must be released."""
        if self._state is State.HELD:
            return True
        if self._state is State.DISPATCHED:
            self._state = State.KEPT
            logger.warning(
                "reservation %s of %s was dispatched and not settled: its %d tokens stay counted until midnight",
                self.request_id,
                self.org,
                self.tokens,
            )
        return False

    def _log_failed_release(self, error: BaseException) -> None:
        log_failed_release(self.request_id, self.org, error)


def log_failed_release(request_id: str, org: str, error: BaseException) -> None:
    """Logs that a reservation whose request did not run may stay counted."""
    logger.warning(
        "reservation %s of %s could not be released, and may stay counted until midnight: %s",
        request_id,
        org,
        error,
    )
