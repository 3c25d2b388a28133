"""Calls every RPC of a fresh service at noon of 2026-11-22, and asserts what it answers.

Usage: client.py HOST:PORT, with the generated modules on PYTHONPATH.
"""

import sys
from datetime import datetime, timezone

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from tollgate.v1 import quota_pb2 as pb
from tollgate.v1 import quota_pb2_grpc

MIDNIGHT = datetime(2026, 11, 23, tzinfo=timezone.utc)

# The numbers never change: gateways are compiled with them.
ENUMS = {
    "Verdict": {"VERDICT_UNSPECIFIED": 0, "VERDICT_FREE": 1, "VERDICT_BILLED": 2},
    "BilledReason": {
        "BILLED_REASON_UNSPECIFIED": 0,
        "BILLED_REASON_ORGANIZATION_NOT_ENROLLED": 1,
        "BILLED_REASON_ZERO_DATA_RETENTION": 2,
        "BILLED_REASON_ENTERPRISE_PLAN": 3,
        "BILLED_REASON_PROGRAM_ENDED": 4,
        "BILLED_REASON_PROJECT_NOT_SHARING": 5,
        "BILLED_REASON_WORKLOAD_NOT_COVERED": 6,
        "BILLED_REASON_FINE_TUNED_MODEL": 7,
        "BILLED_REASON_MODEL_NOT_COVERED": 8,
        "BILLED_REASON_POOL_CLOSED": 9,
        "BILLED_REASON_ALLOWANCE_EXCEEDED": 10,
        "BILLED_REASON_DAY_CLOSED": 11,
        "BILLED_REASON_STORE_UNAVAILABLE": 12,
        "BILLED_REASON_RAN_OUTSIDE_PROGRAM": 13,
        "BILLED_REASON_SHARE_EXCEEDED": 14,
    },
    "Workload": {
        "WORKLOAD_UNSPECIFIED": 0,
        "WORKLOAD_INFERENCE": 1,
        "WORKLOAD_HOSTED_TOOL": 2,
        "WORKLOAD_FINE_TUNING": 3,
        "WORKLOAD_EVALUATION": 4,
        "WORKLOAD_BATCH": 5,
        "WORKLOAD_FUNCTION_CALLING": 6,
        "WORKLOAD_FLEX": 7,
        "WORKLOAD_PRIORITY": 8,
    },
    "ComparisonResult": {
        "COMPARISON_RESULT_UNSPECIFIED": 0,
        "COMPARISON_RESULT_AGREES": 1,
        "COMPARISON_RESULT_DRIFTS": 2,
        "COMPARISON_RESULT_UNKNOWN": 3,
    },
}


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def balance(answer):
    return (answer.allowance, answer.used, answer.remaining)


def ask(tokens, **fields):
    fields = {"org": "org-demo", "project": "search", "model": "gpt-4o"} | fields
    return pb.ReserveRequest(tokens=tokens, **fields)


def fails(code, said, call, request):
    try:
        call(request, timeout=20)
    except grpc.RpcError as error:
        equal(error.code(), code)
        if said not in error.details():
            raise AssertionError(f"{error.details()!r} does not say {said!r}")
        return
    raise AssertionError(f"{request} was answered")


def enums_have_their_numbers():
    for name, values in ENUMS.items():
        equal(dict(pb.DESCRIPTOR.enum_types_by_name[name].values_by_name.items()).keys(), values.keys())
        for value, number in values.items():
            equal(getattr(pb, value), number)


def reserve(stub):
    free = stub.Reserve(ask(1_000, request_id="one"), timeout=20)
    equal((free.verdict, free.billed_reason), (pb.VERDICT_FREE, pb.BILLED_REASON_UNSPECIFIED))
    equal((free.pool, balance(free)), ("large", (1_000_000, 1_000, 999_000)))
    equal(type(free.resets_at), Timestamp)
    equal(free.resets_at.ToDatetime(tzinfo=timezone.utc), MIDNIGHT)
    equal(free.replayed, False)
    again = stub.Reserve(
        ask(1_000, request_id="one", workload=pb.WORKLOAD_INFERENCE), timeout=20
    )
    equal((again.verdict, again.used, again.replayed), (pb.VERDICT_FREE, 1_000, True))

    tool = stub.Reserve(ask(5, workload=pb.WORKLOAD_HOSTED_TOOL), timeout=20)
    equal(pb.Verdict.Name(tool.verdict), "VERDICT_BILLED")
    equal(pb.BilledReason.Name(tool.billed_reason), "BILLED_REASON_WORKLOAD_NOT_COVERED")
    equal((tool.pool, balance(tool)), ("", (0, 0, 0)))
    equal(tool.resets_at.ToDatetime(tzinfo=timezone.utc), MIDNIGHT)

    dry = stub.Reserve(ask(1_000_000, dry_run=True), timeout=20)
    equal(dry.billed_reason, pb.BILLED_REASON_ALLOWANCE_EXCEEDED)
    equal(balance(dry), (1_000_000, 1_000, 999_000))

    fails(grpc.StatusCode.INVALID_ARGUMENT, "org", stub.Reserve, ask(1, org=""))
    fails(grpc.StatusCode.INVALID_ARGUMENT, "tokens", stub.Reserve, ask(0))
    fails(grpc.StatusCode.ALREADY_EXISTS, "request_id", stub.Reserve, ask(2, request_id="one"))


