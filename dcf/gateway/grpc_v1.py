"""Answer DCF's own gRPC service, dcf.v1.Gateway.

In:   its messages. Out: its messages, or a status (grpc_errors.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf import json_format

from dcf.errors import ClusterUnavailableError, InvalidInputError
from dcf.gateway.admin import Admin
from dcf.gateway.grpc_errors import Context, answering, call_id, metadata_value, remaining_s
from dcf.gateway.grpc_streams import call_headers, run_invoke_bidi, run_invoke_stream
from dcf.gateway.invoke import Invoker
from dcf.gateway.token import ManagementToken
from dcf.rpc import v1_gateway_pb2 as v1


class V1Gateway:
    """Implements `dcf.v1.Gateway`. Touched only by the event loop of the gateway."""

    def __init__(self, invoker: Invoker, admin: Admin, token: ManagementToken, stopping: asyncio.Event) -> None:
        self._invoker = invoker
        self._admin = admin
        self._token = token
        self._stopping = stopping

    async def Invoke(self, request: v1.InvokeRequest, context: Context) -> v1.InvokeReply:
        """One call; the RPC's deadline is its own."""
        async with answering(context):
            reply = await self._invoker.invoke(
                request.function,
                request.input,
                metadata=call_headers(request),
                invocation_id=call_id(context),
                timeout_s=remaining_s(context),
            )
            return v1.InvokeReply(
                output=reply.body,
                content_type=reply.content_type,
                metadata=reply.metadata,
                invocation_id=reply.invocation_id,
            )

    async def InvokeStream(self, request: v1.InvokeRequest, context: Context) -> None:
        """One call, whose answer comes in chunks."""
        async with answering(context):
            await run_invoke_stream(self._invoker, request, context)

    async def InvokeBidi(self, requests: object, context: Context) -> None:
        """A stream in, a stream out."""
        async with answering(context):
            await run_invoke_bidi(self._invoker, context, self._stopping)

    # readable by everybody

    async def List(self, request: v1.ListRequest, context: Context) -> v1.ListReply:
        """All functions by name."""
        async with answering(context):
            return v1.ListReply(functions=[_function(view) for view in await self._admin.list()])

    async def Describe(self, request: v1.DescribeRequest, context: Context) -> v1.Function:
        """One function with its spec."""
        async with answering(context):
            allowed = self._token.allows(metadata_value(context, "authorization"))
            return _function(await self._admin.describe(request.function, environment=allowed))

    async def Info(self, request: v1.InfoRequest, context: Context) -> v1.InfoReply:
        """Version and facts."""
        async with answering(context):
            return v1.InfoReply(**self._admin.info())

    async def Nodes(self, request: v1.NodesRequest, context: Context) -> v1.NodesReply:
        """The machines by name."""
        async with answering(context):
            nodes = [json_format.ParseDict(node, v1.Node()) for node in await self._admin.nodes()]
            return v1.NodesReply(nodes=nodes)

    # management

    async def Deploy(self, request: v1.DeployRequest, context: Context) -> v1.Function:
        """Create, or replace what it is made of."""
        async with answering(context):
            self._check(context)
            data = json_format.MessageToDict(request)
            must_exist = data.pop("mustExist", False)
            return _function(await self._admin.deploy(data, must_exist=must_exist))

    async def Delete(self, request: v1.DeleteRequest, context: Context) -> v1.DeleteReply:
        """Remove a function and its counts."""
        async with answering(context):
            self._check(context)
            await self._admin.delete(request.function)
            return v1.DeleteReply()

    async def Scale(self, request: v1.ScaleRequest, context: Context) -> v1.Function:
        """Pin the replica number, release it, or change its range."""
        async with answering(context):
            self._check(context)
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

    async def Log(self, request: v1.LogRequest, context: Context) -> AsyncIterator[v1.LogLine]:
        """Lines of all replicas."""
        async with answering(context):
            self._check(context)
            tail = request.tail if request.HasField("tail") else None
            lines = await self._admin.log(request.function, since_at=request.since_at, tail=tail, follow=request.follow)
            async with aclosing(lines):
                async for line in lines:
                    yield v1.LogLine(at=line.at, replica=line.replica, stream=line.stream, text=line.text)
            if request.follow and self._stopping.is_set():
                raise ClusterUnavailableError("this gateway stops: connect again to follow the log", retry_after_s=1.0)

    def _check(self, context: Context) -> None:
        self._token.check(metadata_value(context, "authorization"))


def _function(view: dict[str, Any]) -> v1.Function:
    # A newer gateway's views may hold more than this release's message: rolling updates mix them in the store.
    return json_format.ParseDict(view, v1.Function(), ignore_unknown_fields=True)
