"""Which status goes with which error, and errors as they travel.

STATUS is the only such table; a test holds it to be total. `to_wire` and
`from_wire` carry an error between worker, watcher and gateway as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from dcf import errors
from dcf.errors import InvocationError

GrpcCode = Literal[
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE", "UNAUTHENTICATED",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Status:
    """One row: the code in JSON bodies, the HTTP status, the gRPC code, and whether the handler cannot have run."""

    code: str
    http: int
    grpc: GrpcCode
    retryable: bool


STATUS: dict[type[InvocationError], Status] = {
    errors.InvalidInputError: Status("invalid_input", 400, "INVALID_ARGUMENT", False),
    errors.UnauthenticatedError: Status("unauthenticated", 401, "UNAUTHENTICATED", False),
    errors.FunctionNotFoundError: Status("function_not_found", 404, "NOT_FOUND", False),
    errors.MeshCycleError: Status("mesh_cycle", 409, "FAILED_PRECONDITION", False),
    errors.PayloadTooLargeError: Status("payload_too_large", 413, "RESOURCE_EXHAUSTED", False),
    errors.OverloadedError: Status("overloaded", 429, "RESOURCE_EXHAUSTED", True),
    errors.ClientGoneError: Status("client_gone", 499, "CANCELLED", False),
    errors.HandlerError: Status("handler_error", 500, "UNKNOWN", False),
    errors.InternalError: Status("internal", 500, "INTERNAL", False),
    errors.ReplicaLostError: Status("replica_lost", 502, "UNAVAILABLE", False),
    errors.NoReplicaError: Status("no_replica", 503, "UNAVAILABLE", True),
    errors.ClusterUnavailableError: Status("cluster_unavailable", 503, "UNAVAILABLE", True),
    errors.DeadlineError: Status("deadline_exceeded", 504, "DEADLINE_EXCEEDED", False),
}
_BY_CODE = {status.code: cls for cls, status in STATUS.items()}


def status_of(error: InvocationError) -> Status:
    """The row of `error`; a subclass has its parent's."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return STATUS[errors.InternalError]


def error_of(code: str, message: str, **where: Any) -> InvocationError:
    """The error that a code names; an unknown code is ours to explain, so InternalError."""
    return _BY_CODE.get(code, errors.InternalError)(message, **where)


def to_wire(error: InvocationError) -> bytes:
    """The payload of an ERROR frame."""
    body = {"code": status_of(error).code, "message": error.message}
    if error.traceback:
        body["traceback"] = error.traceback
    return json.dumps(body).encode()


def from_wire(payload: bytes | memoryview) -> InvocationError:
    """The error in an ERROR frame's payload; a malformed one becomes InternalError."""
    try:
        body = json.loads(bytes(payload))
        return error_of(str(body["code"]), _clean(body["message"]), traceback=_clean(body.get("traceback", "")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return errors.InternalError(f"the replica sent an error that cannot be read: {bytes(payload[:200])!r}")


def _clean(value: object) -> str:
    """Text that UTF-8 can say: JSON may carry half a surrogate pair, gRPC cannot."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def to_json(error: InvocationError) -> dict[str, Any]:
    """The JSON body that a caller sees."""
    status = status_of(error)
    body: dict[str, Any] = {
        "code": status.code,
        "message": error.message,
        "function": error.function,
        "replica": error.replica,
        "invocation_id": error.invocation_id,
        "retryable": status.retryable,
    }
    if error.traceback:
        body["traceback"] = error.traceback
    return {"error": body}