def settle(stub):
    request = pb.SettleRequest(org="org-demo", request_id="one", tokens=800)
    for replayed in (False, True):
        settled = stub.Settle(request, timeout=20)
        equal((settled.verdict, settled.billed_reason), (pb.VERDICT_FREE, 0))
        equal((settled.verdict_changed, settled.replayed), (False, replayed))
        equal((settled.pool, balance(settled)), ("large", (1_000_000, 800, 999_200)))
        equal(settled.resets_at.ToDatetime(tzinfo=timezone.utc), MIDNIGHT)
    other = pb.SettleRequest(org="org-demo", request_id="one", tokens=801)
    fails(grpc.StatusCode.ALREADY_EXISTS, "800", stub.Settle, other)
    outside = pb.SettleRequest(org="org-demo", request_id="one", tokens=800, outside_program=True)
    fails(grpc.StatusCode.ALREADY_EXISTS, "within the programme", stub.Settle, outside)
    unknown = pb.SettleRequest(org="org-demo", request_id="two", tokens=1)
    fails(grpc.StatusCode.NOT_FOUND, "request_id", stub.Settle, unknown)


def release(stub):
    stub.Reserve(ask(300, model="o4-mini", request_id="gone"), timeout=20)
    request = pb.ReleaseRequest(org="org-demo", request_id="gone")
    for replayed in (False, True):
        released = stub.Release(request, timeout=20)
        equal((released.released_tokens, released.replayed), (300, replayed))
        equal((released.pool, balance(released)), ("mini", (10_000_000, 0, 10_000_000)))
        equal(released.resets_at.ToDatetime(tzinfo=timezone.utc), MIDNIGHT)
    settled = pb.ReleaseRequest(org="org-demo", request_id="one")
    fails(grpc.StatusCode.FAILED_PRECONDITION, "settled", stub.Release, settled)


def quota(stub):
    answer = stub.GetQuota(pb.GetQuotaRequest(org="org-demo"), timeout=20)
    equal((answer.org, answer.tier, answer.enrolled), ("org-demo", 3, True))
    equal(answer.not_enrolled_reason, pb.BILLED_REASON_UNSPECIFIED)
    equal((answer.day, answer.resets_at.ToDatetime(tzinfo=timezone.utc)), ("2026-11-22", MIDNIGHT))
    large = pb.PoolQuota(
        pool="large", allowance=1_000_000, used=800, remaining=999_200, free_requests=1
    )
    mini = pb.PoolQuota(pool="mini", allowance=10_000_000, remaining=10_000_000)
    equal(list(answer.pools), [large, mini])
    unknown = pb.GetQuotaRequest(org="org-unknown")
    fails(grpc.StatusCode.NOT_FOUND, "org", stub.GetQuota, unknown)


def usage(stub):
    stub.Reserve(ask(7, model="unheard-of"), timeout=20)
    rows, token = [], ""
    while True:
        request = pb.ListUsageRequest(
            org="org-demo", day="2026-11-22", page_size=1, page_token=token
        )
        page = stub.ListUsage(request, timeout=20)
        equal(page.day, "2026-11-22")
        equal(len(page.rows), 1)
        rows.extend(page.rows)
        token = page.next_page_token
        if not token:
            break
    # The hosted tool's 5 tokens are billed usage of the same model.
    wanted = [
        pb.UsageRow(
            project="search", model="gpt-4o", pool="large", free_tokens=800, free_requests=1,
            billed_tokens=5, billed_requests=1, day="2026-11-22",
        ),
        pb.UsageRow(
            project="search", model="unheard-of", billed_tokens=7, billed_requests=1, day="2026-11-22"
        ),
    ]
    equal(rows, wanted)
    future = pb.ListUsageRequest(org="org-demo", day="2026-11-23")
    fails(grpc.StatusCode.OUT_OF_RANGE, "day", stub.ListUsage, future)


def main():
    enums_have_their_numbers()
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        for part in (reserve, settle, release, quota, usage):
            part(stub)
    print("every call was answered as expected")


main()
