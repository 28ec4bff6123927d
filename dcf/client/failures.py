"""A failed RPC as an error of `dcf.errors`: the client's door to gRPC.

The gateway sends google.rpc.Status with a dcf.v1.ErrorDetail in the trailer;
an error without one was made by gRPC itself, or by something that is no
gateway.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from dcf.errors import ClientGoneError, DcfError, DeadlineError, GatewayUnreachableError, InternalError
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.status import error_of

_TRAILER = "grpc-status-details-bin"
HOW_TO_REACH = (
    'start a cluster with "dcf up", or name another gateway with --gateway, DCF_GATEWAY or "dcf config set gateway"'
)
CALL_CANCELLED = "the call was cancelled"


def error_from(failure: grpc.RpcError, address: str) -> DcfError:
    """The typed error behind `failure`, whichever client saw it."""
    detail = _detail(failure)
    if detail is not None:
        return error_of(
            detail.code,
            detail.message,
            function=detail.function,
            replica=detail.replica,
            invocation_id=detail.invocation_id,
            retry_after_s=detail.retry_after_s or None,
            traceback=detail.traceback,
        )
    code, text = failure.code(), str(failure.details() or "")
    if code is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" in text:
            return GatewayUnreachableError(f"no gateway answers at {address}: {HOW_TO_REACH}")
        return GatewayUnreachableError(
            f"the connection to the gateway at {address} broke before the answer was whole ({text}); "
            "the call may have run"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return GatewayUnreachableError(f"what answers at {address} is no DCF gateway ({text}): {HOW_TO_REACH}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"no whole answer from the gateway at {address} within the call's time")
    if code is grpc.StatusCode.CANCELLED:
        return ClientGoneError(CALL_CANCELLED)
    return InternalError(f"the gateway at {address} answered {code.name}: {text}")


def _detail(failure: grpc.RpcError) -> v1.ErrorDetail | None:
    trailer: Iterable[tuple[str, Any]] = cast("Any", failure.trailing_metadata()) or ()
    for key, value in trailer:
        if key != _TRAILER:
            continue
        detail = v1.ErrorDetail()
        try:
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(detail):
                    return detail
        except DecodeError:
            return None
    return None
