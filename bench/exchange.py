"""Say what one call sends and what its answer must hold, as bytes on the wire.

In:   how many bytes of body. Out: an Exchange, for HTTP or for unary gRPC.
Pure: no I/O.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dcf.rpc.pb_gateway_pb2 import InvokeServiceRequest, Message, Messages

RAW = "application/octet-stream"
GRPC = "application/grpc"
CHUNK, CHUNKS = 64, 1000
"""Bytes of each chunk of a stream, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call; the same bytes again and again under load."""

    content_type: str
    request: bytes
    """The body; of gRPC a whole message, with the five bytes before it."""
    answer: bytes
    """What the answer's body is, or only holds: a peer's own protocol adds an id of the call."""
    exact: bool = True

    def is_answered_by(self, got: bytes) -> bool:
        return got == self.answer if self.exact else self.answer in got


OfSize = Callable[[int], Exchange]


def raw(size: int) -> Exchange:
    """The body is all there is."""
    return Exchange(content_type=RAW, request=b"x" * size, answer=b"x" * size)


def stream(size: int) -> Exchange:
    """Whatever the body, the answer is a stream of 1 000 chunks of 64 bytes."""
    return Exchange(content_type=RAW, request=b"x" * size, answer=b"x" * CHUNK * CHUNKS)


def json_list(size: int) -> Exchange:
    """A batchable method of BentoML's takes a list and answers with a list; this one is of one text."""
    request = json.dumps({"bodies": ["x" * size]}).encode()
    return Exchange(content_type="application/json", request=request, answer=b"x" * size, exact=False)


def v2_json(size: int) -> Exchange:
    """MLServer's protocol, V2 of KServe, over HTTP."""
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["x" * size]}
    request = json.dumps({"inputs": [tensor]}).encode()
    return Exchange(content_type="application/json", request=request, answer=b"x" * size, exact=False)


def invoke(size: int) -> Exchange:
    """Call of pb.Gateway/Invoke to the function echo."""
    answer = Message(Msg="x" * size).SerializeToString()
    return Exchange(content_type=GRPC, request=_invoke_request(size), answer=_framed(answer))


def invokes(size: int) -> Exchange:
    """One message of pb.Gateway/Invokes to the function echo, and its answer."""
    answer = Messages(Output=b"x" * size).SerializeToString()
    return Exchange(content_type=GRPC, request=_invoke_request(size), answer=_framed(answer))


def v2_grpc(size: int) -> Exchange:
    """ModelInferRequest of V2 for the model echo, written by hand: its fields are few."""
    contents = _field(8, b"x" * size)  # bytes_contents
    tensor = _field(1, b"x") + _field(2, b"BYTES") + _field(3, b"\x01") + _field(5, contents)
    request = _field(1, b"echo") + _field(5, tensor)
    return Exchange(content_type=GRPC, request=_framed(request), answer=b"x" * size, exact=False)


def _invoke_request(size: int) -> bytes:
    return _framed(InvokeServiceRequest(Service="echo", Input=b"x" * size).SerializeToString())


def _framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    length, left = b"", len(value)
    while left > 0x7F:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + value
