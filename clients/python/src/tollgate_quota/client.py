"""The client for threads."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from ._proto import quota_pb2 as pb
from .answers import (
    Decision,
    Estimate,
    Quota,
    ReleaseResult,
    Settlement,
    Usage,
    UsageRow,
    Workload,
    read,
    read_usage,
)
from .connection import (
    CLOSE_TIMEOUT,
    DEFAULT_TIMEOUT,
    PROBE,
    PROBE_TIMEOUT,
    TLS,
    Endpoint,
    Token,
    cause_of_probe,
    deserializer,
    error_of_call,
    path,
    serialize,
    with_cause,
)
from .errors import DeadlineExceededError, NotFoundError, TollgateError
from .lifecycle import FIRST_PAUSE, Lifecycle, State, log_failed_release
from .requests import Requests


class Transport(Protocol):
    """Makes the calls of a client."""

    def call(self, method: str, request: Message, timeout: float) -> Any:
        """Makes a call. Raises TollgateError."""

    def in_background(self, work: Callable[[], None]) -> None:
        """Does work, such as calls, without waiting for it."""

    def close(self) -> None:
        """Waits a short time for the work in the background, and closes the connection."""


class GrpcTransport:
    """A channel, which is made on first use: a process that forks before has one in each child."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._process: int | None = None
        self._channel: grpc.Channel | None = None
        self._threads: set[threading.Thread] = set()

    def _open_channel(self) -> grpc.Channel:
        with self._lock:
            if self._channel is None or self._process != os.getpid():
                credentials = self._endpoint.credentials()
                address, options = self._endpoint.address, self._endpoint.options()
                self._channel = (
                    grpc.secure_channel(address, credentials, options)
                    if credentials
                    else grpc.insecure_channel(address, options)
                )
                self._process = os.getpid()
            return self._channel

    def call(self, method: str, request: Message, timeout: float) -> Any:
        """Makes a call."""
        try:
            metadata = self._endpoint.metadata()
            call: Any = self._open_channel().unary_unary(
                path(method),
                request_serializer=serialize,
                response_deserializer=deserializer(method),
            )
            return call(request, timeout=timeout, metadata=metadata)
        except Exception as error:
            failed = error_of_call(error)
            if isinstance(failed, DeadlineExceededError):
                failed = with_cause(failed, self._endpoint.address, self._probe())
            raise failed from error

    def _probe(self) -> str:
        try:
            probe: Any = self._open_channel().unary_unary(PROBE)
            probe(b"", timeout=PROBE_TIMEOUT)
        except grpc.RpcError as error:
            return cause_of_probe(error)
        return ""

    def in_background(self, work: Callable[[], None]) -> None:
        """Does work in a thread, which does not keep a process that ends."""
        thread = threading.Thread(target=work, name="tollgate-release", daemon=True)
        thread.start()
        with self._lock:
            self._threads = {it for it in self._threads if it.is_alive()} | {thread}

    def close(self) -> None:
        """Waits a short time for the work in the background, and closes the channel, which ends the rest of it."""
        self._join()
        with self._lock:
            if self._channel is not None and self._process == os.getpid():
                self._channel.close()
            self._channel = None
        self._join()

    def _join(self) -> None:
        end = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


