"""A plugin of the LiteLLM proxy: FREE requests go to deployments that share data, BILLED ones to others.

    litellm_settings:
      callbacks: tollgate_quota.litellm.handler

A deployment shares if its `model_info` has `tollgate: {org, project}`, and optionally `model`, if the provider's name
for it differs from `litellm_params.model`. The unit is the attempt: each retry and each fallback is a request to the
provider, and is reserved under an id of its own. It is settled with the provider's usage, released where the provider
refused it, and kept where it may have run.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException
from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger

from . import aio
from ._litellm_deployment import (
    Target,
    check_config,
    group_of,
    siblings_of,
    target_of,
    targets_of,
)
from ._litellm_failure import did_not_run
from ._litellm_request import request_of
from ._litellm_start import call_at_sigterm, check_groups, log_to_stderr
from ._litellm_stream import get, watch_streams
from .answers import BilledReason, Workload
from .connection import TLS
from .errors import NotFoundError, TollgateError
from .lifecycle import State

logger = logging.getLogger("tollgate_quota.litellm")

#: Seconds after which a reservation that was never dispatched is released.
_HELD_SECONDS = 60.0
#: Seconds after which a request whose end was never reported is given up: it stays counted.
_DISPATCHED_SECONDS = 7_200.0
_SWEEP_SECONDS = 10.0

_ON_BILLED = ("route", "deny", "tag")
_ON_UNAVAILABLE = ("billed", "deny")
_ON_DISCONNECT = ("keep", "settle")

#: Where metadata has the id of the attempt. A client's own value is removed.
_KEY = "tollgate"
#: The id where routing found that there is no attempt to count.
_NONE = "-"
#: Where it has a dictionary with the verdict on the last attempt.
_VERDICT_KEY = "tollgate_verdict"
#: The id of the attempt that this task has dispatched and that has not ended.
_dispatched: ContextVar[str] = ContextVar("tollgate_dispatched", default="")


@dataclass
class _Attempt:
    """One request to the provider."""

    target: Target
    reservation: aio.Reservation
    #: What it was reserved for: `Request.digest`.
    digest: int
    workload: Workload
    #: Whether it goes to a deployment that shares.
    shares: bool = True
    #: Whether its stream had the provider's own usage; None if it was not one of chunks.
    has_usage: bool | None = None
    #: What was being handled when it was dispatched: an error of an attempt before.
    before: BaseException | None = field(default=None, repr=False)
    began: float = field(default_factory=time.monotonic)

    @property
    def held(self) -> bool:
        return self.reservation.state is State.HELD

    @property
    def verdict(self) -> str:
        """What the client is told: where data is not shared, nothing is free."""
        return self.reservation.verdict.name.lower() if self.shares else "billed"


class _Denied(GuardrailRaisedException):  # type: ignore[misc]
    """A refusal after routing began. LiteLLM neither retries it nor cools a deployment down."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("tollgate", message, False, status_code=status)


