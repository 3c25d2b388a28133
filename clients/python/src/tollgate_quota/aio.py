"""The client for asyncio: the names of `tollgate_quota.Client`, awaited."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
import weakref
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

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

_T = TypeVar("_T")


class Transport(Protocol):
    """Makes the calls of a client."""

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        """Makes a call. Raises TollgateError."""

    async def close(self) -> None:
        """Closes the connection of the running event loop."""


class GrpcTransport:
    """A channel for each event loop and process, made on first use: a channel works in its own loop only."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._process = os.getpid()
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, grpc.aio.Channel] = (
            weakref.WeakKeyDictionary()
        )

    def _channel(self) -> grpc.aio.Channel:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._channels = weakref.WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            credentials = self._endpoint.credentials()
            address, options = self._endpoint.address, self._endpoint.options()
            channel = self._channels[loop] = (
                grpc.aio.secure_channel(address, credentials, options)
                if credentials
                else grpc.aio.insecure_channel(address, options)
            )
        return channel

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        """Makes a call."""
        try:
            metadata = self._endpoint.metadata()
            call: Any = self._channel().unary_unary(
                path(method),
                request_serializer=serialize,
                response_deserializer=deserializer(method),
            )
            return await call(request, timeout=timeout, metadata=metadata)
        except Exception as error:
            failed = error_of_call(error)
            if isinstance(failed, DeadlineExceededError):
                failed = with_cause(failed, self._endpoint.address, await self._probe())
            raise failed from error

    async def _probe(self) -> str:
        try:
            probe: Any = self._channel().unary_unary(PROBE)
            await probe(b"", timeout=PROBE_TIMEOUT)
        except grpc.RpcError as error:
            return cause_of_probe(error)
        return ""

    async def close(self) -> None:
        """Closes the channel of the running event loop."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.close()


class Client:
    """A client of a Tollgate service. It is made as `tollgate_quota.Client` is, and used from any event loop."""

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
        # The loop itself holds its tasks weakly.
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Those of them that release reservations of unknown outcome.
        self._releases: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    async def reserve(
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

        `tokens` is the most that the request may use, input and output together. If the outcome is unknown, or the
        caller is cancelled, it raises, and releases the reservation in the background.
        """
        request_id = str(uuid.uuid4())
        request = self._requests.reserve(
            model, tokens, org=org, project=project, workload=workload, request_id=request_id
        )
        try:
            answer = await self._call("Reserve", request, timeout)
        except BaseException as error:
            if not isinstance(error, TollgateError) or error.outcome_unknown:
                release = self._release_unknown(request.org, request_id, timeout)
                self._releases.add(self._spawn(release))
            raise
        return Reservation(self, request_id, request.org, tokens, read(Decision, answer))

    async def dry_run(
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
        return read(Decision, await self._call("Reserve", request, timeout))

    async def settle(
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
        return read(Settlement, await self._to_its_end(self._call("Settle", request, timeout)))

    async def release(
        self, request_id: str, *, org: str | None = None, timeout: float | None = None
    ) -> ReleaseResult:
        """Releases a reservation by its id, also one of another process. See Reservation.release."""
        request = self._requests.release(request_id, org=org)
        return read(ReleaseResult, await self._to_its_end(self._call("Release", request, timeout)))

    async def estimate(
        self, path: str, body: bytes, *, model: str = "", timeout: float | None = None
    ) -> Estimate:
        """An upper bound on the tokens of a request to the provider, by its path and body. Counts nothing."""
        request = pb.EstimateRequest(path=path, body=body, model=model)
        return read(Estimate, await self._call("Estimate", request, timeout))

    async def quota(self, *, org: str | None = None, timeout: float | None = None) -> Quota:
        """What remains today of the allowance in each pool."""
        request = pb.GetQuotaRequest(org=self._requests.org_or(org))
        return read(Quota, await self._call("GetQuota", request, timeout))

    async def usage(
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
            page = await self._call("ListUsage", request, timeout)
            usage = read_usage(request, page)
            rows += usage.rows
            if not page.next_page_token:
                return replace(usage, rows=tuple(rows))
            # The token of a single day holds for that day only.
            request.day, request.page_token = page.day, page.next_page_token

    async def close(self) -> None:
        """Waits for calls that were begun, and up to a second for releases in the background, and closes this event
        loop's connection. What could not be released is logged."""
        loop = asyncio.get_running_loop()
        pending = [task for task in self._tasks if task.get_loop() is loop]
        releases = [task for task in pending if task in self._releases]
        if releases:
            _, late = await asyncio.wait(releases, timeout=CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
        if pending:
            await asyncio.wait(pending)
        await self._transport.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, method: str, request: Message, timeout: float | None) -> Any:
        timeout = self._timeout if timeout is None else timeout
        return await self._transport.call(method, request, timeout)

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _to_its_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Carries work to its end, even if the caller is cancelled: its user hung up, and still it must count."""
        return await asyncio.shield(self._spawn(work))

    async def _release_unknown(self, org: str, request_id: str, timeout: float | None) -> None:
        request = self._requests.release(request_id, org=org)
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._call("Release", request, max(0.0, end - time.monotonic()))
                return
            except TollgateError as error:
                # NOT_FOUND: it never counted, or the Reserve is still on its way.
                if not isinstance(error, NotFoundError) or time.monotonic() + pause >= end:
                    log_failed_release(request_id, org, error)
                    return
            except asyncio.CancelledError:
                log_failed_release(request_id, org, "the client was closed")
                raise
            await asyncio.sleep(pause)
            pause *= 2


class Reservation(Lifecycle):
    """A reserved request, which `async with` ends: released if it was not dispatched, else settled, or kept and
    logged. A call that was begun is carried to its end, even if the caller is cancelled."""

    def __init__(
        self, client: Client, request_id: str, org: str, tokens: int, decision: Decision
    ) -> None:
        super().__init__(request_id, org, tokens, decision)
        self._client = client
        # The settles and releases that were begun.
        self._begun: list[asyncio.Task[Any]] = []

    async def settle(
        self, tokens: int, *, outside_program: bool = False, timeout: float | None = None
    ) -> Settlement:
        """Records the tokens that the request really used.

        `outside_program`: it ran where nothing is shared, in another project or at another provider; it is billed
        then, and what was held is given back. The same again is answered again; another amount is an error.
        """
        self._begin_settle()

        async def settle() -> Settlement:
            settlement = await self._client.settle(
                self.request_id,
                tokens,
                outside_program=outside_program,
                org=self.org,
                timeout=timeout,
            )
            self._state = State.SETTLED
            return settlement

        return await self._to_its_end(settle())

    async def release(self, *, timeout: float | None = None) -> ReleaseResult:
        """States that the request did not run, and takes back everything that it counted."""
        self._begin_release()

        async def release() -> ReleaseResult:
            result = await self._client.release(self.request_id, org=self.org, timeout=timeout)
            self._state = State.RELEASED
            return result

        return await self._to_its_end(release())

    async def _to_its_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        task = self._client._spawn(work)
        self._begun.append(task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends it, as `async with` does. A release that fails is logged."""
        await self._client._to_its_end(self._close())

    async def _close(self) -> None:
        if self._begun:
            # The caller was cancelled while it settled or released.
            await asyncio.wait(self._begun)
        if self._leave():
            try:
                await self.release()
            except TollgateError as error:
                self._log_failed_release(error)

    async def __aenter__(self) -> Reservation:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
