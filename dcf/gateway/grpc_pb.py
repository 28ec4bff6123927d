"""Answer the original's gRPC service, package pb, as its clients know it.

In:   pb messages. Out: pb messages, or a status (grpc_errors.py).
Nothing in the messages may change; what does not fit into them is dcf.v1's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from dcf.domain.scaling import MAX_REPLICAS
from dcf.errors import HandlerError, InvalidInputError
from dcf.gateway.admin import Admin
from dcf.gateway.grpc_errors import answering
from dcf.gateway.grpc_invokes import run_invokes
from dcf.gateway.grpc_unary import begin_unary
from dcf.gateway.invoke import Invoker
from dcf.gateway.reply import Reply
from dcf.gateway.token import ManagementToken
from dcf.rpc import pb_gateway_pb2 as pb
from dcf.rpc.grpc_call import Rpc

LOG_LINES = 1000
LOG_BYTES = 1024 * 1024
"""Of `GetLog`'s one message: an existing client takes at most 4 MiB."""


class PbGateway:
    """Implements `pb.Gateway`. Touched only by the event loop of the gateway."""

    def __init__(self, invoker: Invoker, admin: Admin, token: ManagementToken, stopping: asyncio.Event) -> None:
        self._invoker = invoker
        self._admin = admin
        self._token = token
        self._stopping = stopping

    # calls

    def Invoke(self, request: pb.InvokeServiceRequest, rpc: Rpc) -> Coroutine[Any, Any, None] | None:
        """One call; its answer must be text."""

        def encode(reply: Reply) -> pb.Message:
            try:
                return pb.Message(Msg=reply.body.decode())
            except UnicodeDecodeError as error:
                # The handler ran and is counted, and the same call would end the same way: that is what
                # HandlerError (UNKNOWN, not retryable) says of a result that cannot be sent.
                raise HandlerError(
                    f"{request.Service} answered {len(reply.body)} bytes of {reply.content_type} that are not UTF-8 "
                    "text, and pb.Gateway/Invoke can carry text only: call pb.Gateway/Invokes or dcf.v1.Gateway/Invoke",
                    function=request.Service,
                    invocation_id=reply.invocation_id,
                ) from error

        return begin_unary(self._invoker, rpc, request.Service, request.Input, b"", encode)

    async def Invokes(self, requests: object, rpc: Rpc) -> None:
        """Pipelined calls, answers in order."""
        async with answering(rpc):
            await run_invokes(self._invoker, rpc, self._stopping)

    # readable by everybody

    async def List(self, request: pb.Empty, rpc: Rpc) -> pb.Functions:
        """All functions by name."""
        async with answering(rpc):
            return pb.Functions(Functions=[_function(view) for view in await self._admin.list()])

    async def GetMeta(self, request: pb.FunctionRequest, rpc: Rpc) -> pb.Function:
        """One function."""
        async with answering(rpc):
            return _function(await self._admin.describe(request.FunctionName))

    async def Info(self, request: pb.Empty, rpc: Rpc) -> pb.Message:
        """Version and facts, as JSON."""
        async with answering(rpc):
            return pb.Message(Msg=json.dumps(self._admin.info()))

    async def HealthCheck(self, request: pb.Empty, rpc: Rpc) -> pb.Message:
        """That it answers."""
        return pb.Message(Msg="OK")

    # management

    async def Deploy(self, request: pb.CreateFunctionRequest, rpc: Rpc) -> pb.Message:
        """Create or replace."""
        return await self._deploy(request, rpc, must_exist=False)

    async def Update(self, request: pb.CreateFunctionRequest, rpc: Rpc) -> pb.Message:
        """Replace what is there."""
        return await self._deploy(request, rpc, must_exist=True)

    async def _deploy(self, request: pb.CreateFunctionRequest, rpc: Rpc, *, must_exist: bool) -> pb.Message:
        async with answering(rpc):
            self._check(rpc)
            view = await self._admin.deploy(_deploy_data(request), must_exist=must_exist)
            done = "updated" if must_exist else "deployed"
            return pb.Message(Msg=f"function {view['name']} {done} (generation {view['generation']})")

    async def Delete(self, request: pb.DeleteFunctionRequest, rpc: Rpc) -> pb.Message:
        """Remove a function and its counts."""
        async with answering(rpc):
            self._check(rpc)
            await self._admin.delete(request.FunctionName)
            return pb.Message(Msg=f"function {request.FunctionName} deleted")

    async def GetLog(self, request: pb.FunctionRequest, rpc: Rpc) -> pb.Message:
        """The last lines of all replicas, as text."""
        async with answering(rpc):
            self._check(rpc)
            lines = await self._admin.log(request.FunctionName, tail=LOG_LINES)
            async with aclosing(lines):
                text = "".join([f"{line.text}\n" async for line in lines])
            data = text.encode("utf-8", "replace")
            return pb.Message(Msg=data[-LOG_BYTES:].decode("utf-8", "ignore"))

    async def ReplicaUpdate(self, request: pb.ScaleServiceRequest, rpc: Rpc) -> pb.Message:
        """Pin the replica number."""
        async with answering(rpc):
            self._check(rpc)
            if request.Replicas > MAX_REPLICAS:
                raise InvalidInputError(f"Replicas: {request.Replicas} is over {MAX_REPLICAS}")
            view = await self._admin.scale(request.ServiceName, int(request.Replicas))
            return pb.Message(Msg=f"function {view['name']} scaled to {view['replicas']}")

    def _check(self, rpc: Rpc) -> None:
        self._token.check(rpc.header("authorization"))


def _deploy_data(request: pb.CreateFunctionRequest) -> dict[str, Any]:
    """The JSON form of dcf.v1.DeployRequest."""
    return {
        "service": request.Service,
        "image": request.Image,
        "envVars": dict(request.EnvVars),
        "labels": dict(request.Labels),
        "annotations": dict(request.Annotations),
        "constraints": list(request.Constraints),
        "secrets": list(request.Secrets),
        "registryAuth": request.RegistryAuth,
        "limits": _resources(request.Limits),
        "requests": _resources(request.Requests),
        "minReplicas": request.MinReplicas,
        "maxReplicas": request.MaxReplicas,
    }


def _resources(given: pb.FunctionResources) -> dict[str, Any]:
    return {"memory": given.Memory, "cpu": given.CPU, "gpu": given.GPU}


def _function(view: dict[str, Any]) -> pb.Function:
    return pb.Function(
        Name=view["name"],
        Image=view["image"],
        InvocationCount=view["invocationCount"],
        Replicas=view["replicas"],
        AvailableReplicas=view["availableReplicas"],
        Annotations=view["annotations"],
        Labels=view["labels"],
    )
