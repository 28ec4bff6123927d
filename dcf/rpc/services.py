"""Servers and stubs straight from the service descriptors.

No `_pb2_grpc` file: it would tie the wheel to the grpcio that generated it,
and has no types. A service's implementation is any object with one method
of the RPC's name for each RPC.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

OPTIONS: tuple[tuple[str, Any], ...] = (
    # Payload limits are the functions' own (`max_payload`); gRPC's 4 MiB would cut before them.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy from the environment is for the outside, never for a replica or a local gateway.
    ("grpc.enable_http_proxy", 0),
)
"""For every channel and server of ours."""

_CLIENT_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def generic_handler(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    """What `server.add_generic_rpc_handlers` takes. Raises AttributeError for a missing method."""
    handlers = {}
    for method in service.methods:
        make = getattr(grpc, f"{_CLIENT_KINDS[method.client_streaming, method.server_streaming]}_rpc_method_handler")
        handlers[method.name] = make(
            getattr(implementation, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


class Stub:
    """`Stub(channel, service).Invoke(request, timeout=5)`; works with grpc and grpc.aio channels."""

    def __init__(self, channel: Any, service: ServiceDescriptor) -> None:
        for method in service.methods:
            make = getattr(channel, _CLIENT_KINDS[method.client_streaming, method.server_streaming])
            call = make(
                f"/{service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")
