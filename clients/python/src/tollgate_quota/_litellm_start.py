"""What the LiteLLM plugin sets up and checks when the proxy starts."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from . import aio
from ._litellm_deployment import Target, group_of, router, target_of, targets_of
from .answers import BilledReason
from .errors import TollgateError

logger = logging.getLogger("tollgate_quota.litellm")

#: Seconds for which the start waits for the router, whose groups it checks.
_ROUTER_SECONDS = 120.0
# What passes by itself.
_TEMPORARY = frozenset(
    {
        BilledReason.POOL_CLOSED,
        BilledReason.ALLOWANCE_EXCEEDED,
        BilledReason.DAY_CLOSED,
        BilledReason.STORE_UNAVAILABLE,
    }
)


def log_to_stderr() -> None:
    """Logs with time, level and name, unless logging is configured otherwise."""
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # LiteLLM may configure the root logger later.
    handler.addFilter(lambda _: not logging.getLogger().handlers)
    logging.getLogger("tollgate_quota").addHandler(handler)


def call_at_sigterm(function: Callable[[], None]) -> None:
    """Calls it in the running event loop when the process is told to end. At the end itself nothing can be called: the
    server, once it has shut down, ends the process by the same signal."""
    loop = asyncio.get_running_loop()
    server = signal.getsignal(signal.SIGTERM)
    if not callable(server) or threading.current_thread() is not threading.main_thread():
        return

    def handle(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(function)
        server(number, frame)

    signal.signal(signal.SIGTERM, handle)


async def check_groups(client: aio.Client, denies_without_others: bool) -> None:
    """Warns, once the router is there, of what its groups lack, and of what Tollgate will never call FREE."""
    end = time.monotonic() + _ROUTER_SECONDS
    while router() is None:
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.1)
    shares: dict[Target, str] = {}
    is_wrong = False
    for name in router().get_model_names():
        deployments = group_of(name)
        try:
            targets = targets_of(deployments)
        except ValueError as error:
            logger.error("%s", error)
            is_wrong = True
            continue
        shares |= {target: name for target in targets}
        if any(target_of(it) and it["litellm_params"].get("max_retries") for it in deployments):
            logger.warning(
                "model group %s: max_retries sends a request again without a reservation; use num_retries",
                name,
            )
        if targets and denies_without_others and all(target_of(it) for it in deployments):
            logger.warning(
                "model group %s has no deployment that does not share: BILLED requests are denied (429)",
                name,
            )
    if not shares and not is_wrong:
        logger.warning("no deployment has model_info.tollgate: nothing is reserved")
    await _check_targets(client, shares)


async def _check_targets(client: aio.Client, shares: dict[Target, str]) -> None:
    for target, name in shares.items():
        try:
            decision = await client.dry_run(
                model=target.model, tokens=1, org=target.org, project=target.project
            )
        except TollgateError as error:
            logger.warning("no verdict for %s at the start: %s", target, error)
            return
        reason = decision.billed_reason
        if reason is BilledReason.ORGANIZATION_NOT_ENROLLED:
            logger.warning(
                "model group %s: Tollgate does not know organization %s, or it does not share: "
                "its requests are BILLED",
                name,
                target.org,
            )
        elif reason is not None and reason not in _TEMPORARY:
            logger.warning("model group %s: requests of %s are BILLED (%s)", name, target, reason)
