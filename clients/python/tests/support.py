"""A real service for the tests. TOLLGATE_TEST_PROGRAM names its program."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parents[2]
REPOSITORY = CLIENTS.parent

#: Enough for a busy machine.
TIMEOUT = 30.0


def program() -> str:
    """The service's program."""
    return os.environ["TOLLGATE_TEST_PROGRAM"]


def certificates() -> Path:
    """A folder with ca.pem, and server and client certificates of that authority, for localhost."""
    return Path(os.environ["TOLLGATE_TEST_CERTIFICATES"])


class Service:
    """A `tollgate serve` process, on free ports, with its counters in memory."""

    def __init__(
        self,
        *,
        policy: str = "",
        callers: str = "",
        settings: str = "",
        listen: str = "127.0.0.1:0",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._arguments = ["--store", "memory:", "--log-format", "json"]
        for name, text in (("policy", policy), ("callers", callers), ("config", settings)):
            if text:
                (folder / name).write_text(text, "utf-8")
                self._arguments += [f"--{name}", str(folder / name)]
        self._log = folder / "log"
        self.address = self._start(listen)

    def _start(self, listen: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [program(), "serve", "--listen", listen, "--http-listen", "127.0.0.1:0"]
                + self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                cwd=self._folder.name,
            )
        return wait_for(self._listening)

    def _listening(self) -> str | None:
        text = self._log.read_text("utf-8")
        if self.process.poll() is not None:
            raise AssertionError(text)
        for line in text.splitlines():
            try:
                started = json.loads(line)
            except ValueError:
                # Not written to its end.
                continue
            if isinstance(started.get("listen"), str):
                return str(started["listen"])
        return None

    def restart(self) -> None:
        """Starts it again at the same address, with empty counters."""
        self.stop()
        self._start(self.address)

    def stop(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it, and removes its files."""
        self.stop()
        self._folder.cleanup()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for(condition: Any, timeout: float = TIMEOUT) -> Any:
    """Waits until a function returns something true, and returns that."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{condition} did not become true")
        time.sleep(0.01)
