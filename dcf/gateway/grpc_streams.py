"""Run dcf.v1.Gateway's InvokeStream and InvokeBidi.

In:   one request, or a stream of inputs of which the first names the function.
Out:  chunks as the handler makes them. An error ends the stream with its
      status, after the chunks that came before it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from dcf.errors import ClusterUnavailableError, InvalidInputError, InvocationError
from dcf.gateway.conversation import Conversation
from dcf.gateway.grpc_errors import call_id, remaining_s
from dcf.gateway.invoke import Invoker, encode_metadata, located
from dcf.gateway.reply import Reply, ReplyStream
from dcf.gateway.router import FunctionEntry
from dcf.lifecycle import open_task_set
from dcf.rpc import frames
from dcf.rpc.grpc_call import Rpc
from dcf.rpc.v1_gateway_pb2 import InvokeChunk, InvokeInput, InvokeRequest


def call_headers(request: InvokeRequest | InvokeInput) -> dict[str, Any]:
    """The handler's `req.metadata`."""
    headers = dict(request.metadata)
    if request.content_type and not any(key.lower() == "content-type" for key in headers):
        headers["content-type"] = request.content_type
    return {"headers": headers}


async def run_invoke_stream(invoker: Invoker, request: InvokeRequest, rpc: Rpc) -> None:
    """One call. Raises InvocationError."""
    entry = await invoker.entry(request.function)
    answer = await invoker.call(
        entry,
        request.input,
        encoded=encode_metadata(call_headers(request)),
        invocation_id=call_id(rpc),
        timeout_s=remaining_s(rpc),
    )
    await _write_all(rpc, entry, answer)


async def run_invoke_bidi(invoker: Invoker, rpc: Rpc, stopping: asyncio.Event) -> None:
    """One stream. Raises InvocationError."""
    first: Any = await rpc.read()
    if first is grpc.aio.EOF:
        raise InvalidInputError("the stream has no message: expected a first one that names the function")
    entry = await invoker.entry(first.function)
    if await invoker.is_bidirectional(entry, remaining_s(rpc)):
        await _converse(invoker, entry, first, rpc)
        return
    metadata = encode_metadata(call_headers(first))
    message = first
    while message is not grpc.aio.EOF:
        if message.HasField("input"):
            if stopping.is_set():
                raise ClusterUnavailableError("this gateway stops: connect again for the inputs from here on")
            entry = await invoker.entry(first.function)  # it may have been deployed anew
            answer = await invoker.call(entry, message.input, encoded=metadata, timeout_s=remaining_s(rpc))
            await _write_all(rpc, entry, answer)
        message = await rpc.read()


async def _converse(invoker: Invoker, entry: FunctionEntry, first: InvokeInput, rpc: Rpc) -> None:
    conversation = await invoker.converse(
        entry,
        encoded=encode_metadata(call_headers(first)),
        invocation_id=call_id(rpc),
        timeout_s=remaining_s(rpc),
    )
    try:
        async with open_task_set() as tasks:
            reader = tasks.start("reader", _read(conversation, first, rpc))
            writer = tasks.start("writer", _write(conversation, entry, rpc))
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() or (error := await reader) is None:
                error = await writer
        if error is not None:
            raise error
    finally:
        conversation.close()


async def _read(conversation: Conversation, first: InvokeInput, rpc: Rpc) -> InvocationError | None:
    """Pass the inputs on until the client has sent all; an error is a result, for it ends the other direction too."""
    message: Any = first
    try:
        while message is not grpc.aio.EOF:
            if message.HasField("input") and not await conversation.send(message.input):
                return None
            message = await rpc.read()
        await conversation.end()
    except InvocationError as error:
        return error
    return None


async def _write(conversation: Conversation, entry: FunctionEntry, rpc: Rpc) -> InvocationError | None:
    try:
        with located(entry, conversation.invocation_id):
            await _write_all(rpc, entry, await conversation.answer())
    except InvocationError as error:
        return error
    return None


async def _write_all(rpc: Rpc, entry: FunctionEntry, answer: Reply | ReplyStream) -> None:
    head: dict[str, Any] = {"metadata": answer.metadata, "invocation_id": answer.invocation_id}
    if isinstance(answer, Reply):
        await rpc.write(InvokeChunk(output=answer.body, content_type=answer.content_type, **head))
        return
    content_type = "" if answer.content_type == frames.JSON_LINES else answer.content_type
    try:
        with located(entry, answer.invocation_id):
            async for content, message in answer.messages():
                kind = content_type or frames.CONTENT_TYPES[content]
                await rpc.write(InvokeChunk(output=message, content_type=kind, **head))
                head, content_type = {}, ""
    finally:
        answer.close()
