"""Calls a service without a pause until its input ends, as a gateway with the given service config does.

Usage: retries.py HOST:PORT SERVICE-CONFIG, with the generated modules on PYTHONPATH. In the end it prints, as
JSON, what it called and what must have been counted. Beside it another client without the config calls what
counts nothing, to show what a call meets that is not tried again.
"""

import json
import sys
import threading

import grpc
from tollgate.v1 import quota_pb2 as pb
from tollgate.v1 import quota_pb2_grpc

ORG = "acme"
CALLERS = 4
PAUSE = 0.02


class Caller(threading.Thread):
    """Calls in turn, and remembers what that must have counted."""

    def __init__(self, name, stub, stop):
        super().__init__(name=name, daemon=True)
        self.stub, self.stop = stub, stop
        self.calls = self.used = self.requests = self.replayed = 0
        self.failures = []

    def run(self):
        number = 0
        while not self.stop.wait(PAUSE):
            number += 1
            try:
                self.work(number, f"{self.name}-{number}")
            except Exception as error:  # Whatever it is, the test is to see it.
                self.failures.append(repr(error))

    def work(self, number, request_id):
        request = pb.ReserveRequest(
            org=ORG, project="p", model="gpt-4o", tokens=10, request_id=request_id
        )
        answer = self.call(self.stub.Reserve, request)
        assert answer.verdict == pb.VERDICT_FREE, answer
        self.used += 10
        self.requests += 1
        self.replayed += answer.replayed
        if number % 3 == 0:
            settled = pb.SettleRequest(org=ORG, request_id=request_id, tokens=7)
            self.call(self.stub.Settle, settled)
            self.used -= 3
        if number % 3 == 1:
            self.call(self.stub.Release, pb.ReleaseRequest(org=ORG, request_id=request_id))
            self.used -= 10
            self.requests -= 1
        if number % 5 == 0:
            self.call(self.stub.GetQuota, pb.GetQuotaRequest(org=ORG))
            self.call(self.stub.ListUsage, pb.ListUsageRequest(org=ORG))

    def call(self, method, request):
        self.calls += 1
        return method(request)


class Unprotected(Caller):
    """One that has no service config, and asks without counting."""

    def work(self, number, request_id):
        request = pb.ReserveRequest(org=ORG, project="p", model="gpt-4o", tokens=1, dry_run=True)
        self.stub.Reserve(request, timeout=10)


def stub_on(addr, options):
    return quota_pb2_grpc.QuotaServiceStub(grpc.insecure_channel(addr, options))


def main():
    addr, config = sys.argv[1:]
    with open(config, encoding="utf-8") as file:
        protected = stub_on(addr, [("grpc.service_config", file.read())])
    stop = threading.Event()
    callers = [Caller(f"caller-{at}", protected, stop) for at in range(CALLERS)]
    unprotected = Unprotected("unprotected", stub_on(addr, [("grpc.enable_retries", 0)]), stop)
    for thread in [*callers, unprotected]:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in [*callers, unprotected]:
        thread.join()
    total = {
        name: sum(getattr(caller, name) for caller in callers)
        for name in ("calls", "used", "requests", "replayed")
    }
    total["failures"] = [failure for caller in callers for failure in caller.failures]
    total["unprotected_failures"] = len(unprotected.failures)
    print(json.dumps(total))


main()
