"""Serve gRPC: pb.Gateway, dcf.v1.Gateway, health and reflection.

In:   connections that the gateway's listener hands over.
Out:  a server that answers them for the life of a block and ends when it is drained.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from dcf.gateway.admin import Admin
from dcf.gateway.grpc_pb import PbGateway
from dcf.gateway.grpc_v1 import V1Gateway
from dcf.gateway.invoke import Invoker
from dcf.gateway.stopping import Stopping
from dcf.gateway.token import ManagementToken
from dcf.lifecycle import open_task_set
from dcf.rpc import pb_gateway_pb2, v1_gateway_pb2
from dcf.rpc.grpc_server import GrpcServer
from dcf.rpc.services import generic_handler

PB = pb_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]
V1 = v1_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]

FLUSH_S = 5.0
"""For the last answers to reach slow readers, once all calls have ended."""
LAST_WORD_S = 0.2
"""For a watcher of the health to hear NOT_SERVING before its stream ends."""


@asynccontextmanager
async def open_grpc_api(
    invoker: Invoker, admin: Admin, token: ManagementToken, stopping: Stopping
) -> AsyncIterator[GrpcServer]:
    """At the end calls in flight have `stopping.left_s()`.

    Args:
        stopping: once it is set, health says NOT_SERVING and endless streams end.
    """
    async with open_task_set() as tasks:
        server = GrpcServer(tasks)
        endless = await _register(server, invoker, admin, token, stopping)
        tasks.start("grpc stop", _stop(server, *endless, stopping))
        try:
            yield server
        finally:
            # Also where the block ended by an error: who asks must not be sent here any more.
            stopping.set()
            await _until_idle(invoker, stopping)
            await server.stop(min(stopping.left_s(), FLUSH_S))


async def _register(
    server: GrpcServer, invoker: Invoker, admin: Admin, token: ManagementToken, stopping: Stopping
) -> tuple[_Health, _EndlessStreams]:
    server.add_generic_rpc_handlers(
        (
            generic_handler(PB, PbGateway(invoker, admin, token, stopping)),
            generic_handler(V1, V1Gateway(invoker, admin, token, stopping)),
        )
    )
    endless = _EndlessStreams()
    served = _Health(endless)
    health_pb2_grpc.add_HealthServicer_to_server(served, server)
    names = (PB.full_name, V1.full_name)
    for name in ("", *names):
        await served.set(name, health_pb2.HealthCheckResponse.SERVING)
    shown = _Reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), endless)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(shown, server)
    return served, endless


async def _until_idle(invoker: Invoker, stopping: Stopping) -> None:
    """Only calls of functions are worth the whole drain time; no other stream is waited for like them."""
    while invoker.in_flight and stopping.left_s():
        await asyncio.sleep(0.02)


async def _stop(server: GrpcServer, served: _Health, endless: _EndlessStreams, stopping: Stopping) -> None:
    """At the moment that HTTP stops too: new calls are refused; clients hear it and go elsewhere."""
    await stopping.wait()
    await served.enter_graceful_shutdown()
    endless.end()
    await server.stop(stopping.left_s())


class _EndlessStreams:
    """Streams that their clients never end; a stop would wait its whole drain time for each."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A stream that ends in order with the block when `end` is called."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._limits.discard(limit)

    def end(self) -> None:
        """End them, after what they have to say of the stop."""
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time() + LAST_WORD_S)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1, whose Watch ends when the gateway does."""

    def __init__(self, endless: _EndlessStreams) -> None:
        super().__init__()
        self._endless = endless

    async def Watch(self, request: Any, context: Any) -> None:
        """Every change of a service's health."""
        async with self._endless.one():
            await super().Watch(request, context)


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Server reflection, for grpcurl and its like."""

    def __init__(self, names: tuple[str, ...], endless: _EndlessStreams) -> None:
        super().__init__(names, pool=descriptor_pool.Default())
        self._endless = endless

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Answers one question after the other."""
        async with self._endless.one():
            async for answer in super().ServerReflectionInfo(requests, context):
                yield answer
