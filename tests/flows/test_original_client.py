"""A client made of nothing but the original's field numbers does its whole job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.flows.cluster import Cluster, until

pytestmark = pytest.mark.slow

STRING, BYTES, UINT64, INT32, MESSAGE = 9, 12, 4, 5, 11

# The tables of the original's interfaces, by hand: (field, number, type), a type's name for messages,
# "map" for map<string, string>, a leading * for repeated.
MESSAGES: dict[str, list[tuple[str, int, Any]]] = {
    "Empty": [],
    "Message": [("Msg", 1, STRING)],
    "Messages": [("Output", 1, BYTES)],
    "InvokeServiceRequest": [("Service", 1, STRING), ("Input", 2, BYTES)],
    "FunctionRequest": [("FunctionName", 1, STRING)],
    "DeleteFunctionRequest": [("FunctionName", 1, STRING)],
    "ScaleServiceRequest": [("ServiceName", 1, STRING), ("Replicas", 2, UINT64)],
    "Functions": [("Functions", 1, "*Function")],
    "Function": [
        ("Name", 1, STRING),
        ("Image", 2, STRING),
        ("InvocationCount", 3, UINT64),
        ("Replicas", 4, UINT64),
        ("AvailableReplicas", 5, UINT64),
        ("Annotations", 6, "map"),
        ("Labels", 7, "map"),
    ],
    "FunctionResources": [("Memory", 1, STRING), ("CPU", 2, STRING), ("GPU", 3, STRING)],
    "CreateFunctionRequest": [
        ("Service", 1, STRING),
        ("Image", 2, STRING),
        ("EnvVars", 3, "map"),
        ("Labels", 4, "map"),
        ("Annotations", 5, "map"),
        ("Constraints", 6, "*string"),
        ("Secrets", 7, "*string"),
        ("RegistryAuth", 8, STRING),
        ("Limits", 9, "FunctionResources"),
        ("Requests", 10, "FunctionResources"),
        ("MinReplicas", 11, INT32),
        ("MaxReplicas", 12, INT32),
    ],
}


def make_messages() -> dict[str, Any]:
    """Message classes in a pool of their own, in a package of their own: only numbers and types travel."""
    file = descriptor_pb2.FileDescriptorProto(name="by_hand.proto", package="by_hand", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, label=1)
            if kind == "map":
                entry = message.nested_type.add(name=f"{field_name}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=STRING)
                entry.field.add(name="value", number=2, label=1, type=STRING)
                field.label, field.type, field.type_name = 3, MESSAGE, f".by_hand.{name}.{field_name}Entry"
            elif kind == "*string":
                field.label, field.type = 3, STRING
            elif isinstance(kind, str):
                field.label = 3 if kind.startswith("*") else 1
                field.type, field.type_name = MESSAGE, f".by_hand.{kind.lstrip('*')}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"by_hand.{name}")) for name in MESSAGES}


M = make_messages()


def unary(channel: grpc.Channel, method: str, reply: str) -> Any:
    return channel.unary_unary(
        f"/pb.Gateway/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=M[reply].FromString,
    )


@pytest.fixture
def channel(shared_cluster: Cluster) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared_cluster.address) as channel:
        yield channel


def test_deploy_list_invoke_log_scale_delete(shared_cluster: Cluster, channel: grpc.Channel) -> None:
    handler = """
import os

class Handler:
    def __call__(self, req):
        print("got", req.input)
        if req.input == b"binary":
            return bytes(range(256))
        return os.environ["GREETING"].encode() + b" " + req.input
