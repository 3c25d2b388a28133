"""What has become of a reservation, and what leaving it means."""

from __future__ import annotations

import logging
import threading
from enum import Enum, auto

import grpc

from .answers import BilledReason, Decision, Verdict
from .errors import FailedPreconditionError

logger = logging.getLogger("tollgate_quota")

#: Seconds until a Release of unknown outcome is asked again; each later pause is twice as long.
FIRST_PAUSE = 0.25


class State(Enum):
    """The state of a reservation, as this process knows it."""

    HELD = auto()
    DISPATCHED = auto()
    SETTLED = auto()
    #: Its Release was begun, and is not known to have counted.
    RELEASING = auto()
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
        self._lock = threading.Lock()

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
        """States that the request is about to be sent. From here on it may have run: it is not released by default.

        Raises FailedPreconditionError once it was released, settled or kept: the request must not be sent on it then.
        """
        if not self._move(State.DISPATCHED, State.HELD, State.DISPATCHED):
            raise FailedPreconditionError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"reservation {self.request_id} is {self._state.name}: send no request on it",
            )

    def keep(self) -> None:
        """States that the request may have run, with unknown use: its tokens stay counted until midnight."""
        self._move(State.KEPT, State.HELD, State.DISPATCHED, State.RELEASING)

    def _move(self, to: State, *states: State) -> bool:
        """Changes the state, if it is one of these."""
        with self._lock:
            moves = self._state in states
            if moves:
                self._state = to
            return moves

    def _begin_settle(self) -> None:
        """Who settles has dispatched."""
        self._move(State.DISPATCHED, State.HELD)

    def _begin_release(self) -> None:
        """From here on it is not dispatched, also if the Release fails: it may have counted all the same."""
        self._move(State.RELEASING, State.HELD, State.DISPATCHED, State.KEPT)

    def _leave(self) -> bool:
        """Ends it. Returns whether it must be released."""
        if self._move(State.RELEASING, State.HELD, State.RELEASING):
            return True
        if self._move(State.KEPT, State.DISPATCHED):
            logger.warning(
                "reservation %s of %s was dispatched and not settled: its %d tokens stay counted until midnight",
                self.request_id,
                self.org,
                self.tokens,
            )
        return False

    def _log_failed_release(self, error: BaseException) -> None:
        log_failed_release(self.request_id, self.org, error)


def log_failed_release(request_id: str, org: str, error: BaseException | str) -> None:
    """Logs that a reservation whose request did not run may stay counted."""
    logger.warning(
        "reservation %s of %s could not be released, and may stay counted until midnight: %s",
        request_id,
        org,
        error,
    )
