"""A fake of the service for the unit tests of gateways: in this process, without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from . import aio
from ._proto import quota_pb2 as pb
from .answers import BilledReason
from .client import Client
from .errors import TollgateError, error_of
from .lifecycle import State

_POOL = "large"
_Answer = TypeVar("_Answer", pb.ReserveResponse, pb.SettleResponse, pb.ReleaseResponse)


@dataclass
class FakeReservation:
    """What the fake knows of one reservation."""

    org: str
    project: str
    model: str
    #: The reserved tokens.
    tokens: int
    #: Why Reserve said BILLED; None: it said FREE.
    billed_reason: BilledReason | None
    #: HELD, SETTLED or RELEASED: the service knows nothing of a dispatch.
    state: State = State.HELD
    #: What it was settled with.
    settled_tokens: int | None = None
    outside_program: bool = False
    _request: pb.ReserveRequest = field(default_factory=pb.ReserveRequest, repr=False)
    _answer: Any = field(default=None, repr=False)


class FakeTollgate:
    """Grants `allowance` free tokens to each organization, for every project and model, in one pool.

    It counts by the rules of docs/CONTRACT.md: replays, Settle's table, Release and their errors. `bill_next` and
    `fail_next` prepare other answers. What happened is in `calls` and `reservations`.
    """

    def __init__(self, *, allowance: int = 1_000_000) -> None:
        self.allowance = allowance
        #: The names of the RPCs, in their order.
        self.calls: list[str] = []
        #: By request id, in the order of Reserve.
        self.reservations: dict[str, FakeReservation] = {}
        self._lock = threading.Lock()
        self._bill: list[BilledReason] = []
        self._fail: list[tuple[str, TollgateError, bool]] = []

    def client(self, *, org: str = "org-demo", project: str = "project") -> Client:
        """A client of this fake."""
        client = Client.__new__(Client)
        client._start(_Transport(self), org, project, 1.0)
        return client

    def aio_client(self, *, org: str = "org-demo", project: str = "project") -> aio.Client:
        """A client of this fake for asyncio."""
        client = aio.Client.__new__(aio.Client)
        client._start(_AioTransport(self), org, project, 1.0)
        return client

    def bill_next(self, reason: BilledReason) -> None:
        """The next Reserve is BILLED with this reason."""
        self._bill.append(reason)

    def fail_next(
        self, method: str, code: grpc.StatusCode, message: str = "fake", *, counted: bool = False
    ) -> None:
        """The next call of an RPC, such as "Reserve", fails. `counted`: after it has counted all the same."""
        self._fail.append((method, error_of(code, message), counted))

    def used(self, org: str = "org-demo") -> int:
        """The free tokens of an organization that count, settled and held."""
        return sum(
            reservation.tokens if reservation.settled_tokens is None else reservation.settled_tokens
            for reservation in self.reservations.values()
            if reservation.org == org
            and reservation.billed_reason is None
            and reservation.state is not State.RELEASED
        )

    @property
    def open(self) -> list[str]:
        """The ids of reservations that are neither settled nor released."""
        return [id for id, it in self.reservations.items() if it.state is State.HELD]

    def answer(self, method: str, request: Any) -> Any:
        """Answers a call, as the service would."""
        answers: dict[str, Callable[[Any], Message]] = {
            "Reserve": self._reserve,
            "Settle": self._settle,
            "Release": self._release,
            "GetQuota": self._quota,
            "Estimate": self._estimate,
        }
        with self._lock:
            self.calls.append(method)
            failure = next((it for it in self._fail if it[0] == method), None)
            if failure is not None:
                self._fail.remove(failure)
            if failure is not None and not failure[2]:
                raise failure[1]
            if method not in answers:
                raise error_of(grpc.StatusCode.UNIMPLEMENTED, f"the fake does not answer {method}")
            answer = answers[method](request)
            if failure is not None:
                raise failure[1]
            return answer

    def _reserve(self, request: pb.ReserveRequest) -> pb.ReserveResponse:
        for name in ("org", "project", "model"):
            if not 1 <= len(getattr(request, name).encode()) <= 256:
                _fail("INVALID_ARGUMENT", f"{name} must be 1 to 256 bytes")
        if not 1 <= request.tokens <= 1_000_000_000:
            _fail("INVALID_ARGUMENT", "tokens must be 1 to 1,000,000,000")
        known = self.reservations.get(request.request_id)
        if known is not None and not request.dry_run:
            if known.state is State.RELEASED:
                _fail("FAILED_PRECONDITION", "this request_id was released")
            if known._request != request:
                _fail("ALREADY_EXISTS", "this request_id was reserved with other fields")
            return self._decision(request.org, known.billed_reason, replayed=True)
        reason = None
        if self._bill and not request.dry_run:
            reason = self._bill.pop(0)
        elif self.used(request.org) + request.tokens > self.allowance:
            reason = BilledReason.ALLOWANCE_EXCEEDED
        if not request.dry_run:
            self.reservations[request.request_id] = FakeReservation(
                request.org, request.project, request.model, request.tokens, reason,
                _request=request,
            )  # fmt: skip
        return self._decision(request.org, reason, replayed=False)

    def _decision(
        self, org: str, reason: BilledReason | None, *, replayed: bool
    ) -> pb.ReserveResponse:
        answer = pb.ReserveResponse(replayed=replayed, **self._verdict(reason))
        return self._balance(answer, org, reason)

    def _settle(self, request: pb.SettleRequest) -> pb.SettleResponse:
        if request.tokens > 1_000_000_000:
            _fail("INVALID_ARGUMENT", "tokens must be 0 to 1,000,000,000")
        known = self._known(request.org, request.request_id)
        if known.state is State.RELEASED:
            _fail("FAILED_PRECONDITION", "the reservation was released")
        if known.state is State.SETTLED:
            first = (known.settled_tokens, known.outside_program)
            if first != (request.tokens, request.outside_program):
                _fail("ALREADY_EXISTS", f"the reservation was settled with {first[0]} tokens")
            answer = pb.SettleResponse()
            answer.CopyFrom(known._answer)
            answer.replayed = True
            return self._balance(answer, request.org, known.billed_reason)
        was = known.billed_reason
        others = self.used(request.org) - (known.tokens if was is None else 0)
        if request.outside_program:
            known.billed_reason = BilledReason.RAN_OUTSIDE_PROGRAM
        elif was in (None, BilledReason.ALLOWANCE_EXCEEDED):
            fits = (was is None and request.tokens <= known.tokens) or (
                others + request.tokens <= self.allowance
            )
            known.billed_reason = None if fits else BilledReason.ALLOWANCE_EXCEEDED
        known.state, known.settled_tokens = State.SETTLED, request.tokens
        known.outside_program = request.outside_program
        answer = pb.SettleResponse(
            verdict_changed=(was is None) != (known.billed_reason is None),
            **self._verdict(known.billed_reason),
        )
        known._answer = self._balance(answer, request.org, known.billed_reason)
        return answer

    def _release(self, request: pb.ReleaseRequest) -> pb.ReleaseResponse:
        known = self._known(request.org, request.request_id)
        if known.state is State.SETTLED:
            _fail("FAILED_PRECONDITION", "the reservation was settled")
        answer = pb.ReleaseResponse(
            released_tokens=known.tokens, replayed=known.state is State.RELEASED
        )
        known.state = State.RELEASED
        return self._balance(answer, request.org, known.billed_reason)

    def _quota(self, request: pb.GetQuotaRequest) -> pb.GetQuotaResponse:
        mine = [it for it in self.reservations.values() if it.org == request.org]
        counted = [it for it in mine if it.state is not State.RELEASED]
        free = [it for it in counted if it.billed_reason is None]
        billed = [it for it in counted if it.billed_reason is BilledReason.ALLOWANCE_EXCEEDED]
        used = self.used(request.org)
        pool = pb.PoolQuota(
            pool=_POOL,
            allowance=self.allowance,
            used=used,
            remaining=max(0, self.allowance - used),
            billed_tokens=sum(it.settled_tokens or it.tokens for it in billed),
            free_requests=len(free),
            billed_requests=len(billed),
            held_tokens=sum(it.tokens for it in free if it.state is State.HELD),
        )
        answer = pb.GetQuotaResponse(
            org=request.org, tier=3, enrolled=True, day=f"{_now():%Y-%m-%d}", pools=[pool]
        )
        answer.resets_at.FromDatetime(_midnight())
        return answer

    def _estimate(self, request: pb.EstimateRequest) -> pb.EstimateResponse:
        # No estimator: a bound by the body's size, with an output of a thousand tokens.
        return pb.EstimateResponse(
            tokens=len(request.body) + 1_000,
            input_tokens=len(request.body),
            output_tokens=1_000,
            basis=pb.ESTIMATE_BASIS_TEXT_BYTES,
            model=request.model,
            workload=pb.WORKLOAD_INFERENCE,
        )

    def _known(self, org: str, request_id: str) -> FakeReservation:
        known = self.reservations.get(request_id)
        if known is None or known.org != org:
            raise error_of(grpc.StatusCode.NOT_FOUND, "request_id is unknown")
        return known

    def _verdict(self, reason: BilledReason | None) -> dict[str, Any]:
        if reason is None:
            return {"verdict": pb.VERDICT_FREE}
        return {"verdict": pb.VERDICT_BILLED, "billed_reason": int(reason)}

    def _balance(self, answer: _Answer, org: str, reason: BilledReason | None) -> _Answer:
        eligible = (None, BilledReason.ALLOWANCE_EXCEEDED, BilledReason.RAN_OUTSIDE_PROGRAM)
        if reason in eligible:
            answer.pool, answer.allowance, answer.used = _POOL, self.allowance, self.used(org)
            answer.remaining = max(0, answer.allowance - answer.used)
        answer.resets_at.FromDatetime(_midnight())
        return answer


class _Transport:
    def __init__(self, fake: FakeTollgate) -> None:
        self._fake = fake

    def call(self, method: str, request: Message, timeout: float) -> Any:
        return self._fake.answer(method, request)

    def in_background(self, work: Callable[[], None]) -> None:
        # At once, so that a test sees what became of it.
        work()

    def close(self) -> None:
        pass


class _AioTransport:
    def __init__(self, fake: FakeTollgate) -> None:
        self._fake = fake

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        return self._fake.answer(method, request)

    async def close(self) -> None:
        pass


def _fail(code: str, message: str) -> None:
    raise error_of(grpc.StatusCode[code], message)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _midnight() -> datetime:
    return datetime(_now().year, _now().month, _now().day) + timedelta(days=1)