"""
    folder = shared_cluster.make("old", handler)
    built = shared_cluster.json("function", "build", "-f", str(folder / "config.yaml"))
    image = (built[0] if isinstance(built, list) else built)["image"]

    unary(channel, "Deploy", "Message")(
        M["CreateFunctionRequest"](
            Service="old",
            Image=image,
            EnvVars={"GREETING": "hello"},
            Labels={"team": "vision"},
            Annotations={"why": "test"},
            Limits=M["FunctionResources"](Memory="1G", CPU="500m"),
            MinReplicas=1,
            MaxReplicas=1,
        ),
        timeout=10,
    )

    invoke = unary(channel, "Invoke", "Message")
    assert invoke(M["InvokeServiceRequest"](Service="old", Input=b"DCF"), timeout=30).Msg == "hello DCF"
    with pytest.raises(grpc.RpcError) as refused:
        invoke(M["InvokeServiceRequest"](Service="old", Input=b"binary"), timeout=30)
    assert "Invokes" in refused.value.details()  # type: ignore[attr-defined]

    def row() -> Any:
        functions = unary(channel, "List", "Functions")(M["Empty"](), timeout=10).Functions
        return next((function for function in functions if function.Name == "old"), None)

    # The binary answer is the function's too: it ran, and it answered.
    until(lambda: (row().InvocationCount, row().AvailableReplicas) == (2, 1), what="two invocations, one replica")
    assert (row().Image, row().Replicas) == (image, 1)
    assert (row().Labels["team"], row().Annotations["why"]) == ("vision", "test")
    meta = unary(channel, "GetMeta", "Function")(M["FunctionRequest"](FunctionName="old"), timeout=10)
    assert (meta.Name, meta.Image) == ("old", image)
    log = unary(channel, "GetLog", "Message")(M["FunctionRequest"](FunctionName="old"), timeout=10)
    assert "got b'DCF'" in log.Msg

    unary(channel, "ReplicaUpdate", "Message")(M["ScaleServiceRequest"](ServiceName="old", Replicas=2), timeout=10)
    until(lambda: row().AvailableReplicas == 2, what="two replicas")
    assert unary(channel, "Info", "Message")(M["Empty"](), timeout=10).Msg
    assert unary(channel, "HealthCheck", "Message")(M["Empty"](), timeout=10).Msg
    unary(channel, "Update", "Message")(
        M["CreateFunctionRequest"](Service="old", Image=image, EnvVars={"GREETING": "bye"}), timeout=10
    )
    until(
        lambda: invoke(M["InvokeServiceRequest"](Service="old", Input=b"DCF"), timeout=30).Msg == "bye DCF",
        what="the update",
    )

    unary(channel, "Delete", "Message")(M["DeleteFunctionRequest"](FunctionName="old"), timeout=10)
    assert row() is None
    with pytest.raises(grpc.RpcError) as missing:
        invoke(M["InvokeServiceRequest"](Service="old", Input=b"DCF"), timeout=10)
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_invokes_is_pipelined_and_in_order(shared_cluster: Cluster, channel: grpc.Channel) -> None:
    reverse = "class Handler:\n    def __call__(self, req):\n        if req.input == b'bad': 1 / 0\n"
    shared_cluster.deploy("frames", reverse + "        return req.input[::-1]\n")
    invokes = channel.stream_stream(
        "/pb.Gateway/Invokes",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=M["Messages"].FromString,
    )
    everything_sent = threading.Event()

    def frames(*inputs: bytes) -> Iterator[Any]:
        for data in inputs:
            yield M["InvokeServiceRequest"](Service="frames", Input=data)
        everything_sent.set()

    inputs = [bytes([number]) * 1000 + b"end" for number in range(200)]
    outputs = [message.Output for message in invokes(frames(*inputs), timeout=60)]
    assert outputs == [data[::-1] for data in inputs]

    received = []
    answers = invokes(frames(b"1", b"2", b"bad", b"4"), timeout=60)
    with pytest.raises(grpc.RpcError) as broken:  # noqa: PT012 - what came before the error counts too
        for message in answers:
            received.append(message.Output)
    assert received == [b"1", b"2"]
    assert broken.value.code() is grpc.StatusCode.UNKNOWN  # type: ignore[attr-defined]
    assert "ZeroDivisionError" in broken.value.details()  # type: ignore[attr-defined]
