"""The request that LiteLLM sends to the provider, for Tollgate to bound its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The paths by which the service knows the kinds of requests whose tokens it can bound.
_PATHS = {
    "acompletion": "/v1/chat/completions",
    "anthropic_messages": "/v1/chat/completions",
    "aresponses": "/v1/responses",
    "aembedding": "/v1/embeddings",
}
# What LiteLLM or another plugin may have changed since the client sent its body.
FIELDS = (
    "input", "instructions", "system", "prompt", "text", "tools", "functions", "response_format",
    "prediction", "n", "max_tokens", "max_completion_tokens", "max_output_tokens",
    "web_search_options", "previous_response_id", "conversation", "audio", "service_tier",
)  # fmt: skip
_MAXIMA = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_INTERNAL = frozenset({"metadata", "proxy_server_request", "secret_fields", "shared_session"})
_TEXT_BLOCKS = frozenset({"text", "thinking", "tool_use", "tool_result"})


@dataclass(frozen=True)
class Request:
    """What Tollgate is asked to bound."""

    path: str
    body: bytes

    @property
    def digest(self) -> int:
        """The same for the same request, in this process."""
        return hash((self.path, self.body))


def request_of(
    call_type: str, kwargs: Mapping[str, Any], messages: Any, defaults: Mapping[str, Any]
) -> Request | None:
    """The request as the provider will have it: the deployment's fields, then the client's, with what has changed
    since, then `extra_body`. None: its tokens can't be bounded."""
    path = _PATHS.get(call_type)
    if path is None:
        return None
    sent = (kwargs.get("proxy_server_request") or {}).get("body")
    sent = sent if isinstance(sent, dict) else {}
    changed = {key: kwargs[key] for key in FIELDS if kwargs.get(key) is not None}
    body = {**defaults, **sent, **changed}
    if messages is not None:
        body["messages"] = messages
    if defaults.get("tools"):
        # LiteLLM sends both.
        client_tools = kwargs.get("tools") or sent.get("tools") or []
        body["tools"] = [*defaults["tools"], *client_tools]
    if call_type == "anthropic_messages" and not _translate_messages(body):
        return None
    extra = kwargs.get("extra_body") or body.get("extra_body") or {}
    if not isinstance(extra, dict) or "model" in extra:
        return None
    if extra and call_type == "anthropic_messages":
        # Not all of LiteLLM's translations have it.
        return None
    body.update(extra)
    dropped = kwargs.get("additional_drop_params") or body.get("additional_drop_params") or []
    left_out = {"extra_body", "additional_drop_params", *_INTERNAL}
    if isinstance(dropped, list):
        left_out |= {it for it in _MAXIMA if it in dropped}
    # What the proxy put there is no part of the request, and names its caller.
    for key in [it for it in body if it in left_out or it.startswith(("_", "litellm_"))]:
        del body[key]
    return Request(path, json.dumps(body, default=str, sort_keys=True).encode())


def _translate_messages(body: dict[str, Any]) -> bool:
    """Makes a Chat Completions request of one of /v1/messages, as far as its tokens go: all of its text counts, which
    is at least its tokens. False: it has more than text, such as images, whose tokens the bytes don't bound."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(it, dict) and _is_text(it.get("content")) for it in messages
    ):
        return False
    text = json.dumps([body.pop("system", None), messages], default=str)
    body["messages"] = [{"role": "user", "content": text}]
    if isinstance(body.get("tools"), list):
        # A client's tool has no type, or `custom`; others are the provider's.
        body["tools"] = [
            {"type": "function", "function": it}
            if isinstance(it, dict) and it.get("type", "custom") == "custom"
            else it
            for it in body["tools"]
        ]
    return True


def _is_text(content: Any) -> bool:
    """Whether a message's content in Anthropic's format is text and calls of the client's tools alone."""
    if not isinstance(content, list):
        return content is None or isinstance(content, str)
    return all(
        isinstance(it, dict) and it.get("type") in _TEXT_BLOCKS and _is_text(it.get("content"))
        for it in content
    )
