"""Whether an attempt that failed in LiteLLM ran at the provider."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
import httpcore
import httpx
import openai

# What the provider answered without having run the request.
_REFUSALS = frozenset({400, 401, 403, 404, 413, 422, 429})
# No connection was made. LiteLLM makes httpx.ConnectError also of a connection that broke after the request was sent.
_NOT_CONNECTED = (httpx.ConnectTimeout, httpx.PoolTimeout)
_CONNECT_CAUSES = (aiohttp.ClientConnectorError, httpcore.ConnectError)


def did_not_run(error: BaseException, before: BaseException | None) -> bool:
    """Whether the provider refused a request, or never got it. LiteLLM may have sent it twice: then this holds for
    both. `before` is an earlier attempt's error, which Python chains to this attempt's."""
    answers = [answer for it in _causes(error, before) if (answer := _is_harmless(it)) is not None]
    return bool(answers) and all(answers)


def _is_harmless(error: BaseException) -> bool | None:
    """Whether the provider ran nothing, by its own status or the connection's error; None if this error is neither.
    LiteLLM's own errors are derived from openai's, and have another status than some of the answers."""
    is_of_litellm = type(error).__module__.startswith("litellm.exceptions")
    if isinstance(error, openai.APIStatusError) and not is_of_litellm:
        return error.status_code in _REFUSALS
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _REFUSALS
    if isinstance(error, httpx.ConnectError):
        return isinstance(error.__cause__, _CONNECT_CAUSES)
    if isinstance(error, httpx.RequestError):
        return isinstance(error, _NOT_CONNECTED)
    return None


def _causes(error: BaseException, before: BaseException | None) -> Iterable[BaseException]:
    """An error, and what led to it, up to `before`."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause is not before and cause not in seen:
        seen.append(cause)
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context
    return seen
