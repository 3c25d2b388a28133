"""Where the service is, and how a channel to it is made."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ._proto import quota_pb2 as pb
from .errors import TollgateError, error_of

#: A bearer token, or a function that returns the present one.
Token = str | Callable[[], str]

#: Seconds that a call may take with all its attempts.
DEFAULT_TIMEOUT = 2.0
#: Seconds for which closing a client waits for releases in the background.
CLOSE_TIMEOUT = 1.0

#: Asks a channel why it has no connection: gRPC answers at once then. It waits for no connection, and counts nothing.
PROBE = "/grpc.health.v1.Health/Check"
PROBE_TIMEOUT = 0.05

_SERVICE = pb.DESCRIPTOR.services_by_name["QuotaService"]


@dataclass(frozen=True)
class TLS:
    """TLS with other authorities than the system's, or with a client certificate. Files are PEM."""

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("tls: cert_file and key_file belong together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files."""
        read = (
            None if file is None else Path(file).read_bytes()
            for file in (self.ca_file, self.key_file, self.cert_file)
        )
        return grpc.ssl_channel_credentials(*read)


class Endpoint:
    """An address with its credentials.

    Raises ValueError if the address has no port, or if a token would be sent in clear beyond this machine.
    """

    def __init__(self, address: str, *, tls: bool | TLS | None, token: Token | None) -> None:
        if "://" in address:
            raise ValueError(f"address: {address!r} has a scheme; write HOST:PORT, and set tls")
        if not re.search(r"^unix:.|:\d+$", address):
            raise ValueError(f"address: {address!r} is neither HOST:PORT nor unix:PATH")
        self.address = address
        self.is_local = _is_local(address)
        self._tls = TLS() if tls is True else tls or None
        self._token = token
        if token is not None and self._tls is None and not self.is_local:
            raise ValueError(f"token: it would be sent in clear to {address}; set tls")

    def options(self) -> list[tuple[str, str | int]]:
        """The options of a channel."""
        config = resources.files(__package__).joinpath("service-config.json").read_text("utf-8")
        options: list[tuple[str, str | int]] = [("grpc.service_config", config)]
        if self.is_local:
            # A proxy would make this machine's name mean another machine.
            options.append(("grpc.enable_http_proxy", 0))
        if self.address.startswith("unix:"):
            # gRPC would send the path, which is no valid authority.
            options.append(("grpc.default_authority", "localhost"))
        return options

    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of a channel; None: in clear."""
        return self._tls.credentials() if self._tls else None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call. Raises UnauthenticatedError if there is no token to send."""
        if self._token is None:
            return ()
        try:
            token = self._token if isinstance(self._token, str) else self._token()
        except Exception as error:
            raise _no_token(f"its function raised {type(error).__name__}") from error
        # A file's last line has an end.
        token = token.strip()
        if not re.fullmatch("[ -~]*", token):
            raise _no_token("it holds a control character, or one that is not ASCII")
        return (("authorization", f"Bearer {token}"),)


def _no_token(reason: str) -> TollgateError:
    return error_of(grpc.StatusCode.UNAUTHENTICATED, f"token: {reason}")


def _is_local(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def path(method: str) -> str:
    """The HTTP/2 path of an RPC."""
    return f"/{_SERVICE.full_name}/{method}"


def serialize(message: Message) -> bytes:
    """The bytes of a request."""
    return message.SerializeToString()


def deserializer(method: str) -> Callable[[bytes], Message]:
    """How the answers of an RPC are read."""
    return GetMessageClass(_SERVICE.methods_by_name[method].output_type).FromString


def cause_of_probe(error: grpc.RpcError) -> str:
    """Why there is no connection, by what PROBE failed with; empty if there is one."""
    return str(error.details()) if error.code() is grpc.StatusCode.UNAVAILABLE else ""


def with_cause(error: TollgateError, address: str, cause: str) -> TollgateError:
    """The error of a call that had no answer in time: gRPC says neither where nor why."""
    where = f"{address}: {cause}" if cause else address
    return error_of(error.code, f"{error.message} ({where})")


def error_of_call(error: Exception) -> TollgateError:
    """The error of a failed call."""
    if isinstance(error, TollgateError):
        return error
    if isinstance(error, grpc.RpcError):
        # The base class declares neither, but what calls raise has both.
        return error_of(error.code(), error.details() or "")
    # gRPC's own failures, and files of TLS.
    return error_of(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
