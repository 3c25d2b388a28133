"""What becomes of a reservation when something goes wrong; connections, credentials, values."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import pickle
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import grpc
from support import TIMEOUT, Service, certificates
from tollgate_quota import (
    TLS,
    AlreadyExistsError,
    BilledReason,
    Client,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    PoolQuota,
    ProviderUsage,
    State,
    TollgateError,
    UnauthenticatedError,
    UnavailableError,
    Usage,
    UsageRow,
    Verdict,
    aio,
)
from tollgate_quota._proto import quota_pb2 as pb
from tollgate_quota.testing import FakeTollgate

REQUEST: dict[str, Any] = {"model": "gpt-4o", "tokens": 1_000}
DEMO: dict[str, Any] = {"org": "org-demo", "project": "search"}


class OvertakenFake(FakeTollgate):
    """A Reserve arrives only after it has failed, and after its Release."""

    def __init__(self) -> None:
        super().__init__()
        self._late: Any = None

    def answer(self, method: str, request: Any) -> Any:
        if method == "Reserve":
            self._late = request
            raise DeadlineExceededError(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        try:
            return super().answer(method, request)
        finally:
            if self._late is not None:
                super().answer("Reserve", self._late)
                self._late = None


class Failures(unittest.TestCase):
    """With threads, on the fake: what fails, and what then counts."""

    def setUp(self) -> None:
        self.fake = FakeTollgate()
        self.client = self.fake.client()

    def test_an_error_before_the_dispatch_releases(self) -> None:
        with self.assertRaises(KeyError), self.client.reserve(**REQUEST):
            raise KeyError
        self.assertEqual(self.fake.used(), 0)
        self.assertEqual(self.fake.open, [])

    def test_an_error_after_the_dispatch_keeps_and_logs(self) -> None:
        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            with self.assertRaises(KeyError), self.client.reserve(**REQUEST) as reservation:
                reservation.dispatched()
                raise KeyError
        self.assertIs(reservation.state, State.KEPT)
        self.assertEqual((self.fake.used(), self.fake.open), (1_000, [reservation.request_id]))
        self.assertIn(reservation.request_id, logs.output[0])

    def test_a_settle_that_fails_raises_and_keeps(self) -> None:
        self.fake.fail_next("Settle", grpc.StatusCode.UNAVAILABLE, "the store is down")
        with self.assertLogs("tollgate_quota", "WARNING"):
            with self.assertRaises(UnavailableError), self.client.reserve(**REQUEST) as reservation:
                reservation.settle(10)
        self.assertEqual(self.fake.used(), 1_000)
        # It can be settled by its id later.
        self.assertTrue(self.client.settle(reservation.request_id, 10).free)
        self.assertEqual((self.fake.used(), self.fake.open), (10, []))

    def test_a_release_that_fails_when_it_is_left_is_logged(self) -> None:
        self.fake.fail_next("Release", grpc.StatusCode.UNAVAILABLE)
        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            with self.client.reserve(**REQUEST):
                pass
        self.assertIn("could not be released", logs.output[0])

    def test_a_reserve_of_unknown_outcome_is_released(self) -> None:
        for code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            self.fake.fail_next("Reserve", code, counted=True)
            with self.assertNoLogs("tollgate_quota"), self.assertRaises(TollgateError):
                self.client.reserve(**REQUEST)
            self.assertEqual((self.fake.calls[-1], self.fake.used()), ("Release", 0))

    def test_a_release_that_overtakes_its_reserve_is_made_again(self) -> None:
        fake = OvertakenFake()
        with self.assertNoLogs("tollgate_quota"), self.assertRaises(DeadlineExceededError):
            fake.client().reserve(**REQUEST)
        self.assertEqual((len(fake.reservations), fake.open, fake.used()), (1, [], 0))

    def test_a_reserve_that_stays_unknown_is_logged(self) -> None:
        self.fake.fail_next("Reserve", grpc.StatusCode.UNAVAILABLE)
        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            with self.assertRaises(UnavailableError):
                self.client.reserve(**REQUEST, timeout=0.6)
        self.assertIn("NOT_FOUND", logs.output[0])
        self.assertEqual(self.fake.calls, ["Reserve", "Release", "Release"])

    def test_a_reserve_that_was_refused_is_not_released(self) -> None:
        with self.assertRaises(InvalidArgumentError) as raised:
            self.client.reserve(model="", tokens=1)
        self.assertFalse(raised.exception.outcome_unknown)
        self.assertEqual(self.fake.calls, ["Reserve"])

    def test_a_reserve_of_unknown_outcome_that_is_not_released_either_is_logged(self) -> None:
        self.fake.fail_next("Reserve", grpc.StatusCode.UNAVAILABLE, counted=True)
        self.fake.fail_next("Release", grpc.StatusCode.UNAVAILABLE)
        with self.assertLogs("tollgate_quota", "WARNING"), self.assertRaises(UnavailableError):
            self.client.reserve(**REQUEST)

    def test_what_is_settled_is_neither_settled_otherwise_nor_released(self) -> None:
        with self.client.reserve(**REQUEST) as reservation:
            reservation.settle(10)
            self.assertTrue(reservation.settle(10).replayed)
            with self.assertRaises(AlreadyExistsError):
                reservation.settle(11)
            with self.assertRaises(FailedPreconditionError):
                reservation.release()
        self.assertIs(reservation.state, State.SETTLED)

    def test_what_is_or_may_be_released_is_not_dispatched(self) -> None:
        reservation = self.client.reserve(**REQUEST)
        answer = self.fake.answer

        def meanwhile(method: str, request: Any) -> Any:
            with self.assertRaisesRegex(FailedPreconditionError, "RELEASING"):
                reservation.dispatched()
            return answer(method, request)

        with patch.object(self.fake, "answer", meanwhile):
            reservation.release()
        with self.assertRaisesRegex(FailedPreconditionError, "RELEASED") as raised:
            reservation.dispatched()
        self.assertFalse(raised.exception.outcome_unknown)
        other = self.client.reserve(**REQUEST)
        with patch.object(self.fake, "answer", meanwhile):
            reservation = other
            other.close()
        self.assertIs(other.state, State.RELEASED)

    def test_a_release_of_unknown_outcome_is_made_again_and_never_dispatched(self) -> None:
        for may_have_run in (False, True):
            reservation = self.client.reserve(**REQUEST)
            if may_have_run:
                reservation.dispatched()
                reservation.dispatched()
            self.fake.fail_next("Release", grpc.StatusCode.UNAVAILABLE, counted=True)
            with self.assertRaises(UnavailableError):
                reservation.release()
            with self.assertRaises(FailedPreconditionError):
                reservation.dispatched()
            with self.assertNoLogs("tollgate_quota"):
                reservation.close()
            self.assertIs(reservation.state, State.RELEASED)

    def test_what_is_kept_or_settled_is_not_dispatched_again(self) -> None:
        kept, settled = self.client.reserve(**REQUEST), self.client.reserve(**REQUEST)
        kept.keep()
        settled.settle(10)
        for reservation in (kept, settled):
            with self.assertRaises(FailedPreconditionError):
                reservation.dispatched()
        # Its use became known after all.
        kept.settle(20)
        self.assertEqual((self.fake.used(), self.fake.open), (30, []))

    def test_every_reservation_has_an_id_of_its_own(self) -> None:
        ids = {self.client.reserve(**REQUEST).request_id for _ in range(100)}
        self.assertEqual(len(ids), 100)

    def test_the_fake_gives_the_answers_that_a_test_prepares(self) -> None:
        self.fake.bill_next(BilledReason.STORE_UNAVAILABLE)
        with self.client.reserve(**REQUEST) as reservation:
            self.assertIs(reservation.verdict, Verdict.BILLED)
            self.assertIs(reservation.billed_reason, BilledReason.STORE_UNAVAILABLE)
        self.assertEqual(self.fake.calls, ["Reserve", "Release"])


class SlowFake(FakeTollgate):
    """Answers a call of asyncio only when it may."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method, self.arrived, self.may_answer = method, asyncio.Event(), asyncio.Event()

    def slow_client(self) -> aio.Client:
        client = self.aio_client()
        quick = client._transport

        class Slow:
            async def call(_, method: str, request: Any, timeout: float) -> Any:
                answer = await quick.call(method, request, timeout)
                if method == self.method:
                    self.arrived.set()
                    await self.may_answer.wait()
                return answer

            async def close(_) -> None:
                await quick.close()

        client._transport = Slow()
        return client


