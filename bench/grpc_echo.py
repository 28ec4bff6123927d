"""The echo that a user would write by hand with `grpc.aio`: `python grpc_echo.py PORT`.

pb.Gateway's messages and two of its methods, in one process.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import grpc
import uvloop

from dcf.rpc.pb_gateway_pb2 import InvokeServiceRequest, Message, Messages


async def invoke(request: InvokeServiceRequest, context: object) -> Message:
    return Message(Msg=request.Input.decode())


async def invokes(requests: AsyncIterator[InvokeServiceRequest], context: object) -> AsyncIterator[Messages]:
    async for request in requests:
        yield Messages(Output=request.Input)


async def serve(port: int) -> None:
    server = grpc.aio.server()
    handlers = {
        "Invoke": grpc.unary_unary_rpc_method_handler(
            invoke, InvokeServiceRequest.FromString, Message.SerializeToString
        ),
        "Invokes": grpc.stream_stream_rpc_method_handler(
            invokes, InvokeServiceRequest.FromString, Messages.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pb.Gateway", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
