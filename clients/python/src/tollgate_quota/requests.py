"""The requests of a client, with its organization and project filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ._proto import quota_pb2 as pb
from .answers import Workload


@dataclass(frozen=True)
class Requests:
    """Builds requests. The service checks the fields, and its error names the one that is wrong."""

    org: str
    project: str

    def reserve(
        self,
        model: str,
        tokens: int,
        *,
        org: str | None,
        project: str | None,
        workload: Workload | None,
        request_id: str = "",
        dry_run: bool = False,
    ) -> pb.ReserveRequest:
        """A Reserve, or a dry run of it."""
        return pb.ReserveRequest(
            org=self.org_or(org),
            project=self.project if project is None else project,
            model=model,
            tokens=_unsigned("tokens", tokens),
            request_id=request_id,
            workload=cast("pb.Workload", int(workload or 0)),
            dry_run=dry_run,
        )

    def settle(
        self, request_id: str, tokens: int, *, org: str | None, outside_program: bool
    ) -> pb.SettleRequest:
        """A Settle."""
        return pb.SettleRequest(
            org=self.org_or(org),
            request_id=request_id,
            tokens=_unsigned("tokens", tokens),
            outside_program=outside_program,
        )

    def release(self, request_id: str, *, org: str | None) -> pb.ReleaseRequest:
        """A Release."""
        return pb.ReleaseRequest(org=self.org_or(org), request_id=request_id)

    def usage(
        self, org: str | None, day: str, from_day: str, to_day: str
    ) -> pb.ListUsageRequest:
        """The first page of the usage of a day or of a range, as large as a page may be."""
        return pb.ListUsageRequest(
            org=self.org_or(org), day=day, from_day=from_day, to_day=to_day, page_size=1_000
        )

    def org_or(self, org: str | None) -> str:
        """The client's organization, unless the call names another one."""
        return self.org if org is None else org


def _unsigned(field: str, value: int) -> int:
    # protobuf's own error does not name the field.
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{field}: {value} is not an unsigned 64-bit number")
    return value