class TollgateHandler(CustomLogger):  # type: ignore[misc]
    """The plugin. `handler` is one with the settings of the environment.

    on_billed: `route`: to deployments of the group that do not share, and 429 in a group without any; `deny`: 429;
    `tag`: as if it were FREE, with the response header `x-tollgate-verdict: billed`. **With `tag`, FREE is not certain:
    BILLED requests run in projects that share.**

    on_unavailable, if Tollgate gives no verdict: `billed`: to deployments that do not share; `deny`: 503.

    on_disconnect, of a stream whose client hung up: `keep`: the bound stays counted; `settle`: with LiteLLM's own
    estimate of what was used.
    """

    def __init__(
        self,
        client: aio.Client,
        *,
        on_billed: str = "route",
        on_unavailable: str = "billed",
        on_disconnect: str = "keep",
    ) -> None:
        super().__init__()
        self._client = client
        self._on_billed = _one_of("on_billed", on_billed, *_ON_BILLED)
        self._on_unavailable = _one_of("on_unavailable", on_unavailable, *_ON_UNAVAILABLE)
        self._on_disconnect = _one_of("on_disconnect", on_disconnect, *_ON_DISCONNECT)
        self._attempts: dict[str, _Attempt] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        atexit.register(self._log_open)
        watch_streams(self._stream_ended)
        if on_billed == "tag":
            logger.warning(
                "on_billed is tag: BILLED requests run in projects that share, so FREE is not certain"
            )
        try:
            self._spawn(check_groups(client, on_billed == "route"))
            call_at_sigterm(self._log_open)
        except RuntimeError:
            # Not in the proxy: there is no event loop yet.
            pass

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TollgateHandler:
        """Reads TOLLGATE_ADDR (HOST:PORT, https://HOST:PORT or unix:PATH), _TOKEN, _CA_FILE, _CERT_FILE, _KEY_FILE,
        _TIMEOUT, _ON_BILLED, _ON_UNAVAILABLE and _ON_DISCONNECT. Raises ValueError for a value that none of them may
        have, and for wrong settings of a deployment in the proxy's configuration."""

        def value(name: str, default: str = "") -> str:
            return environment.get(f"TOLLGATE_{name}", "").strip() or default

        address = value("ADDR", "127.0.0.1:50051")
        files = [value(name) or None for name in ("CA_FILE", "CERT_FILE", "KEY_FILE")]
        tls = address.startswith("https://") or any(files)
        try:
            timeout = float(value("TIMEOUT", "2"))
        except ValueError:
            raise ValueError("TOLLGATE_TIMEOUT: not a number of seconds") from None
        log_to_stderr()
        check_config()
        client = aio.Client(
            address.removeprefix("https://"),
            tls=TLS(*files) if tls else None,
            token=value("TOKEN") or None,
            timeout=timeout,
        )
        return cls(
            client,
            on_billed=_one_of("TOLLGATE_ON_BILLED", value("ON_BILLED", "route"), *_ON_BILLED),
            on_unavailable=_one_of(
                "TOLLGATE_ON_UNAVAILABLE", value("ON_UNAVAILABLE", "billed"), *_ON_UNAVAILABLE
            ),
            on_disconnect=_one_of(
                "TOLLGATE_ON_DISCONNECT", value("ON_DISCONNECT", "keep"), *_ON_DISCONNECT
            ),
        )

    # Before an attempt.

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        """Denies here what no deployment may have: at this point a denial costs neither retries nor cooldowns."""
        # LiteLLM copies the metadata for a fallback, and not what is in it.
        verdict: dict[str, str] = {}
        for metadata in _metadatas(data):
            metadata.pop(_KEY, None)
            metadata[_VERDICT_KEY] = verdict
        name = str(data.get("model") or "")
        try:
            if "," in name and any(targets_of(group_of(it.strip())) for it in name.split(",")):
                # LiteLLM sends it to all of them at once, with one metadata for the attempts.
                raise _http_error(400, f"model: {name!r} names more than one group; name one")
            deployments = group_of(name)
            targets = targets_of(deployments)
        except ValueError as error:
            raise _http_error(500, str(error)) from None
        if not targets or self._on_billed == "tag":
            return
        has_others = len([it for it in deployments if target_of(it) is None]) > 0
        if self._on_billed == "route" and has_others:
            return
        attempt = await self._reserve(targets, call_type, data, data.get("messages"))
        if attempt is None and self._on_unavailable == "billed" and has_others:
            return
        if attempt is None or not attempt.reservation.free:
            denial = await self._denial(attempt)
            raise _http_error(denial.status_code, denial.message)
        _mark(data, attempt)

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[dict[str, Any]],
        messages: list[Any] | None,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[dict[str, Any]]:
        """Reserves for the next attempt, and leaves the deployments to which its verdict leads."""
        kwargs = request_kwargs if request_kwargs is not None else {}
        targets = _targets(healthy_deployments)
        attempt = self._attempts.get(_id(kwargs))
        if attempt is not None and not (attempt.held and attempt.target in targets):
            # Of an attempt before, or for another group.
            await self._end(attempt, "another attempt followed")
            attempt = None
        _mark(kwargs, None)
        # Those that share may be left out for a while, such as after a 429.
        group = targets or _targets(group_of(model))[:1]
        if not group or not healthy_deployments:
            return healthy_deployments
        if not targets and self._on_billed == "deny":
            raise _Denied(429, f"no deployment of {model} that shares is available now")
        others = [it for it in healthy_deployments if target_of(it) is None]
        if attempt is None:
            call_type = getattr(kwargs.get("litellm_logging_obj"), "call_type", "")
            attempt = await self._reserve(group, call_type, kwargs, messages)
        if attempt is None and others and self._on_unavailable == "billed":
            return others
        if attempt is not None and targets and self._may_share(attempt):
            _mark(kwargs, attempt)
            return [it for it in healthy_deployments if target_of(it) == attempt.target]
        if attempt is None or not others or self._on_billed == "deny":
            raise await self._denial(attempt)
        attempt.shares = False
        _mark(kwargs, attempt)
        return others

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """The request is about to be sent to this deployment."""
        kind = getattr(call_type, "value", call_type)
        # The router has put the deployment's model and model_info there. A client's litellm_params may be there too.
        params = {"model": kwargs.get("model")}
        deployment = {"model_info": kwargs.get("model_info"), "litellm_params": params}
        target = next(iter(_targets([deployment])), None)
        attempt = self._attempts.get(_id(kwargs))
        if attempt is not None and not attempt.held:
            if target is None or _dispatched.get() == attempt.reservation.request_id:
                # LiteLLM calls this twice for one request, where it translates /v1/messages.
                return None
            raise _Denied(400, "one request to more than one deployment at once can't be reserved")
        if attempt is not None and target is not None:
            if not (
                attempt.target.is_same(target)
                and self._may_share(attempt)
                and await self._covers(attempt, kind, kwargs)
            ):
                await self._end(attempt)
                attempt = None
        if attempt is None and (target is not None or not _id(kwargs)):
            # No filter was asked, as a client named this deployment itself; or the request has changed since.
            attempt = await self._reserve_for(target, kind, kwargs)
            _mark(kwargs, attempt)
        if attempt is None:
            return None
        attempt.shares = target is not None
        _mark(kwargs, attempt)
        attempt.before = sys.exc_info()[1]
        attempt.reservation.dispatched()
        _dispatched.set(attempt.reservation.request_id)
        if kwargs.get("stream") and kind == "acompletion":
            # Without it a stream has no usage.
            options = kwargs.get("stream_options") or {}
            return {**kwargs, "stream_options": {**options, "include_usage": True}}
        return None

    # After an attempt.

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Releases what the provider refused, and keeps what may have run."""
        _dispatched.set("")
        attempt = self._attempts.get(_id(request_data))
        if attempt is None or attempt.held:
            return
        if did_not_run(exception, attempt.before):
            await self._release(attempt)
        else:
            await self._end(attempt, type(exception).__name__)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """The answer is there. What this task sends from now on is another request."""
        _dispatched.set("")

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Settles with the provider's usage. LiteLLM may call this twice; the first one counts."""
        params = kwargs.get("litellm_params") or {}
        attempt = self._attempts.get(_id(params) or _id(kwargs))
        if attempt is None or attempt.held:
            return
        if kwargs.get("cache_hit"):
            await self._release(attempt)
            return
        usage = _usage(response_obj)
        if kwargs.get("stream"):
            hung_up = any(it.get("client_disconnected") for it in _metadatas(params))
            if hung_up and self._on_disconnect == "keep":
                await self._end(attempt, "its client hung up")
                return
            # Where the provider sent no usage, LiteLLM puts its own estimate there, without details.
            has_usage = attempt.has_usage
            if not hung_up and not (_is_detailed(response_obj) if has_usage is None else has_usage):
                usage = None
        if usage is None:
            await self._end(attempt, "it ended without the provider's usage")
            return
        await self._settle(attempt, usage)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """The request has failed as a whole: what was not dispatched is released, and a stream that broke off is kept.
        Other failures were reported by attempt, and an answer that another plugin rejects is yet to be settled."""
        attempt = self._attempts.get(_id(request_data))
        if attempt is not None and (attempt.held or request_data.get("stream")):
            await self._end(attempt, type(original_exception).__name__)

    async def async_post_call_response_headers_hook(
        self, data: dict[str, Any], *arguments: Any, **named: Any
    ) -> dict[str, str] | None:
        """Reports the verdict to the client."""
        for metadata in _metadatas(data):
            verdict = get(metadata.get(_VERDICT_KEY), "verdict")
            if verdict:
                return {"x-tollgate-verdict": verdict}
        return None

    # Reservations.

    async def _reserve(
        self, targets: list[Target], call_type: str, kwargs: Mapping[str, Any], messages: Any
    ) -> _Attempt | None:
        """Reserves for the first target that gives FREE, else BILLED for the first. None: there is no verdict."""
        self._start_sweeper()
        first: _Attempt | None = None
        for target in targets:
            request = request_of(call_type, kwargs, messages, json.loads(target.fields))
            if request is None:
                logger.warning(
                    "the tokens of this %s can't be bounded: it is not sent where data is shared",
                    call_type,
                )
                continue
            try:
                bound = await self._client.estimate(request.path, request.body, model=target.model)
                reservation = await self._client.reserve(
                    model=target.model,
                    tokens=max(1, bound.tokens),
                    org=target.org,
                    project=target.project,
                    workload=bound.workload,
                )
            except TollgateError as error:
                logger.warning("no verdict for %s: %s", target, error)
                continue
            if reservation.billed_reason is BilledReason.STORE_UNAVAILABLE:
                # Whether it counted is unknown.
                await reservation.close()
                continue
            attempt = _Attempt(target, reservation, request.digest, bound.workload)
            if reservation.free:
                if first is not None:
                    await self._end(first)
                self._attempts[reservation.request_id] = attempt
                return attempt
            if first is None:
                self._attempts[reservation.request_id] = first = attempt
            else:
                await reservation.close()
        return first

    async def _reserve_for(
        self, target: Target | None, call_type: str, kwargs: Mapping[str, Any]
    ) -> _Attempt | None:
        """Reserves for a deployment that was named, or for the group of one that does not share. None: it is not
        counted. Raises the denial if the deployment may not have the request."""
        targets = [target] if target else _targets(siblings_of(kwargs.get("model_info")))
        if not targets:
            return None
        if target is None and self._on_billed == "deny":
            raise _Denied(429, "this deployment does not share, and BILLED requests are denied")
        attempt = await self._reserve(targets, call_type, kwargs, kwargs.get("messages"))
        if attempt is None and target is None and self._on_unavailable == "billed":
            return None
        if attempt is not None and (target is None or self._may_share(attempt)):
            return attempt
        raise await self._denial(attempt)

    def _stream_ended(self, params: Mapping[str, Any], has_usage: bool) -> None:
        attempt = self._attempts.get(_id(params))
        if attempt is not None:
            attempt.has_usage = attempt.has_usage or has_usage

    def _may_share(self, attempt: _Attempt) -> bool:
        return attempt.reservation.free or self._on_billed == "tag"

    async def _covers(self, attempt: _Attempt, call_type: str, kwargs: Mapping[str, Any]) -> bool:
        """Whether an attempt's reservation is enough for the request, which others may have changed since."""
        request = request_of(call_type, kwargs, kwargs.get("messages"), {})
        if request is None:
            return False
        if request.digest == attempt.digest:
            return True
        try:
            bound = await self._client.estimate(
                request.path, request.body, model=attempt.target.model
            )
        except TollgateError as error:
            logger.warning("no verdict for %s: %s", attempt.target, error)
            return False
        return bound.tokens <= attempt.reservation.tokens and bound.workload == attempt.workload

    async def _denial(self, attempt: _Attempt | None) -> _Denied:
        """Ends an attempt that is not FREE, and says why."""
        if attempt is None:
            return _Denied(
                503, "Tollgate gave no verdict, and no other deployment may have this request"
            )
        await self._end(attempt)
        reason = attempt.reservation.billed_reason
        return _Denied(
            429, f"the request is not free today ({reason.name if reason else 'BILLED'})"
        )

    async def _end(self, attempt: _Attempt, cause: str = "") -> None:
        """Releases what was not dispatched, keeps and logs the rest, with its cause."""
        reservation = attempt.reservation
        self._attempts.pop(reservation.request_id, None)
        if attempt.held:
            await reservation.close()
        elif not attempt.shares:
            # It may hold free tokens, and took none.
            _log_unsettled(attempt, cause, "are billed")
            await self._settle(attempt, reservation.tokens)
        else:
            reservation.keep()
            _log_unsettled(attempt, cause, "stay counted until midnight")

    async def _settle(self, attempt: _Attempt, tokens: int) -> None:
        reservation = attempt.reservation
        self._attempts.pop(reservation.request_id, None)
        try:
            await reservation.settle(tokens, outside_program=not attempt.shares)
        except NotFoundError:
            unknown = reservation.billed_reason is BilledReason.ORGANIZATION_NOT_ENROLLED
            logger.warning(
                "Tollgate does not know %s %s: %d tokens of project %s are not counted",
                "organization" if unknown else f"reservation {reservation.request_id} of",
                reservation.org,
                tokens,
                attempt.target.project,
            )
            reservation.keep()
        except TollgateError as error:
            reservation.keep()
            cause = f"settling {tokens} tokens failed: {error}"
            _log_unsettled(attempt, cause, "may stay counted until midnight")

    async def _release(self, attempt: _Attempt) -> None:
        self._attempts.pop(attempt.reservation.request_id, None)
        try:
            await attempt.reservation.release()
        except TollgateError as error:
            logger.warning("releasing failed: %s", error)
            await attempt.reservation.close()

    def _start_sweeper(self) -> None:
        sweeper = self._sweeper
        loop = asyncio.get_running_loop()
        if sweeper is None or sweeper.done() or sweeper.get_loop() is not loop:
            self._sweeper = self._spawn(self._sweep())

    async def _sweep(self) -> None:
        """Ends attempts whose end LiteLLM did not report, for as long as there are any."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for attempt in list(self._attempts.values()):
                if now - attempt.began > (_HELD_SECONDS if attempt.held else _DISPATCHED_SECONDS):
                    await self._end(attempt, "LiteLLM did not report its end")
            if not self._attempts:
                return

    def _log_open(self) -> None:
        """Names, at the end of the process, what it may not end any more."""
        for attempt in self._attempts.values():
            outcome = "stay counted until midnight, unless its end is yet reported"
            _log_unsettled(attempt, "the process is ending", outcome)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        try:
            task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            work.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _http_error(status: int, message: str) -> HTTPException:
    kind = "invalid_request_error" if status == 400 else "insufficient_quota"
    error = {"message": message, "type": kind, "code": "tollgate"}
    return HTTPException(status, {"error": error}, {"x-should-retry": "false"})


def _one_of(name: str, value: str, *allowed: str) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(allowed)}")
    return value


def _metadatas(kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its dictionaries of metadata: which one LiteLLM uses depends on the endpoint."""
    both = (kwargs.get("litellm_metadata"), kwargs.get("metadata"))
    return [it for it in both if isinstance(it, dict)]


