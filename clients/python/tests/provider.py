"""A stand-in for the provider: Chat Completions, Responses and Embeddings, JSON and SSE.

A message's text steers it: `status=503`, `hang` (no answer before `go_on`), `endless` (a stream that goes on until
its reader leaves), `cut` (the stream ends without its last chunks), `silent` (it has no usage), `plain` (its
usage has no details), `joined` (its usage comes with the end of the text), `counted` (every chunk has the usage so
far), `drop` (the connection is closed in mid-stream), `large` (an error that calls the request too large), `used=P+C`
(the tokens of the answer). It counts what it saw by API key.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: How long a `hang` or an `endless` stream lasts if no test ends it: longer than any test waits.
HANG_SECONDS = 120.0


class Provider:
    """A server on a free port of this machine."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: By API key: the requests that arrived.
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        #: By API key: the tokens of the requests that ran, as the provider would bill them.
        self.tokens: dict[str, int] = defaultdict(int)
        #: The statuses of the next requests.
        self.statuses: list[int] = []
        #: How many of the next requests end with a reset of their connection.
        self.resets = 0
        self._going_on = threading.Event()
        provider = self

        class Handler(_Handler):
            pass

        Handler.provider = provider
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def reset(self) -> None:
        """Forgets what it saw."""
        with self.lock:
            self.requests.clear()
            self.tokens.clear()
            self.statuses.clear()
            self.resets = 0
            # What hangs from now on hangs, whatever was ended before.
            self._going_on.set()
            self._going_on = threading.Event()

    def go_on(self) -> None:
        """Answers what hangs."""
        self._going_on.set()

    def close(self) -> None:
        """Stops it."""
        self.go_on()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    provider: Provider
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionResetError:
            # A proxy that was stopped, or whose client hung up.
            pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        text = json.dumps(body.get("messages") or body.get("input"))
        with self.provider.lock:
            self.provider.requests[key].append(body)
            if self.provider.resets:
                self.provider.resets -= 1
                return self._reset()
            status = self.provider.statuses.pop(0) if self.provider.statuses else 0
            going_on = self.provider._going_on
        asked = re.search(r"status=(\d+)", text)
        status = status or (int(asked[1]) if asked else 200)
        if status != 200:
            # LiteLLM goes by this text, whatever the status.
            large = "Request too large" if "large" in text else ""
            message = f"stand-in {status} {large}"
            return self._json(status, {"error": {"message": message, "code": status}})
        used = re.search(r"used=(\d+)\+(\d+)", text)
        prompt, completion = (int(used[1]), int(used[2])) if used else (10, 20)
        with self.provider.lock:
            self.provider.tokens[key] += prompt + completion
        if "hang" in text:
            going_on.wait(HANG_SECONDS)
        try:
            if self.path.endswith("/embeddings"):
                self._embeddings(body, text, prompt)
            elif self.path.endswith("/responses"):
                self._responses(body, prompt, completion)
            elif body.get("stream"):
                self._stream(body, text, prompt, completion)
            else:
                self._chat(body, prompt, completion)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chat(self, body: dict[str, Any], prompt: int, completion: int) -> None:
        message = {"role": "assistant", "content": "Hello."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._json(200, {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [choice], "usage": _usage(prompt, completion),
        })  # fmt: skip

    def _embeddings(self, body: dict[str, Any], text: str, prompt: int) -> None:
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        answer: dict[str, Any] = {"object": "list", "model": body["model"], "data": [vector]}
        if "silent" not in text:
            answer["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt}
        self._json(200, answer)

    def _responses(self, body: dict[str, Any], prompt: int, completion: int) -> None:
        content = [{"type": "output_text", "text": "Hello.", "annotations": []}]
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
        answer = {
            "id": "resp_1", "object": "response", "created_at": 1, "status": "completed",
            "model": body["model"], "output": [item | {"content": content}],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "usage": {
                "input_tokens": prompt, "output_tokens": completion,
                "total_tokens": prompt + completion,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }  # fmt: skip
        if not body.get("stream"):
            return self._json(200, answer)
        self._sse()
        created = answer | {"status": "in_progress", "output": [], "usage": None}
        self._event({"type": "response.created", "response": created, "sequence_number": 0})
        self._event({
            "type": "response.output_text.delta", "item_id": "m", "output_index": 0,
            "content_index": 0, "delta": "Hello.", "sequence_number": 1,
        })  # fmt: skip
        self._event({"type": "response.completed", "response": answer, "sequence_number": 2})
        self._chunk(b"")

    def _stream(self, body: dict[str, Any], text: str, prompt: int, completion: int) -> None:
        self._sse()
        base = {
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": body["model"],
        }  # fmt: skip
        words = ("Hel", "lo", ".")
        for word in self._endless() if "endless" in text else words:
            delta = {"role": "assistant", "content": word}
            event = base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            if "counted" in text:
                event["usage"] = _usage(prompt, 1)
            self._event(event)
            if "drop" in text:
                self.close_connection = True
                return
        if "cut" not in text:
            end = base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            usage: dict[str, Any] = {"usage": _usage(prompt, completion, "plain" not in text)}
            if "silent" in text or not (body.get("stream_options") or {}).get("include_usage"):
                usage = {}
            self._event(end | usage if "joined" in text else end)
            if usage and "joined" not in text:
                self._event(base | {"choices": []} | usage)
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _endless(self) -> Iterator[str]:
        end = time.monotonic() + HANG_SECONDS
        while time.monotonic() < end:
            yield "on "
            time.sleep(0.1)

    def _sse(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _usage(prompt: int, completion: int, has_details: bool = True) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }  # fmt: skip
    if has_details:
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
        usage["completion_tokens_details"] = {"reasoning_tokens": 0}
    return usage
