"""Calls every unary RPC of a fresh service at noon of 2026-11-22 by the Connect protocol, and asserts what it answers.

Usage: client.py HOST:PORT, with the generated modules on PYTHONPATH.
"""

import asyncio
import json
import sys

from connectrpc.client import ConnectClient, ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from google.protobuf.message_factory import GetMessageClass
from tollgate.v1 import quota_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["QuotaService"]


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def method(name):
    rpc = SERVICE.methods_by_name[name]
    return MethodInfo(
        name=name,
        service_name=SERVICE.full_name,
        input=GetMessageClass(rpc.input_type),
        output=GetMessageClass(rpc.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )


def ask(tokens, request_id=""):
    return pb.ReserveRequest(
        org="acme", project="p", model="gpt-4o", tokens=tokens, request_id=request_id
    )


def fails(code, said, call):
    try:
        answer = call()
    except ConnectError as error:
        equal(error.code, code)
        if said not in error.message:
            raise AssertionError(f"{said!r} is not in {error.message!r}")
    else:
        raise AssertionError(f"answered {answer!r}, wanted {code}")


def calls_all(client, suffix):
    def call(name, request, **options):
        return client.execute_unary(request=request, method=method(name), **options)

    before = call("GetQuota", pb.GetQuotaRequest(org="acme")).pools[0].used
    reserved = call("Reserve", ask(300, f"a{suffix}"), timeout_ms=20_000)
    equal(reserved.verdict, pb.VERDICT_FREE)
    equal((reserved.pool, reserved.used), ("large", before + 300))
    equal(reserved.resets_at.ToJsonString(), "2026-11-23T00:00:00Z")
    equal(call("Reserve", ask(300, f"a{suffix}")).replayed, True)
    billed = call("Reserve", ask(1_000_000_000, f"b{suffix}"))
    equal(billed.billed_reason, pb.BILLED_REASON_ALLOWANCE_EXCEEDED)
    settle = pb.SettleRequest(org="acme", request_id=f"a{suffix}", tokens=100)
    equal(call("Settle", settle).used, before + 100)
    release = pb.ReleaseRequest(org="acme", request_id=f"b{suffix}")
    equal(call("Release", release).released_tokens, 1_000_000_000)
    usage = call("ListUsage", pb.ListUsageRequest(org="acme", page_size=1))
    equal((usage.day, usage.rows[0].free_tokens), ("2026-11-22", before + 100))
    external = pb.SetExternalUsageRequest(org="acme", pool="mini", tokens=5)
    equal(call("SetExternalUsage", external).external_tokens, 5)
    nearest = pb.ORGANIZATION_ORDER_NEAREST_TO_END
    listed = call("ListOrganizations", pb.ListOrganizationsRequest(query="ACM", order=nearest))
    equal((listed.total, listed.organizations[0].org), (1, "acme"))
    # Larger than the messages of other methods may be.
    body = {"model": "gpt-4o", "max_tokens": 100, "messages": [{"content": "x" * 100_000}]}
    estimate = pb.EstimateRequest(path="/v1/chat/completions", body=json.dumps(body).encode())
    equal(call("Estimate", estimate).output_tokens, 100)

    fails(Code.INVALID_ARGUMENT, "tokens", lambda: call("Reserve", ask(2**64 - 1)))
    fails(Code.ALREADY_EXISTS, "tokens", lambda: call("Reserve", ask(1, f"a{suffix}")))
    settle.request_id = "never"
    fails(Code.NOT_FOUND, "", lambda: call("Settle", settle))
    fails(Code.NOT_FOUND, "", lambda: call("GetQuota", pb.GetQuotaRequest(org="stranger")))
    fails(Code.UNIMPLEMENTED, "over gRPC only", lambda: call("ReserveStream", ask(1)))


async def calls_concurrently(address):
    async def reserve(number):
        request = ask(1, f"id {number % 10}")
        return await client.execute_unary(request=request, method=method("Reserve"))

    async with ConnectClient(address, codec=google_protobuf_json_codec()) as client:
        answers = await asyncio.gather(*map(reserve, range(100)))
    equal(sum(not answer.replayed for answer in answers), 10)


def main():
    address = f"http://{sys.argv[1]}"
    methods = {rpc.name for rpc in SERVICE.methods if not rpc.server_streaming}
    known = {"Reserve", "Settle", "Release", "GetQuota", "ListUsage", "Estimate", "SetExternalUsage"}
    known |= {"ListOrganizations", "ListExternalChanges"}
    equal(methods, known)
    # Unknown fields of an answer would be errors. By default the client compresses its requests.
    codec = google_protobuf_json_codec(ignore_unknown_fields=False)
    with ConnectClientSync(address, codec=codec) as client:
        calls_all(client, "")
    with ConnectClientSync(address, codec=codec, send_compression=None) as client:
        calls_all(client, "-plain")
    asyncio.run(calls_concurrently(address))
    with ConnectClientSync(address, codec=google_protobuf_binary_codec()) as client:
        reserve = lambda: client.execute_unary(request=ask(1), method=method("Reserve"))
        fails(Code.UNKNOWN, "use application/json", reserve)
    print("every call was answered as expected")


main()
