"""Answer DCF's own gRPC service, dcf.v1.Gateway.

In:   its messages. Out: its messages, or a status (grpc_errors.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from google.protobuf import json_format

from dcf.errors import ClusterUnavailableError, InvalidInputError
from dcf.gateway.admin import Admin
from dcf.gateway.grpc_errors import answering
from dcf.gateway.grpc_streams import call_headers, run_invoke_bidi, run_invoke_stream
from dcf.gateway.grpc_unary import begin_unary
from dcf.gateway.invoke import Invoker, encode_metadata
from dcf.gateway.reply import Reply
from dcf.gateway.token import ManagementToken
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.grpc_call import Rpc


class V1Gateway:
    """Implements `dcf.v1.Gateway`. Touched only by the event loop of the gateway."""

    def __init__(self, invoker: Invoker, admin: Admin, token: ManagementToken, stopping: asyncio.Event) -> None:
        self._invoker = invoker
        self._admin = admin
        self._token = token
        self._stopping = stopping

    def Invoke(self, request: v1.InvokeRequest, rpc: Rpc) -> Coroutine[Any, Any, None] | None:
        """One call; the RPC's deadline is its own."""
        encoded = encode_metadata(call_headers(request))
        return begin_unary(self._invoker, rpc, request.function, request.input, encoded, _reply)

    async def InvokeStream(self, request: v1.InvokeRequest, rpc: Rpc) -> None:
        """One call, whose answer comes in chunks."""
        async with answering(rpc):
            await run_invoke_stream(self._invoker, request, rpc)

    async def InvokeBidi(self, requests: object, rpc: Rpc) -> None:
        """A stream in, a stream out."""
        async with answering(rpc):
            await run_invoke_bidi(self._invoker, rpc, self._stopping)

    # readable by everybody

    async def List(self, request: v1.ListRequest, rpc: Rpc) -> v1.ListReply:
        """All functions by name."""
        async with answering(rpc):
            return v1.ListReply(functions=[_function(view) for view in await self._admin.list()])

    async def Describe(self, request: v1.DescribeRequest, rpc: Rpc) -> v1.Function:
        """One function with its spec."""
        async with answering(rpc):
            allowed = self._token.allows(rpc.header("authorization"))
            return _function(await self._admin.describe(request.function, environment=allowed))

    async def Info(self, request: v1.InfoRequest, rpc: Rpc) -> v1.InfoReply:
        """Version and facts."""
        async with answering(rpc):
            return v1.InfoReply(**self._admin.info())

    async def Nodes(self, request: v1.NodesRequest, rpc: Rpc) -> v1.NodesReply:
        """The machines by name."""
        async with answering(rpc):
            nodes = [json_format.ParseDict(node, v1.Node()) for node in await self._admin.nodes()]
            return v1.NodesReply(nodes=nodes)

    # management

    async def Deploy(self, request: v1.DeployRequest, rpc: Rpc) -> v1.Function:
        """Create, or replace what it is made of."""
        async with answering(rpc):
            self._check(rpc)
            data = json_format.MessageToDict(request)
            must_exist = data.pop("mustExist", False)
            return _function(await self._admin.deploy(data, must_exist=must_exist))

    async def Delete(self, request: v1.DeleteRequest, rpc: Rpc) -> v1.DeleteReply:
        """Remove a function and its counts."""
        async with answering(rpc):
            self._check(rpc)
            await self._admin.delete(request.function)
            return v1.DeleteReply()

    async def Scale(self, request: v1.ScaleRequest, rpc: Rpc) -> v1.Function:
        """Pin the replica number, release it, or change its range."""
        async with answering(rpc):
            self._check(rpc)
            said = request.WhichOneof("to")
            if said == "range":
                lowest, highest = (
                    getattr(request.range, key) if request.range.HasField(key) else None for key in ("min", "max")
                )
                return _function(await self._admin.set_range(request.function, lowest, highest))
            if said is None or (said == "auto" and not request.auto):
                raise InvalidInputError("expected replicas, a range, or auto: true", function=request.function)
            replicas = request.replicas if said == "replicas" else None
            return _function(await self._admin.scale(request.function, replicas))

    async def Log(self, request: v1.LogRequest, rpc: Rpc) -> AsyncIterator[v1.LogLine]:
        """Lines of all replicas."""
        async with answering(rpc):
            self._check(rpc)
            tail = request.tail if request.HasField("tail") else None
            lines = await self._admin.log(request.function, since_at=request.since_at, tail=tail, follow=request.follow)
            async with aclosing(lines):
                async for line in lines:
                    yield v1.LogLine(at=line.at, replica=line.replica, stream=line.stream, text=line.text)
            if request.follow and self._stopping.is_set():
                raise ClusterUnavailableError("this gateway stops: connect again to follow the log", retry_after_s=1.0)

    def _check(self, rpc: Rpc) -> None:
        self._token.check(rpc.header("authorization"))


def _reply(reply: Reply) -> v1.InvokeReply:
    return v1.InvokeReply(
        output=reply.body,
        content_type=reply.content_type,
        metadata=reply.metadata,
        invocation_id=reply.invocation_id,
    )


def _function(view: dict[str, Any]) -> v1.Function:
    # A newer gateway's views may hold more than this release's message: rolling updates mix them in the store.
    return json_format.ParseDict(view, v1.Function(), ignore_unknown_fields=True)
