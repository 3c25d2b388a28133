"""The plugin in a real LiteLLM proxy, with a real service and a stand-in provider.

TOLLGATE_TEST_LITELLM names the proxy's program. After each case, `used` is what the provider saw of requests in the
sharing project, and nothing is held but what may have run.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from provider import Provider
from support import CLIENTS, TIMEOUT, Service, wait_for
from tollgate_quota import Client, PoolQuota, Usage
from tollgate_quota._litellm_deployment import target_of

MASTER_KEY = "sk-0123456789abcdef0123456789abcdef"
SMALL = 3_000
#: For an answer of the proxy, also on a busy machine.
PROXY_TIMEOUT = 120
ORGS = ("json", "stream", "fail", "small", "only", "deny", "tag", "many", "gone", "cool")

POLICY = f"""
[program]
name = "test"
overflow = "keep_open"
covered_workloads = ["inference", "function_calling"]
[pools.large]
models = ["gpt-4o", "text-embedding-3-small"]
[tiers.1]
large = {SMALL}
[tiers.3]
large = 1_000_000
""" + "".join(
    f"[orgs.org-{org}]\ntier = {3 if org in ('json', 'stream', 'fail', 'cool') else 1}\n"
    'data_sharing = "selected"\nprojects = ["proj"]\n'
    for org in ORGS
)

numbers = itertools.count()


def text(words: str = "") -> str:
    """A message that no other test sends: answers are cached."""
    return f"{words} number {next(numbers)}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Answer:
    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self) -> Any:
        return json.loads(self.body)


def configuration(provider: str) -> dict[str, Any]:
    """Groups of one deployment that shares and one that does not, and some others."""
    base = f"{provider}/v1"

    def deployment(group: str, org: str | None, **other: Any) -> dict[str, Any]:
        key = f"shared-{org}" if org else f"other-{group}"
        params = {"model": "openai/gpt-4o", "api_base": base, "api_key": key} | other
        info: dict[str, Any] = {"id": f"{group}-{'shared' if org else 'other'}"}
        if org:
            info["tollgate"] = {"org": f"org-{org}", "project": "proj"}
        if group != "cool":
            # A deployment that was refused is not left out.
            info["cooldown_time"] = 0
        return {"model_name": group, "litellm_params": params, "model_info": info}

    both = [
        deployment(group, org)
        for group in ("json", "stream", "small", "deny", "tag", "many", "gone", "cool", "typo")
        for org in (group, None)
    ]
    embedding = {"model": "openai/text-embedding-3-small"}
    closed = {"api_base": f"http://127.0.0.1:{free_port()}/v1"}
    models = [
        *both,
        deployment("only", "only"),
        deployment("fail", "fail"),
        deployment("spare", "fail"),
        deployment("refused", "fail"),
        deployment("elsewhere", None),
        deployment("mock", "json", mock_response="Hello."),
        deployment("embedding", "json", **embedding),
        deployment("unreachable", "fail", **closed),
        deployment("closed", "fail", **closed),
        deployment("wide", "json", n=3, max_tokens=7_000),
        deployment("searching", "small", web_search_options={}),
    ]
    return {
        "model_list": models,
        "router_settings": {
            "num_retries": 1,
            "retry_after": 0,
            "fallbacks": [{"fail": ["spare"]}, {"closed": ["spare"]}, {"refused": ["elsewhere"]}],
        },
        "litellm_settings": {
            "callbacks": "tollgate_quota.litellm.handler",
            "cache": True,
            "cache_params": {"type": "local"},
        },
        "general_settings": {"master_key": MASTER_KEY},
    }


class Proxy:
    """A LiteLLM proxy with the plugin."""

    def __init__(
        self,
        service: str,
        config: str,
        folder: Path,
        environment: dict[str, str],
        command: str = "exec litellm --config config.yaml",
    ) -> None:
        self.port = free_port()
        file = folder / f"{self.port}.yaml"
        file.write_text(config, "utf-8")
        self.log = folder / f"{self.port}.log"
        program = Path(os.environ["TOLLGATE_TEST_LITELLM"])
        command += f" --host 127.0.0.1 --port {self.port}"
        variables = os.environ | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(CLIENTS / "python" / "src"),
            # Fetches nothing.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "TOLLGATE_ADDR": service,
            # Enough for a busy machine.
            "TOLLGATE_TIMEOUT": str(TIMEOUT),
            **environment,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", command.replace("config.yaml", file.name)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=folder,
            )

    def ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text("utf-8"))
        try:
            return self.request("GET", "/health/liveliness", None).status == 200
        except OSError:
            return False

    def open(self, method: str, path: str, body: Any) -> tuple[Any, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROXY_TIMEOUT)
        headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
        headers["x-tollgate-verdict"] = "free"
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection, connection.getresponse()

    def request(self, method: str, path: str, body: Any) -> Answer:
        connection, response = self.open(method, path, body)
        answer = Answer(response, response.read())
        connection.close()
        return answer

    def chat(self, group: str, content: str, **fields: Any) -> Answer:
        return self.request("POST", "/v1/chat/completions", chat(group, content, **fields))

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def chat(group: str, content: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": content}
    return {"model": group, "messages": [message], "max_tokens": 100} | fields


class Settings(unittest.TestCase):
    def test_what_is_wrong_is_named(self) -> None:
        faults: list[tuple[Any, str]] = [
            (["org"], "model_info.tollgate: it must have"),
            ({"org": "o", "project": "p", "modle": "m"}, "tollgate.modle: unknown key"),
            ({"org": "o"}, "tollgate.project: missing"),
            ({"project": "p"}, "tollgate.org: missing"),
            ({"org": "", "project": "p"}, "tollgate.org: '' is not a text"),
            ({"org": "o", "project": 7}, "tollgate.project: 7 is not a text"),
        ]
        for settings, fault in faults:
            deployment = {"model_name": "group", "model_info": {"id": "one", "tollgate": settings}}
            with self.assertRaisesRegex(ValueError, r"^deployment group \(one\): .*" + re.escape(fault)):
                target_of(deployment)


class LiteLLM(unittest.TestCase):
    route: Proxy
    deny: Proxy
    tag: Proxy

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.service = Service(policy=POLICY)
        cls.addClassCleanup(cls.service.close)
        cls.client = Client(cls.service.address)
        cls.addClassCleanup(cls.client.close)
        cls.provider = Provider()
        cls.addClassCleanup(cls.provider.close)
        settings: dict[str, dict[str, str]] = {
            "route": {},
            "deny": {
                "TOLLGATE_ON_BILLED": "deny",
                "TOLLGATE_ON_UNAVAILABLE": "deny",
                "TOLLGATE_ON_DISCONNECT": "settle",
            },
            "tag": {"TOLLGATE_ON_BILLED": "tag"},
        }
        config = json.dumps(configuration(cls.provider.url))
        for name, its in settings.items():
            proxy = Proxy(cls.service.address, config, Path(folder.name), its)
            cls.addClassCleanup(proxy.close)
            setattr(cls, name, proxy)
        # They import for a long time, all at once.
        for name in settings:
            wait_for(getattr(cls, name).ready, 240)

    def setUp(self) -> None:
        self.provider.reset()
        self.before = {org: self.pool(org) for org in ORGS}

    def pool(self, org: str) -> PoolQuota:
        return self.client.quota(org=f"org-{org}").pool("large")

    def usage(self, org: str) -> Usage:
        return self.client.usage(org=f"org-{org}")

    def shared(self, org: str) -> int:
        """The tokens that the provider counted in the sharing project."""
        return self.provider.tokens[f"shared-{org}"]

    def settles(self, org: str, used: int) -> None:
        """Waits until as many tokens more are used, and none is held that was not before."""
        before = self.before[org]

        def settled() -> bool:
            now = self.pool(org)
            return (now.used, now.held_tokens) == (before.used + used, before.held_tokens)

        try:
            wait_for(settled)
        except AssertionError:
            raise AssertionError(f"{used} are not used: {before}, {self.pool(org)}") from None

    def keeps(self, org: str, requests: int, used: int = 0) -> None:
        """Waits until what so many requests hold is all that is used beside `used`."""
        before = self.before[org]

        def kept() -> bool:
            now = self.pool(org)
            held = now.held_tokens - before.held_tokens
            more = now.free_requests - before.free_requests - (1 if used else 0)
            return held > 0 and more == requests and now.used - before.used == held + used

        try:
            wait_for(kept)
        except AssertionError:
            raise AssertionError(f"{requests} are not kept: {before}, {self.pool(org)}") from None

    # FREE requests.

    def test_a_free_request_goes_where_data_is_shared_and_is_settled_with_its_usage(self) -> None:
        answer = self.route.chat("json", text("used=40+2"))
        self.assertEqual((answer.status, answer.headers["x-tollgate-verdict"]), (200, "free"))
        self.assertEqual((self.shared("json"), self.provider.tokens["other-json"]), (42, 0))
        self.settles("json", 42)

    def test_a_stream_is_settled_with_its_usage(self) -> None:
        for options in ({}, {"stream_options": {"include_usage": False}}):
            # Not all providers send the same.
            for words in ("", "plain", "joined", "plain joined", "counted"):
                words = text(f"used=40+2 {words}")
                answer = self.route.chat("stream", words, stream=True, **options)
                self.assertIn(b"[DONE]", answer.body)
        body = chat("stream", text("used=40+2 plain"), stream=True)
        self.assertEqual(self.route.request("POST", "/v1/messages", body).status, 200)
        self.assertEqual(self.shared("stream"), 11 * 42)
        self.settles("stream", 11 * 42)

    def test_responses_embeddings_and_messages_are_settled(self) -> None:
        words = text("used=40+2")
        for stream in (False, True):
            body = {"model": "json", "input": words, "stream": stream, "max_output_tokens": 50}
            self.assertEqual(self.route.request("POST", "/v1/responses", body).status, 200)
        messages = chat("json", text("used=40+2"))
        self.assertEqual(self.route.request("POST", "/v1/messages", messages).status, 200)
        embedding = {"model": "embedding", "input": text("used=40+0")}
        self.assertEqual(self.route.request("POST", "/v1/embeddings", embedding).status, 200)
        self.assertEqual(self.shared("json"), 3 * 42 + 40)
        self.settles("json", 3 * 42 + 40)

    def test_embeddings_without_usage_are_kept(self) -> None:
        embedding = {"model": "embedding", "input": text("used=40+0 silent")}
        self.assertEqual(self.route.request("POST", "/v1/embeddings", embedding).status, 200)
        self.keeps("json", 1)

    def test_messages_with_tools_of_the_client_are_shared_and_those_with_images_are_not(self) -> None:
        tool = {"name": "find", "description": "Finds.", "input_schema": {"type": "object"}}
        call = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing"}
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": text("used=40+2")},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        body = {"model": "json", "max_tokens": 50, "messages": turns, "tools": [tool]}
        answer = self.route.request("POST", "/v1/messages", body)
        self.assertEqual((answer.status, self.shared("json")), (200, 42), answer.body)
        source = {"type": "url", "url": "https://image.test/1.png"}
        image = {"type": "image", "source": source}
        nested = {**result, "content": [image]}
        for more in (image, {"type": "document", "source": source}, nested):
            content = [{"type": "text", "text": text("used=40+2")}, more]
            messages = [*turns[:2], {"role": "user", "content": content}]
            body = {"model": "json", "max_tokens": 50, "messages": messages}
            self.route.request("POST", "/v1/messages", body)
        self.assertEqual(self.shared("json"), 42)
        self.settles("json", 42)

    def test_a_workload_that_the_policy_does_not_cover_is_not_shared(self) -> None:
        for fields in ({"service_tier": "flex"}, {"extra_body": {"service_tier": "priority"}}):
            answer = self.route.chat("json", text("used=40+2"), **fields)
            self.assertEqual((answer.status, self.shared("json")), (200, 0), answer.body)
        self.settles("json", 0)

    def test_an_answer_from_the_cache_is_released(self) -> None:
        for stream in (False, True):
            words = text()

            def is_cached() -> bool:
                before = self.shared("json")
                self.assertEqual(self.route.chat("json", words, stream=stream).status, 200)
                return self.shared("json") == before

            # The proxy writes its cache after the answer.
            wait_for(is_cached)
        self.settles("json", self.shared("json"))

    def test_a_client_can_neither_name_a_reservation_nor_a_verdict(self) -> None:
        held = self.client.reserve(model="gpt-4o", tokens=7, org="org-json", project="proj")
        spoofs: list[Any] = [held.request_id, {"a": 1}, "x" * 1_000]
        for spoof in spoofs:
            metadata = {"tollgate": spoof, "tollgate_verdict": "free"}
            fields = {"metadata": metadata, "litellm_metadata": metadata}
            self.assertEqual(self.route.chat("json", text(), **fields).status, 200)
        held.release()
        self.settles("json", 90)

    def holds(self, proxy: Proxy, body: dict[str, Any]) -> int:
        """What a request holds that is then settled with 30 tokens. Every group here is of the organization json."""
        before = self.pool("json")
        self.provider.reset()
        with ThreadPoolExecutor() as pool:
            job = pool.submit(proxy.request, "POST", "/v1/chat/completions", body)
            held: int = wait_for(lambda: self.pool("json").held_tokens - before.held_tokens)
            self.provider.go_on()
            answer = job.result()
            self.assertEqual(answer.status, 200, answer.body)
        wait_for(lambda: self.pool("json").used == before.used + 30)
        return held

    def test_only_the_request_itself_is_bounded(self) -> None:
        """The proxy puts metadata of some thousand bytes into a body, with its caller's name."""
        for proxy in (self.route, self.deny):
            self.assertLess(self.holds(proxy, chat("json", text("hang"))), 250)

    def test_what_is_sent_beside_the_body_is_bounded(self) -> None:
        for proxy in (self.route, self.deny):
            body = chat("json", text("hang"), extra_body={"max_tokens": 50_000})
            self.assertGreater(self.holds(proxy, body), 50_000)
        # The maximum is not sent then.
        body = chat("json", text("hang"), additional_drop_params=["max_tokens"])
        self.assertGreater(self.holds(self.route, body), 10_000)
        body = {"model": "wide", "messages": [{"role": "user", "content": text("hang")}]}
        self.assertGreater(self.holds(self.route, body), 21_000)
        self.assertEqual(self.provider.requests["shared-json"][-1]["n"], 3)

    def test_a_deployment_with_a_hosted_tool_gets_nothing(self) -> None:
        answer = self.route.chat("searching", text())
        self.assertEqual((answer.status, self.shared("small")), (429, 0), answer.body)

    def test_a_client_does_not_choose_the_model_that_is_counted(self) -> None:
        other = "text-embedding-3-small"

        def counted() -> int:
            return sum(it.free_tokens for it in self.usage("json").rows if it.model == other)

        before = counted()
        for group in ("json", "json-shared"):
            params = {"model": f"openai/{other}"}
            self.assertEqual(self.route.chat(group, text(), litellm_params=params).status, 200)
        self.settles("json", 60)
        self.assertEqual(counted(), before)

    # Requests that fail.

    def test_what_the_provider_refuses_is_released(self) -> None:
        for status in (400, 401, 403, 404, 413, 422, 429):
            with self.subTest(status):
                self.assertGreaterEqual(
                    self.route.chat("fail", text(f"status={status}")).status, 400
                )
        self.assertGreaterEqual(len(self.provider.requests["shared-fail"]), 14)
        self.settles("fail", 0)

    def test_a_refused_attempt_is_released_and_its_retry_counted(self) -> None:
        self.provider.statuses += [429]
        self.assertEqual(self.route.chat("fail", text()).status, 200)
        self.assertEqual(len(self.provider.requests["shared-fail"]), 2)
        self.settles("fail", 30)

    def test_each_attempt_that_may_have_run_is_kept(self) -> None:
        self.provider.statuses += [503, 500]
        self.assertEqual(self.route.chat("fail", text()).status, 200)
        self.assertEqual(len(self.provider.requests["shared-fail"]), 3)
        self.keeps("fail", requests=2, used=30)

    def test_a_provider_that_can_not_be_reached_costs_nothing(self) -> None:
        self.assertGreaterEqual(self.route.chat("unreachable", text()).status, 500)
        self.settles("fail", 0)

    def test_an_attempt_after_one_that_could_not_connect_is_kept(self) -> None:
        self.assertEqual(self.route.chat("closed", text("status=500")).status, 500)
        self.keeps("fail", requests=len(self.provider.requests["shared-fail"]))

    def test_a_connection_that_is_reset_after_the_request_is_kept(self) -> None:
        self.provider.resets = 9
        self.assertGreaterEqual(self.route.chat("spare", text()).status, 500)
        self.keeps("fail", requests=len(self.provider.requests["shared-fail"]))

    def test_a_request_that_is_sent_again_and_then_refused_is_kept(self) -> None:
        """LiteLLM sends a Responses request again, within the attempt, after a reset."""
        self.provider.resets = 1
        body = {"model": "spare", "input": text("status=401"), "max_output_tokens": 50}
        self.assertEqual(self.route.request("POST", "/v1/responses", body).status, 401)
        self.assertGreaterEqual(len(self.provider.requests["shared-fail"]), 2)
        self.keeps("fail", requests=1)

    def test_the_status_is_the_providers(self) -> None:
        """LiteLLM makes a 429 of a 500 whose text calls the request too large."""
        self.assertEqual(self.route.chat("spare", text("status=500 large")).status, 429)
        self.keeps("fail", requests=len(self.provider.requests["shared-fail"]))

    def test_a_timeout_is_kept(self) -> None:
        # Long enough for the request to arrive.
        self.assertGreaterEqual(self.route.chat("spare", text("hang"), timeout=5).status, 400)
        self.keeps("fail", requests=len(self.provider.requests["shared-fail"]))

    def test_a_stream_that_breaks_off_is_kept(self) -> None:
        line = r"\d WARNING tollgate_quota.litellm: reservation \S+ of org-stream was dispatched and not settled \("

        def logged() -> int:
            return len(re.findall(line + r"\w", self.route.log.read_text("utf-8")))

        for words in ("cut", "cut counted", "drop", "silent"):
            with self.subTest(words):
                self.before = {org: self.pool(org) for org in ORGS}
                self.provider.reset()
                before = logged()
                self.route.chat("stream", text(words), stream=True)
                requests = len(self.provider.requests["shared-stream"])
                self.keeps("stream", requests=requests)
                wait_for(lambda: logged() == before + requests)

    # Clients that hang up.

    def hang_up(self, proxy: Proxy, group: str, **fields: Any) -> None:
        body = chat(group, text("endless"), **fields)
        connection, response = proxy.open("POST", "/v1/chat/completions", body)
        response.read(10)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def test_a_stream_whose_client_hangs_up_is_kept(self) -> None:
        self.hang_up(self.route, "stream", stream=True)
        self.keeps("stream", requests=1)

    def test_or_settled_with_an_estimate_where_that_is_set(self) -> None:
        self.hang_up(self.deny, "stream", stream=True)

        def settled() -> bool:
            now, before = self.pool("stream"), self.before["stream"]
            return now.used > before.used and now.held_tokens == before.held_tokens

        wait_for(settled)

    def test_a_client_that_hangs_up_on_json_leaks_nothing(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.route.port, timeout=PROXY_TIMEOUT)
        headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
        body = json.dumps(chat("json", text("hang")))
        connection.request("POST", "/v1/chat/completions", body, headers)
        wait_for(lambda: self.shared("json"))
        connection.close()
        self.provider.go_on()
        self.settles("json", 30)

    # BILLED requests.

    def test_a_request_to_several_groups_at_once_is_refused(self) -> None:
        for fields in ({}, {"fastest_response": True}):
            answer = self.route.chat("json, small", text(), **fields)
            self.assertEqual(answer.status, 400, answer.body)
        self.assertEqual(self.provider.requests, {})

    def use_up(self, org: str) -> None:
        client = self.client
        with client.reserve(model="gpt-4o", tokens=SMALL, org=f"org-{org}", project="proj") as it:
            it.settle(SMALL)

    def test_a_billed_request_goes_elsewhere_and_stays_in_the_books(self) -> None:
        self.use_up("small")
        for stream in (False, True):
            self.assertEqual(self.route.chat("small", text(), stream=stream).status, 200)
        self.assertEqual((self.shared("small"), self.provider.tokens["other-small"]), (0, 60))
        self.settles("small", SMALL)
        row = wait_for(lambda: [it for it in self.usage("small").rows if it.billed_tokens == 60])
        self.assertEqual((row[0].free_tokens, row[0].billed_requests), (SMALL, 2))
        # A client that names the sharing deployment itself gets no further.
        answer = self.route.chat("small-shared", text())
        self.assertEqual((answer.status, self.shared("small")), (429, 0))

    def test_while_those_that_share_are_left_out_their_requests_are_billed_and_in_the_books(
        self,
    ) -> None:
        """LiteLLM leaves a deployment out for some seconds after a 429."""
        self.provider.statuses += [429]
        for stream in (False, True, False, True):
            answer = self.route.chat("cool", text("plain"), stream=stream)
            verdict = (answer.status, answer.headers["x-tollgate-verdict"])
            self.assertEqual(verdict, (200, "billed"), answer.body)
        self.assertEqual((self.shared("cool"), self.provider.tokens["other-cool"]), (0, 120))
        self.settles("cool", 0)
        # What may have run elsewhere holds no free tokens, and is billed.
        self.route.chat("cool", text("cut"), stream=True)
        self.settles("cool", 0)
        row = wait_for(lambda: [it for it in self.usage("cool").rows if it.billed_requests == 5])
        self.assertGreater(row[0].billed_tokens, 120)
        self.assertEqual(row[0].free_tokens, 0)
        # With `deny` nothing is billed.
        self.provider.reset()
        self.provider.statuses += [429]
        for _ in range(3):
            self.assertEqual(self.deny.chat("cool", text()).status, 429)
        self.assertEqual(self.provider.tokens, {})

    def test_who_names_the_other_deployment_is_in_the_books_too(self) -> None:
        def billed() -> int:
            return sum(it.billed_tokens for it in self.usage("json").rows)

        before = billed()
        answer = self.route.chat("json-other", text())
        verdict = (answer.status, answer.headers["x-tollgate-verdict"])
        self.assertEqual((*verdict, self.shared("json")), (200, "billed", 0))
        wait_for(lambda: billed() == before + 30)
        self.settles("json", 0)
        self.assertEqual(self.deny.chat("json-other", text()).status, 429)

    def test_a_fallback_to_a_group_that_does_not_share_is_not_called_free(self) -> None:
        answer = self.route.chat("refused", text("hello"))
        self.assertEqual(answer.headers["x-tollgate-verdict"], "free")
        self.provider.statuses += [429, 429]
        answer = self.route.chat("refused", text())
        self.assertEqual((answer.status, self.provider.tokens["other-elsewhere"]), (200, 30))
        self.assertNotEqual(answer.headers["x-tollgate-verdict"], "free")
        self.settles("fail", 30)

    def test_an_organization_that_tollgate_does_not_know_is_named(self) -> None:
        def is_logged(words: str) -> bool:
            return words in self.route.log.read_text("utf-8")

        self.assertTrue(is_logged("group typo: Tollgate does not know organization org-typo"))
        self.assertEqual(self.route.chat("typo", text()).status, 200)
        words = "Tollgate does not know organization org-typo: 30 tokens of project proj are not"
        wait_for(lambda: is_logged(words))
        self.assertFalse(is_logged("of org-typo was dispatched"))

    def test_a_group_where_all_share_denies(self) -> None:
        self.use_up("only")
        answer = self.route.chat("only", text())
        self.assertEqual((answer.status, answer.headers["x-should-retry"]), (429, "false"))
        self.assertIn("ALLOWANCE_EXCEEDED", answer.json()["error"]["message"])
        self.assertEqual(self.provider.requests, {})
        self.settles("only", SMALL)
        self.assertIn("model group only has no deployment", self.route.log.read_text("utf-8"))

    def test_deny(self) -> None:
        answer = self.deny.chat("deny", text())
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.shared("deny"), 30)
        self.settles("deny", 30)
        self.assertEqual(self.deny.chat("deny", text(), max_tokens=SMALL).status, 429)
        self.assertEqual((self.shared("deny"), self.provider.tokens["other-deny"]), (30, 0))
        self.settles("deny", 30)

    def test_tag(self) -> None:
        self.use_up("tag")
        for _ in range(8):
            answer = self.tag.chat("tag-shared", text())
            verdict = (answer.status, answer.headers["x-tollgate-verdict"])
            self.assertEqual(verdict, (200, "billed"), self.pool("tag"))
        self.assertEqual(self.shared("tag"), 240)
        self.settles("tag", SMALL)
        wait_for(
            lambda: any(
                (it.billed_requests, it.billed_tokens, it.free_tokens) == (8, 240, SMALL)
                for it in self.usage("tag").rows
            )
        )
        self.assertIn("FREE is not certain", self.tag.log.read_text("utf-8"))

    def test_many_at_once_never_use_more_than_the_allowance(self) -> None:
        with ThreadPoolExecutor(32) as pool:
            jobs = [
                pool.submit(self.route.chat, "many", text("used=10+90"), stream=bool(number % 2))
                for number in range(64)
            ]
            self.assertEqual({job.result().status for job in jobs}, {200})
        shared = self.shared("many")
        self.assertEqual(shared + self.provider.tokens["other-many"], 64 * 100)
        self.assertLessEqual(shared, SMALL)
        self.settles("many", shared)

    def test_the_page_installs_what_is_tested(self) -> None:
        """Its command finds all but the plugin in the proxy's environment."""
        page = (CLIENTS / "python" / "LITELLM.md").read_text("utf-8")
        words = shlex.split(page.partition("\npip install ")[2].partition("\n")[0])
        python = Path(os.environ["TOLLGATE_TEST_LITELLM"]).with_name("python")
        pip = [python, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation"]
        with tempfile.TemporaryDirectory() as folder:
            # A build leaves files beside the sources.
            ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
            shutil.copytree(CLIENTS, f"{folder}/clients", ignore=ignored)
            run = subprocess.run(
                pip + words, cwd=folder, capture_output=True, text=True, timeout=120
            )
        self.assertRegex(run.stdout, r"(?m)^Would install tollgate-quota-\S+$", run.stderr)

    def test_the_example_of_the_page_runs(self) -> None:
        page = (CLIENTS / "python" / "LITELLM.md").read_text("utf-8")
        example = page.partition("```yaml\n")[2].partition("```")[0]
        # With a provider of ours.
        base = f"api_base: {self.provider.url}/v1, api_key"
        example = example.replace("api_key", base).replace("org-demo", "org-json")
        example = example.replace("project: search", "project: proj")
        command = self.command(page, "Start the proxy:", {
            "export LITELLM_MASTER_KEY=sk-…": f"export LITELLM_MASTER_KEY={MASTER_KEY}",
            "SHARING_PROJECT_KEY=…": "SHARING_PROJECT_KEY=shared-json",
            "OTHER_PROJECT_KEY=…": "OTHER_PROJECT_KEY=other-json",
            "TOLLGATE_ADDR=127.0.0.1:50051 ": f"exec env TOLLGATE_ADDR={self.service.address} ",
            " --host 127.0.0.1": "",
        })  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            proxy = Proxy("", example, Path(folder), {}, command)
            try:
                wait_for(proxy.ready, 240)
                self.tries(page, proxy)
                self.leaves_out_what_was_refused(proxy)
                self.ends_with_an_open_request(proxy)
            finally:
                proxy.close()

    def command(self, page: str, heading: str, replaced: dict[str, str]) -> str:
        command = page.partition(f"{heading}\n\n```sh\n")[2].partition("```")[0].strip()
        for theirs, ours in replaced.items():
            self.assertIn(theirs, command)
            command = command.replace(theirs, ours)
        return command

    def tries(self, page: str, proxy: Proxy) -> None:
        """The request of the page, and what then is to be seen."""
        program = os.environ["TOLLGATE_TEST_PROGRAM"]
        command = self.command(page, "try it:", {
            "127.0.0.1:4000": f"127.0.0.1:{proxy.port}",
            "$LITELLM_MASTER_KEY": MASTER_KEY,
            "tollgate usage org-demo": f"{shlex.quote(program)} usage org-json",
        })  # fmt: skip
        run = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            timeout=PROXY_TIMEOUT,
            env=os.environ | {"TOLLGATE_ADDR": self.service.address},
        )
        self.assertRegex(run.stdout, "(?m)^x-tollgate-verdict: free\r?$", run.stderr)
        self.assertIn("FREE TOKENS", run.stdout, run.stderr)
        self.settles("json", 30)

    def leaves_out_what_was_refused(self, proxy: Proxy) -> None:
        self.provider.statuses += [429]
        answer = proxy.chat("gpt-4o", text())
        self.assertEqual((answer.status, answer.headers["x-tollgate-verdict"]), (200, "billed"))
        self.assertEqual((self.shared("json"), self.provider.tokens["other-json"]), (30, 30))
        self.settles("json", 30)

    def ends_with_an_open_request(self, proxy: Proxy) -> None:
        """The proxy, told to end, logs it."""
        with ThreadPoolExecutor() as pool:
            job = pool.submit(proxy.chat, "gpt-4o", text("hang"))
            wait_for(lambda: self.pool("json").held_tokens > self.before["json"].held_tokens)
            wait_for(lambda: sum(self.provider.tokens.values()) == 90)
            proxy.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "(the process is ending)" in proxy.log.read_text("utf-8"))
            self.provider.go_on()
            self.assertEqual(job.result().status, 200)
            proxy.process.wait(PROXY_TIMEOUT)

    def test_settings_that_are_wrong_end_the_start(self) -> None:
        model: dict[str, Any] = {"model_name": "gpt-4o"}
        model["litellm_params"] = {"model": "openai/gpt-4o", "api_key": "key"}
        wrong = {**model, "model_info": {"tollgate": {"org": "org-json", "projct": "proj"}}}
        config = configuration(self.provider.url) | {"model_list": [model, wrong]}
        with tempfile.TemporaryDirectory() as folder:
            proxy = Proxy(self.service.address, json.dumps(config), Path(folder), {})
            try:
                self.assertNotEqual(proxy.process.wait(240), 0)
            finally:
                proxy.close()
            log = proxy.log.read_text("utf-8")
            fault = "deployment gpt-4o (openai/gpt-4o): model_info.tollgate.projct: unknown key"
            self.assertIn(fault, log)

    def test_a_variable_that_is_wrong_is_named(self) -> None:
        python = Path(os.environ["TOLLGATE_TEST_LITELLM"]).with_name("python")
        run = subprocess.run(
            [python, "-c", "import tollgate_quota.litellm"],
            capture_output=True,
            text=True,
            timeout=PROXY_TIMEOUT,
            env=os.environ
            | {"TOLLGATE_ON_BILLED": "wrong", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        self.assertIn("ValueError: TOLLGATE_ON_BILLED: 'wrong' is none of", run.stderr)

    def test_the_page_can_be_tried_without_a_provider(self) -> None:
        self.assertEqual(self.route.chat("mock", text()).headers["x-tollgate-verdict"], "free")
        self.settles("json", 30)
        self.assertEqual(self.provider.requests, {})
        page = (CLIENTS / "python" / "LITELLM.md").read_text("utf-8")
        self.assertIn("`mock_response: Hello.`", page)

    def test_without_tollgate(self) -> None:
        """Last, as unittest goes by the alphabet."""
        self.service.stop()
        self.assertEqual(self.route.chat("gone", text()).status, 200)
        self.assertEqual((self.shared("gone"), self.provider.tokens["other-gone"]), (0, 30))
        self.assertEqual(self.route.chat("only", text()).status, 503)
        self.assertEqual(self.deny.chat("gone", text()).status, 503)
        for _ in range(8):
            # None of them goes to the deployment that shares, by chance.
            self.assertEqual(self.tag.chat("gone", text()).status, 200)
        self.assertEqual(self.shared("only") + self.shared("gone"), 0)


if __name__ == "__main__":
    unittest.main()