def _id(kwargs: Mapping[str, Any]) -> str:
    for metadata in _metadatas(kwargs):
        if isinstance(metadata.get(_KEY), str):
            return str(metadata[_KEY])
    return ""


def _mark(kwargs: dict[str, Any], attempt: _Attempt | None) -> None:
    """Names the attempt in the metadata, which LiteLLM hands on to every later hook. None: it is not counted."""
    for metadata in _metadatas(kwargs) or [kwargs.setdefault("metadata", {})]:
        metadata[_KEY] = attempt.reservation.request_id if attempt else _NONE
        if not isinstance(metadata.get(_VERDICT_KEY), dict):
            metadata[_VERDICT_KEY] = {}
        metadata[_VERDICT_KEY]["verdict"] = attempt.verdict if attempt else ""


def _targets(deployments: Iterable[Mapping[str, Any]]) -> list[Target]:
    """What those of the deployments that share are called. Denies the request if their settings are wrong."""
    try:
        return targets_of(deployments)
    except ValueError as error:
        raise _Denied(500, str(error)) from None


def _log_unsettled(attempt: _Attempt, cause: str, outcome: str) -> None:
    reservation = attempt.reservation
    logger.warning(
        "reservation %s of %s was %s and not settled (%s): its %d tokens %s",
        reservation.request_id,
        reservation.org,
        "reserved" if attempt.held else "dispatched",
        cause,
        reservation.tokens,
        outcome,
    )


def _is_detailed(response: Any) -> bool:
    usage = get(response, "usage")
    return any(
        get(usage, name) is not None for name in ("prompt_tokens_details", "input_tokens_details")
    )


def _usage(response: Any) -> int | None:
    """Input and output of the provider's usage. LiteLLM writes an input of 0 where there is none."""
    usage = get(response, "usage")
    for names in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        counts = [get(usage, name) for name in names]
        if isinstance(counts[0], int) and counts[0] > 0:
            return counts[0] + (counts[1] or 0)
    return None


#: The plugin, with the settings of the environment.
handler = TollgateHandler.from_environment()