class Client:
    """A client of a Tollgate service, for any number of threads.

    `address` is HOST:PORT or unix:PATH. `org` and `project` are those of calls that name no others. `tls` is True for
    the system's authorities, or a TLS. `token` is the caller's bearer token, or a function that returns it. `timeout`
    bounds each call, in seconds, with all its attempts; each call takes another one.

    Raises ValueError for an address without a port, and for a token that would be sent in clear beyond this machine.
    Every call raises TollgateError.
    """

    def __init__(
        self,
        address: str,
        *,
        org: str = "",
        project: str = "",
        token: Token | None = None,
        tls: bool | TLS | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._start(GrpcTransport(Endpoint(address, tls=tls, token=token)), org, project, timeout)

    def _start(self, transport: Transport, org: str, project: str, timeout: float) -> None:
        self._transport = transport
        self._requests = Requests(org, project)
        self._timeout = timeout

    def reserve(
        self,
        *,
        model: str,
        tokens: int,
        org: str | None = None,
        project: str | None = None,
        workload: Workload | None = None,
        timeout: float | None = None,
    ) -> Reservation:
        """Decides whether a request is free or billed, and counts it as that, under a new id.

        `tokens` is the most that the request may use, input and output together. If the outcome is unknown, it
        raises, and releases the reservation in the background.
        """
        request_id = str(uuid.uuid4())
        request = self._requests.reserve(
            model, tokens, org=org, project=project, workload=workload, request_id=request_id
        )
        try:
            answer = self._call("Reserve", request, timeout)
        except BaseException as error:
            if not isinstance(error, TollgateError) or error.outcome_unknown:
                self._transport.in_background(
                    lambda: self._release_unknown(request.org, request_id, timeout)
                )
            raise
        return Reservation(self, request_id, request.org, tokens, read(Decision, answer))

    def dry_run(
        self,
        *,
        model: str,
        tokens: int,
        org: str | None = None,
        project: str | None = None,
        workload: Workload | None = None,
        timeout: float | None = None,
    ) -> Decision:
        """The answer that reserve would get now. Counts nothing."""
        request = self._requests.reserve(
            model, tokens, org=org, project=project, workload=workload, dry_run=True
        )
        return read(Decision, self._call("Reserve", request, timeout))

    def settle(
        self,
        request_id: str,
        tokens: int,
        *,
        outside_program: bool = False,
        org: str | None = None,
        timeout: float | None = None,
    ) -> Settlement:
        """Settles a reservation by its id, also one of another process. See Reservation.settle."""
        request = self._requests.settle(
            request_id, tokens, org=org, outside_program=outside_program
        )
        return read(Settlement, self._call("Settle", request, timeout))

    def release(
        self, request_id: str, *, org: str | None = None, timeout: float | None = None
    ) -> ReleaseResult:
        """Releases a reservation by its id, also one of another process. See Reservation.release."""
        request = self._requests.release(request_id, org=org)
        return read(ReleaseResult, self._call("Release", request, timeout))

    def estimate(
        self, path: str, body: bytes, *, model: str = "", timeout: float | None = None
    ) -> Estimate:
        """An upper bound on the tokens of a request to the provider, by its path and body. Counts nothing."""
        request = pb.EstimateRequest(path=path, body=body, model=model)
        return read(Estimate, self._call("Estimate", request, timeout))

    def quota(self, *, org: str | None = None, timeout: float | None = None) -> Quota:
        """What remains today of the allowance in each pool."""
        request = pb.GetQuotaRequest(org=self._requests.org_or(org))
        return read(Quota, self._call("GetQuota", request, timeout))

    def usage(
        self,
        day: str = "",
        *,
        from_day: str = "",
        to_day: str = "",
        org: str | None = None,
        timeout: float | None = None,
    ) -> Usage:
        """The usage by day, project and model of a UTC day, or of the at most 62 days from `from_day` to `to_day`, which
        is today by default. Today's, if no day is named. Reads all pages, each in `timeout`."""
        request = self._requests.usage(org, day, from_day, to_day)
        rows: list[UsageRow] = []
        while True:
            page = self._call("ListUsage", request, timeout)
            usage = read_usage(request, page)
            rows += usage.rows
            if not page.next_page_token:
                return replace(usage, rows=tuple(rows))
            # The token of a single day holds for that day only.
            request.day, request.page_token = page.day, page.next_page_token

    def close(self) -> None:
        """Waits up to a second for releases in the background, and closes the connection. What could not be released
        is logged."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, request: Message, timeout: float | None) -> Any:
        return self._transport.call(method, request, self._timeout if timeout is None else timeout)

    def _release_unknown(self, org: str, request_id: str, timeout: float | None) -> None:
        request = self._requests.release(request_id, org=org)
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = FIRST_PAUSE
        while True:
            try:
                self._transport.call("Release", request, max(0.0, end - time.monotonic()))
                return
            except TollgateError as error:
                # NOT_FOUND: it never counted, or the Reserve is still on its way.
                if not isinstance(error, NotFoundError) or time.monotonic() + pause >= end:
                    log_failed_release(request_id, org, error)
                    return
            time.sleep(pause)
            pause *= 2


class Reservation(Lifecycle):
    """A reserved request, which `with` ends: released if it was not dispatched, else settled, or kept and logged."""

    def __init__(
        self, client: Client, request_id: str, org: str, tokens: int, decision: Decision
    ) -> None:
        super().__init__(request_id, org, tokens, decision)
        self._client = client

    def settle(
        self, tokens: int, *, outside_program: bool = False, timeout: float | None = None
    ) -> Settlement:
        """Records the tokens that the request really used.

        `outside_program`: it ran where nothing is shared, in another project or at another provider; it is billed
        then, and what was held is given back. The same again is answered again; another amount is an error.
        """
        self._begin_settle()
        settlement = self._client.settle(
            self.request_id, tokens, outside_program=outside_program, org=self.org, timeout=timeout
        )
        self._state = State.SETTLED
        return settlement

    def release(self, *, timeout: float | None = None) -> ReleaseResult:
        """States that the request did not run, and takes back everything that it counted."""
        self._begin_release()
        result = self._client.release(self.request_id, org=self.org, timeout=timeout)
        self._state = State.RELEASED
        return result

    def close(self) -> None:
        """Ends it, as `with` does. A release that fails is logged."""
        if self._leave():
            try:
                self.release()
            except TollgateError as error:
                self._log_failed_release(error)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
