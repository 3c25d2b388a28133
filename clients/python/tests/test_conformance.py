"""Runs clients/conformance.json: with threads, with asyncio, and on the fake."""

from __future__ import annotations

import asyncio
import inspect
import json
import unittest
from dataclasses import asdict
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import tollgate_quota
from support import CLIENTS, Service
from tollgate_quota import TollgateError, Workload, aio
from tollgate_quota.testing import FakeTollgate

_TODAY = json.dumps(f"{datetime.now(timezone.utc):%Y-%m-%d}")
CONFORMANCE = json.loads(
    (CLIENTS / "conformance.json").read_text("utf-8").replace('"TODAY"', _TODAY)
)


async def maybe(value: Any) -> Any:
    """Both clients' answers: a coroutine is awaited."""
    return await value if inspect.isawaitable(value) else value


class Case:
    def __init__(self, client: Any, case: dict[str, Any]) -> None:
        self.client, self.case = client, case
        self.reservations: dict[str, Any] = {}

    async def run(self) -> None:
        for number, call in enumerate(self.case["calls"]):
            try:
                await self.check(call)
            except Exception as error:
                where = f"{self.case['name']}: call {number}, {call}"
                raise AssertionError(f"{where}: {error!r}") from error

    async def check(self, call: dict[str, Any]) -> None:
        try:
            answer = await self.make(dict(call))
        except TollgateError as error:
            assert error.code.name == call.get("error"), error
            assert call.get("says", "") in error.message, error
            return
        assert "error" not in call, f"answered: {answer}"
        contains(plain(answer), call.get("expect", {}))

    async def make(self, call: dict[str, Any]) -> Any:
        name, expected = call.pop("call"), ("expect", "error", "says")
        fields = {key: value for key, value in call.items() if key not in expected}
        fields.setdefault("org", self.case["org"])
        if "workload" in fields:
            fields["workload"] = Workload[fields["workload"]]
        if "of" in fields:
            return await self.on_reservation(name, fields)
        if name in ("reserve", "dry_run"):
            alias = fields.pop("as", None)
            fields = {"project": CONFORMANCE["project"], "model": CONFORMANCE["model"], **fields}
            answer = await maybe(getattr(self.client, name)(**fields))
            if name == "dry_run":
                return answer
            self.reservations[alias] = answer
            return answer.decision
        if name == "estimate":
            body = json.dumps(fields["body"]).encode()
            return await maybe(self.client.estimate(fields["path"], body))
        return await maybe(getattr(self.client, name)(**fields))

    async def on_reservation(self, name: str, fields: dict[str, Any]) -> Any:
        reservation = self.reservations[fields.pop("of")]
        fields.pop("org")
        if name == "leave":
            await maybe(reservation.close())
            return {"state": reservation.state}
        return await maybe(getattr(reservation, name)(**fields))


def plain(value: Any) -> Any:
    """The answer as the file has it: enums by name."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value


def contains(got: Any, wanted: Any) -> None:
    for key, value in wanted.items():
        if key == "pools":
            by_name = {pool["pool"]: pool for pool in got["pools"]}
            for pool in value:
                contains(by_name[pool["pool"]], pool)
        elif key == "rows":
            assert len(got[key]) == len(value), f"{len(got[key])} rows"
            for its, row in zip(got[key], value):
                contains(its, row)
        else:
            assert got[key] == value, f"{key} is {got[key]!r}, not {value!r}"


class Conformance(unittest.TestCase):
    def setUp(self) -> None:
        self.service = Service(policy="\n".join(CONFORMANCE["policy"]))
        self.addCleanup(self.service.close)

    def test_threads(self) -> None:
        with tollgate_quota.Client(self.service.address) as client:
            for case in CONFORMANCE["cases"]:
                with self.subTest(case["name"]):
                    asyncio.run(Case(client, case).run())

    def test_asyncio(self) -> None:
        async def run() -> None:
            async with aio.Client(self.service.address) as client:
                for case in CONFORMANCE["cases"]:
                    with self.subTest(case["name"]):
                        await Case(client, case).run()

        asyncio.run(run())

    def test_the_fake_answers_as_the_service_does(self) -> None:
        cases = [case for case in CONFORMANCE["cases"] if case["fake"]]
        self.assertGreater(len(cases), 10)
        for case in cases:
            for client in (FakeTollgate().client(), FakeTollgate().aio_client()):
                with self.subTest(case["name"]):
                    asyncio.run(Case(client, case).run())


if __name__ == "__main__":
    unittest.main()
