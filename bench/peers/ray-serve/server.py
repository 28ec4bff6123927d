"""Serve one workload with Ray Serve: `python server.py echo|stream|sleep|batch|grpc HTTP_PORT GRPC_PORT`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import ray
from gateway_pb2 import InvokeServiceRequest, Message
from ray import serve
from ray.serve.config import gRPCOptions
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

RAW = "application/octet-stream"


class Echo:
    async def __call__(self, request: Request) -> Response:
        return Response(await request.body(), media_type=RAW)


class Stream:
    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.chunks(), media_type=RAW)

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 64


class Sleep:
    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(0.01)
        return Response(body, media_type=RAW)


class Batch:
    async def __call__(self, request: Request) -> Response:
        return Response(await self.run(await request.body()), media_type=RAW)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def run(self, bodies: list[bytes]) -> list[bytes]:
        time.sleep(0.005 + 0.0002 * len(bodies))  # noqa: ASYNC251 - a model computes where it is
        return bodies


class Grpc:
    async def Invoke(self, request: InvokeServiceRequest) -> Message:  # the method's name on the wire
        return Message(Msg=request.Input.decode())


def add_gateway_to_server(servicer: Any, server: Any) -> None:
    """What protoc's plugin would have written, for the one method."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Invoke, InvokeServiceRequest.FromString, Message.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pb.Gateway", {"Invoke": handler}),))


HANDLERS = {"echo": Echo, "stream": Stream, "sleep": Sleep, "batch": Batch, "grpc": Grpc}

if __name__ == "__main__":
    workload, port, grpc_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # By its module's name, which replicas can import; __main__ would be sent to them whole.
    from server import HANDLERS

    ray.init(num_cpus=2, include_dashboard=False)
    options = None
    if workload == "grpc":
        options = gRPCOptions(port=grpc_port, grpc_servicer_functions=["server.add_gateway_to_server"])
    serve.start(
        http_options={"host": "127.0.0.1", "port": port},
        grpc_options=options,
        logging_config={"enable_access_log": False},
    )
    deployment = serve.deployment(num_replicas=1, max_ongoing_requests=100)(HANDLERS[workload])
    serve.run(deployment.bind(), route_prefix=f"/{workload}", blocking=True)