class Cancellation(unittest.IsolatedAsyncioTestCase):
    """With asyncio: callers whose own user hung up."""

    async def cancelled(self, fake: SlowFake, work: Any) -> None:
        task = asyncio.create_task(work())
        await fake.arrived.wait()
        task.cancel()
        fake.may_answer.set()
        with self.assertRaises(asyncio.CancelledError):
            await task

    async def test_a_cancelled_reserve_is_released(self) -> None:
        fake = SlowFake("Reserve")
        async with fake.slow_client() as client:
            await self.cancelled(fake, lambda: client.reserve(**REQUEST))
        self.assertEqual((fake.calls, fake.used()), (["Reserve", "Release"], 0))

    async def test_a_cancelled_settle_is_carried_to_its_end(self) -> None:
        fake = SlowFake("Settle")
        async with fake.slow_client() as client:

            async def work() -> None:
                async with await client.reserve(**REQUEST) as reservation:
                    await reservation.settle(10)

            with self.assertNoLogs("tollgate_quota"):
                await self.cancelled(fake, work)
        self.assertEqual((fake.open, fake.used()), ([], 10))

    async def test_a_cancelled_release_after_the_dispatch_is_carried_to_its_end(self) -> None:
        fake = SlowFake("Release")
        states = []
        async with fake.slow_client() as client:

            async def work() -> None:
                async with await client.reserve(**REQUEST) as reservation:
                    reservation.dispatched()
                    try:
                        await reservation.release()
                    finally:
                        await reservation.close()
                        states.append(reservation.state)

            with self.assertNoLogs("tollgate_quota"):
                await self.cancelled(fake, work)
        self.assertEqual((states, fake.used()), ([State.RELEASED], 0))
        self.assertEqual(fake.calls, ["Reserve", "Release"])

    async def test_who_is_cancelled_before_the_dispatch_releases(self) -> None:
        fake = SlowFake("Release")
        async with fake.slow_client() as client:

            async def work() -> None:
                async with await client.reserve(**REQUEST):
                    pass

            await self.cancelled(fake, work)
        self.assertEqual((fake.open, fake.used()), ([], 0))

    async def test_who_is_cancelled_after_the_dispatch_keeps(self) -> None:
        fake = FakeTollgate()
        client = fake.aio_client()
        dispatched = asyncio.Event()

        async def work() -> None:
            async with await client.reserve(**REQUEST) as reservation:
                reservation.dispatched()
                dispatched.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await dispatched.wait()
        with self.assertLogs("tollgate_quota", "WARNING"):
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
        self.assertEqual((len(fake.open), fake.used()), (1, 1_000))

    async def test_a_reserve_of_unknown_outcome_is_released(self) -> None:
        fake = FakeTollgate()
        fake.fail_next("Reserve", grpc.StatusCode.DEADLINE_EXCEEDED, counted=True)
        async with fake.aio_client() as client:
            with self.assertRaises(DeadlineExceededError):
                await client.reserve(**REQUEST)
        self.assertEqual((fake.open, fake.used()), ([], 0))

    async def test_a_release_that_overtakes_its_reserve_is_made_again(self) -> None:
        fake = OvertakenFake()
        with self.assertNoLogs("tollgate_quota"):
            async with fake.aio_client() as client:
                with self.assertRaises(DeadlineExceededError):
                    await client.reserve(**REQUEST)
        self.assertEqual((len(fake.reservations), fake.open, fake.used()), (1, [], 0))

    async def test_a_reserve_that_stays_unknown_is_logged(self) -> None:
        fake = FakeTollgate()
        fake.fail_next("Reserve", grpc.StatusCode.UNAVAILABLE)
        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            async with fake.aio_client() as client:
                with self.assertRaises(UnavailableError):
                    await client.reserve(**REQUEST, timeout=0.6)
        self.assertIn("NOT_FOUND", logs.output[0])
        self.assertEqual(fake.calls, ["Reserve", "Release", "Release"])


