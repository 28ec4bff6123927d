"""End a gRPC call with an error: its status, and what it says about itself.

In:   an InvocationError. Out: google.rpc.Status with a dcf.v1.ErrorDetail in
the trailer, where `dcf.client` and any other gRPC client find it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn
from urllib.parse import quote

import grpc
from google.rpc import status_pb2

from dcf.errors import InternalError, InvalidInputError, InvocationError
from dcf.rpc.grpc_call import Rpc, RpcEndedError
from dcf.rpc.status import status_of
from dcf.rpc.v1_gateway_pb2 import ErrorDetail

log = logging.getLogger(__name__)

TRAILER = "grpc-status-details-bin"

TRAILER_BYTES = 7000
"""A client refuses metadata over 8 KiB and then sees no error at all; the rest is for the other headers."""

MESSAGE_BYTES = 1500
"""Of the message as it travels: percent-encoded, so that a Korean one has 9 bytes a character."""

MAX_CALL_ID = 128
FOREVER_S = 1e6
"""A deadline later than this is none: gRPC says "no deadline" in several ways."""


def abort(rpc: Rpc, error: InvocationError, *, message_index: int = -1) -> NoReturn:
    """`end`, and the implementation with it, by RpcEndedError."""
    end(rpc, error, message_index=message_index)
    raise RpcEndedError


def end(rpc: Rpc, error: InvocationError, *, message_index: int = -1) -> None:
    """End the call with `error`. `message_index`: which message of a stream it is about."""
    status = status_of(error)
    code = grpc.StatusCode[status.grpc]
    text = _cut_encoded(error.message, MESSAGE_BYTES)
    detail = ErrorDetail(
        code=status.code,
        message=_cut(error.message, MESSAGE_BYTES),
        function=error.function,
        replica=error.replica,
        invocation_id=error.invocation_id,
        retryable=status.retryable,
        retry_after_s=error.retry_after_s or 0.0,
        message_index=message_index,
    )
    # In base64 it has 4 bytes for 3; the traceback gets what is left, and keeps its end: the exception.
    room = (TRAILER_BYTES - len(quote(text))) * 3 // 4 - len(text.encode()) - detail.ByteSize() - 100
    if error.traceback and room > 0:
        detail.traceback = error.traceback.encode("utf-8", "replace")[-room:].decode("utf-8", "ignore")
    whole = status_pb2.Status(code=code.value[0], message=text)
    whole.details.add().Pack(detail)
    rpc.finish(code, text, ((TRAILER, whole.SerializeToString()),))


def end_on_bug(rpc: Rpc) -> None:
    """The same for what should never happen; called where it is handled."""
    log.exception("a gRPC call failed on a bug of DCF")
    end(rpc, InternalError("the gateway failed on this call; its log says why"))


@asynccontextmanager
async def answering(rpc: Rpc) -> AsyncIterator[None]:
    """Whatever goes wrong inside becomes a status; never a text of Python's."""
    try:
        yield
    except RpcEndedError:
        raise
    except InvocationError as error:
        abort(rpc, error)
    except Exception as error:
        end_on_bug(rpc)
        raise RpcEndedError from error


def call_id(rpc: Rpc) -> str | None:
    """The caller's own id of the call. Raises InvalidInputError."""
    given = rpc.header("x-call-id")
    if given is None:
        return None
    if not (given.isascii() and given.isprintable() and 0 < len(given) <= MAX_CALL_ID):
        raise InvalidInputError(f"x-call-id: expected 1 to {MAX_CALL_ID} printable ASCII characters")
    return given


def remaining_s(rpc: Rpc) -> float | None:
    """Until the client's deadline; None where it has none."""
    left_s = rpc.time_remaining()
    return None if left_s is None or left_s > FOREVER_S else max(left_s, 0.001)


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit_bytes else data[: limit_bytes - 3].decode("utf-8", "ignore") + "..."


def _cut_encoded(text: str, limit_bytes: int) -> str:
    text = _cut(text, limit_bytes)
    while len(quote(text)) > limit_bytes:
        text = _cut(text, len(text.encode()) * 3 // 4)
    return text
