"""Whether a stream brought the provider's own usage. Where it did not, LiteLLM puts an estimate in its place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import litellm


def get(value: Any, name: str) -> Any:
    """A field of an object or a dictionary; None if it has none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def has_usage(chunks: Iterable[Any]) -> bool:
    """Whether the chunks of a stream end it, and have the provider's count of both input and output."""
    ended = has_input = has_output = False
    for chunk in chunks:
        ended = ended or any(get(it, "finish_reason") for it in get(chunk, "choices") or ())
        usage = get(chunk, "usage")
        # They may come in different chunks. LiteLLM puts 0 where a chunk has no input, and no request has none.
        has_input = has_input or bool(get(usage, "prompt_tokens"))
        has_output = has_output or get(usage, "completion_tokens") is not None
    return ended and has_input and has_output


def watch_streams(report: Callable[[Mapping[str, Any], bool], None]) -> None:
    """Calls `report` as LiteLLM puts a stream of chunks together: with the call's parameters, and whether the stream
    has the provider's usage. No hook of LiteLLM sees the chunks before their usage is taken off."""
    build = litellm.stream_chunk_builder

    @functools.wraps(build)
    def stream_chunk_builder(chunks: list[Any], *arguments: Any, **named: Any) -> Any:
        details = getattr(named.get("logging_obj"), "model_call_details", None)
        if details:
            report(details.get("litellm_params") or {}, has_usage(chunks or ()))
        return build(chunks, *arguments, **named)

    litellm.stream_chunk_builder = stream_chunk_builder
