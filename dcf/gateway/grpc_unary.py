"""Answer unary calls of functions without a task, where the function is known here.

In:   a request's function and input, the Rpc. Out: its answer, or its status, when the call is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from dcf.errors import InvocationError
from dcf.gateway.call import PendingCall
from dcf.gateway.grpc_errors import answering, call_id, end, end_on_bug, remaining_s
from dcf.gateway.invoke import Invoker, located
from dcf.gateway.reply import Reply, ReplyStream
from dcf.gateway.router import FunctionEntry
from dcf.rpc.grpc_call import Rpc

Encode = Callable[[Reply], Any]
"""The message of an answer. Raises InvocationError where it cannot carry it."""


def begin_unary(
    invoker: Invoker, rpc: Rpc, function: str, body: bytes, encoded: bytes, encode: Encode
) -> Coroutine[Any, Any, None] | None:
    """Begin one call; what it returns is still to be run.

    Args:
        encoded: the metadata's JSON.
    """
    entry = invoker.known(function)
    if entry is None:
        return _look_up(invoker, rpc, function, body, encoded, encode)
    _begin(invoker, rpc, entry, body, encoded, encode)
    return None


async def _look_up(invoker: Invoker, rpc: Rpc, function: str, body: bytes, encoded: bytes, encode: Encode) -> None:
    async with answering(rpc):
        entry = await invoker.entry(function)
    if not rpc.ended:
        _begin(invoker, rpc, entry, body, encoded, encode)


def _begin(invoker: Invoker, rpc: Rpc, entry: FunctionEntry, body: bytes, encoded: bytes, encode: Encode) -> None:
    try:
        call = invoker.begin(
            entry,
            body,
            encoded=encoded,
            then=lambda call: _on_settled(rpc, call, encode),
            invocation_id=call_id(rpc),
            timeout_s=remaining_s(rpc),
        )
        rpc.on_cancel = lambda: invoker.abandon(call)
    except InvocationError as error:
        end(rpc, error)
    except Exception:
        end_on_bug(rpc)


def _on_settled(rpc: Rpc, call: PendingCall, encode: Encode) -> None:
    """Called by whoever has the answer: the replica's link, mostly, which a bug here must not reach."""
    try:
        answer = call.answer
        if isinstance(answer, Reply):
            rpc.reply(encode(answer))
        elif answer is not None:
            rpc.run(_join(rpc, call, answer, encode))
        else:
            assert call.error is not None
            end(rpc, call.error)
    except InvocationError as error:
        end(rpc, error)
    except Exception:
        end_on_bug(rpc)


async def _join(rpc: Rpc, call: PendingCall, stream: ReplyStream, encode: Encode) -> Any:
    """The message of an answer that comes in pieces."""
    async with answering(rpc):
        with located(call.entry, call.invocation_id):
            return encode(await stream.join(call.entry.spec.max_payload_bytes))