class Connections(unittest.TestCase):
    """With a real service."""

    def service(self, **settings: Any) -> Service:
        service = Service(**settings)
        self.addCleanup(service.close)
        return service

    def test_a_call_during_a_restart_is_retried(self) -> None:
        service = self.service()
        with Client(service.address, **DEMO, timeout=TIMEOUT) as client:
            self.assertTrue(client.reserve(**REQUEST).free)
            service.stop()
            with ThreadPoolExecutor() as pool:
                call = pool.submit(client.reserve, **REQUEST)
                service.restart()
                self.assertEqual(call.result().decision.used, 1_000)

    def test_without_a_service_a_call_ends_by_its_timeout(self) -> None:
        service = self.service()
        service.stop()
        reason = rf"\({service.address}: .*Connection refused"

        async def with_asyncio() -> None:
            async with aio.Client(service.address, **DEMO, timeout=0.5) as client:
                with self.assertRaisesRegex(DeadlineExceededError, reason):
                    await client.reserve(**REQUEST)

        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            with Client(service.address, **DEMO, timeout=0.5) as client:
                with self.assertRaisesRegex(DeadlineExceededError, reason) as raised:
                    client.reserve(**REQUEST)
            asyncio.run(with_asyncio())
        self.assertTrue(raised.exception.outcome_unknown)
        self.assertEqual(len(logs.output), 2)

    def test_closing_waits_for_a_service_that_is_away_no_longer_than_a_second(self) -> None:
        service = self.service()
        service.stop()

        async def reserve(client: aio.Client) -> None:
            await client.reserve(**REQUEST)

        async def with_asyncio() -> float:
            client = aio.Client(service.address, **DEMO, timeout=TIMEOUT)
            task = asyncio.create_task(reserve(client))
            await asyncio.sleep(0.1)
            # Its release, in the background, has the whole timeout.
            task.cancel()
            await asyncio.wait([task])
            began = time.monotonic()
            await client.close()
            return time.monotonic() - began

        client = Client(service.address, **DEMO, timeout=TIMEOUT)
        with self.assertLogs("tollgate_quota", "WARNING") as logs:
            client._transport.in_background(lambda: client._release_unknown("o", "id", None))
            began = time.monotonic()
            client.close()
            seconds = [time.monotonic() - began, asyncio.run(with_asyncio())]
        # The service config bounds a call to 10 s.
        self.assertLess(max(seconds), 6)
        self.assertEqual(len(logs.output), 2)

    def test_a_call_takes_two_seconds_at_most_unless_it_is_set_otherwise(self) -> None:
        self.assertEqual(Client("localhost:1")._timeout, 2)
        self.assertEqual(aio.Client("localhost:1")._timeout, 2)

    def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            service = self.service(listen=f"unix:{folder}/socket")
            with Client(f"unix:{folder}/socket", token="unused", **DEMO) as client:
                self.assertTrue(client.reserve(**REQUEST).free)
            service.stop()

    def test_tokens(self) -> None:
        digest = hashlib.sha256(b"secret").hexdigest()
        callers = f"""
            [callers.gateway]
            tokens = ["sha256:{digest}"]
            roles = ["reserve"]
            organizations = ["org-demo"]
        """
        address = self.service(callers=callers).address
        tokens = iter(["secret", "wrong"])
        with Client(address, token=lambda: next(tokens), **DEMO) as client:
            self.assertTrue(client.reserve(**REQUEST).free)
            with self.assertRaises(UnauthenticatedError):
                client.reserve(**REQUEST)
        with Client(address, token="secret", **DEMO) as client:
            with self.assertRaises(PermissionDeniedError):
                client.reserve(**REQUEST, org="org-other")
            with self.assertRaises(PermissionDeniedError):
                client.quota()
        with Client(address, **DEMO) as client, self.assertRaises(UnauthenticatedError):
            client.reserve(**REQUEST)

    def test_a_token_that_can_not_be_sent_is_named_and_nothing_is_sent(self) -> None:
        address = self.service().address

        def fails() -> str:
            raise OSError("secret")

        async def with_asyncio(token: Any) -> None:
            async with aio.Client(address, token=token, **DEMO) as client:
                await client.reserve(**REQUEST)

        for token in ("sec\nret", "sec\x00ret", "sec\x7fret", "secrét", fails):
            with self.subTest(token), self.assertNoLogs("tollgate_quota"):
                with Client(address, token=token, **DEMO) as client:
                    with self.assertRaisesRegex(UnauthenticatedError, "token") as raised:
                        client.reserve(**REQUEST)
                self.assertNotIn("secret", str(raised.exception))
                with self.assertRaisesRegex(UnauthenticatedError, "token"):
                    asyncio.run(with_asyncio(token))
        # Ends of lines around it are those of its file.
        with Client(address, token="secret\n", **DEMO) as client:
            self.assertTrue(client.reserve(**REQUEST).free)
        asyncio.run(with_asyncio(lambda: "secret\r\n"))

    def test_a_file_that_is_missing_fails_the_call_with_its_name(self) -> None:
        tls = TLS(ca_file="/missing.pem")

        async def with_asyncio() -> None:
            async with aio.Client("localhost:1", tls=tls, **DEMO) as client:
                await client.quota()

        with self.assertRaisesRegex(TollgateError, "/missing.pem"):
            Client("localhost:1", tls=tls, **DEMO).quota()
        with self.assertRaisesRegex(TollgateError, "/missing.pem"):
            asyncio.run(with_asyncio())

    def test_tls_with_a_client_certificate_and_a_token(self) -> None:
        folder = certificates()
        tls = f"""
            [tls]
            cert_file = "{folder}/server.pem"
            key_file = "{folder}/server.key"
            client_ca_file = "{folder}/ca.pem"
        """
        port = self.service(settings=tls).address.rpartition(":")[2]
        address = f"localhost:{port}"
        mine = TLS(
            ca_file=folder / "ca.pem",
            cert_file=folder / "client.pem",
            key_file=folder / "client.key",
        )
        with Client(address, tls=mine, token="secret", **DEMO) as client:
            self.assertTrue(client.reserve(**REQUEST).free)

        async def with_asyncio() -> None:
            async with aio.Client(address, tls=mine, **DEMO) as client:
                self.assertTrue((await client.reserve(**REQUEST)).free)

        asyncio.run(with_asyncio())
        for wrong in (True, TLS(ca_file=folder / "ca.pem"), None):
            with self.subTest(wrong), self.assertLogs("tollgate_quota", "WARNING"):
                with Client(address, tls=wrong, timeout=0.5, **DEMO) as client:
                    with self.assertRaises(TollgateError):
                        client.reserve(**REQUEST)

    def test_an_asyncio_client_works_in_each_event_loop(self) -> None:
        client = aio.Client(self.service().address, **DEMO)

        async def work() -> int:
            async with client, await client.reserve(**REQUEST) as reservation:
                return (await reservation.settle(1)).used

        self.assertEqual([asyncio.run(work()) for _ in range(2)], [1, 2])
        loops = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        self.assertEqual(asyncio.run(work()), 7)

    def test_a_client_works_in_processes_that_were_forked_before_its_first_call(self) -> None:
        client = Client(self.service().address, **DEMO)
        context = multiprocessing.get_context("fork")
        used: Any = context.SimpleQueue()
        children = [
            context.Process(target=lambda: used.put(client.reserve(**REQUEST).decision.used))
            for _ in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        self.assertEqual(sorted([used.get(), used.get()]), [1_000, 2_000])

    def test_usage_reads_every_page(self) -> None:
        with Client(self.service().address, **DEMO) as client:
            for number in range(1_001):
                client.reserve(model="gpt-4o", tokens=1, project=f"project-{number:04}")
            of_a_day = client.usage()
            of_a_range = client.usage(from_day=of_a_day.day)
        for usage in (of_a_day, of_a_range):
            self.assertEqual(len({row.project for row in usage.rows}), 1_001)
            self.assertEqual((usage.from_day, usage.to_day), (of_a_day.day, of_a_day.day))


class Values(unittest.TestCase):
    def test_a_range_of_a_service_that_lists_none_is_no_usage_of_today(self) -> None:
        class EarlierRelease(FakeTollgate):
            def answer(self, method: str, request: Any) -> Any:
                return pb.ListUsageResponse(day="2026-11-22", rows=[pb.UsageRow(project="p")])

        client = EarlierRelease().client()
        self.assertEqual(len(client.usage().rows), 1)
        for from_day, to_day in (("2026-11-01", ""), ("", "2026-11-01")):
            with self.assertRaisesRegex(TollgateError, "earlier release"):
                client.usage(from_day=from_day, to_day=to_day)
            with self.assertRaisesRegex(TollgateError, "earlier release"):
                usage = EarlierRelease().aio_client().usage(from_day=from_day, to_day=to_day)
                asyncio.run(usage)

    def test_a_row_has_what_the_provider_counted_only_if_it_was_compared(self) -> None:
        class Compared(FakeTollgate):
            def answer(self, method: str, request: Any) -> Any:
                compared = pb.ProviderUsage(free_tokens=900, billed_tokens=40)
                nothing = pb.ProviderUsage()
                figures = (None, nothing, compared)
                rows = [pb.UsageRow(project="p", provider=usage) for usage in figures]
                return pb.ListUsageResponse(rows=rows)

        wanted = (None, ProviderUsage(0, 0), ProviderUsage(900, 40))
        self.assertEqual(tuple(row.provider for row in Compared().client().usage().rows), wanted)
        usage = asyncio.run(Compared().aio_client().usage())
        self.assertEqual(tuple(row.provider for row in usage.rows), wanted)

    def test_fields_that_are_new_have_defaults(self) -> None:
        row = UsageRow("p", "gpt-4o", "large", 1, 2, 3, 4)
        self.assertEqual((row.day, row.provider), ("", None))
        usage = Usage("2026-11-22", (row,))
        self.assertEqual((usage.from_day, usage.to_day), ("", ""))
        pool = PoolQuota("large", 1, 0, 1, 0, 0, 0, 0, False, 0, 0)
        self.assertEqual(pool.shares, ())

    def test_a_token_is_never_sent_in_clear_beyond_this_machine(self) -> None:
        for address in ("tollgate:50051", "10.0.0.1:50051", "[2001:db8::1]:50051"):
            for client in (Client, aio.Client):
                with self.subTest(address), self.assertRaisesRegex(ValueError, "token"):
                    client(address, token="secret")
        for address in ("localhost:1", "127.0.0.2:1", "[::1]:1", "unix:/socket"):
            Client(address, token="secret")
        Client("tollgate:50051", token="secret", tls=True)

    def test_a_wrong_address_is_named(self) -> None:
        for address in ("", "tollgate", "https://tollgate:50051", "unix:"):
            with self.subTest(address), self.assertRaisesRegex(ValueError, "address"):
                Client(address)

    def test_a_certificate_without_its_key_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "key_file"):
            TLS(cert_file="client.pem")

    def test_tokens_that_are_no_number_of_tokens_are_named(self) -> None:
        client = FakeTollgate().client()
        for tokens in (-1, 1 << 64):
            with self.subTest(tokens), self.assertRaisesRegex(ValueError, "tokens"):
                client.reserve(model="gpt-4o", tokens=tokens)

    def test_values_of_newer_services_are_kept(self) -> None:
        reason = BilledReason(99)
        self.assertEqual((reason.name, int(reason)), ("UNKNOWN_99", 99))
        self.assertEqual((str(reason), f"{Verdict.FREE:>5}"), ("UNKNOWN_99", " FREE"))
        self.assertIs(BilledReason(99), reason)
        self.assertIs(pickle.loads(pickle.dumps(reason)), reason)
        self.assertNotIn(reason, list(BilledReason))

    def test_a_pool_that_is_unknown_is_named_with_those_that_are_known(self) -> None:
        quota = FakeTollgate().client().quota(org="org-demo")
        with self.assertRaisesRegex(KeyError, "no pool 'lrge'; the policy has large"):
            quota.pool("lrge")

    def test_errors_survive_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(UnavailableError(grpc.StatusCode.UNAVAILABLE, "down")))
        self.assertIsInstance(error, UnavailableError)
        self.assertEqual((error.code, error.message), (grpc.StatusCode.UNAVAILABLE, "down"))


if __name__ == "__main__":
    unittest.main()
