from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from dcf.rpc import pb_gateway_pb2 as pb
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.services import Stub
from tests.gateway.running_gateway import TOKEN, Cluster, Gateway, pb_stub, v1_stub, wait_for

pytestmark = pytest.mark.slow

AUTH = (("authorization", f"Bearer {TOKEN}"),)
ECHO = """
    import json

    def handler(req):
        print("got", len(req.input))
        if req.input == b"bytes":
            return b"\\xff\\xfe"
        if req.input == b"metadata":
            return {"metadata": req.metadata, "id": req.invocation_id}
        if req.input == b"raise":
            raise ValueError("잘못" * 3000)
        return req.input
"""
DEBUG = """
    def deep(n):
        if n:
            return deep(n - 1)
        raise ValueError("the end of the traceback")

    def other(n):
        return deep(n) if n % 2 else other_way(n)

    def other_way(n):
        return other(n - 1)

    def handler(req):
        return other(40)
"""


@pytest.fixture(scope="module")
def echo(gateway: Gateway) -> str:
    gateway.deploy("echo", ECHO, workers=1)
    return "echo"


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as channel:
        yield channel


@pytest.fixture
def old(channel: grpc.Channel) -> Stub:
    return pb_stub(channel)


@pytest.fixture
def new(channel: grpc.Channel) -> Stub:
    return v1_stub(channel)


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, v1.ErrorDetail]:
    """The status of a call that fails, and its detail, which agrees with it."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert isinstance(status, status_pb2.Status)
    detail = v1.ErrorDetail()
    assert status.details[0].Unpack(detail)
    return error.code(), detail


def test_the_originals_invoke_answers_text(old: Stub, echo: str) -> None:
    request = pb.InvokeServiceRequest(Service=echo, Input="Hello DCF, 안녕".encode())

    assert old.Invoke(request, timeout=10).Msg == "Hello DCF, 안녕"


def test_an_answer_that_is_no_text_names_the_ways_out_and_is_counted(gateway: Gateway, old: Stub, echo: str) -> None:
    before = gateway.view(echo)["invocationCount"]

    code, detail = refusal(lambda: old.Invoke(pb.InvokeServiceRequest(Service=echo, Input=b"bytes"), timeout=10))

    assert (code, detail.code, detail.retryable) == (grpc.StatusCode.UNKNOWN, "handler_error", False)
    assert "pb.Gateway/Invokes" in detail.message
    assert "dcf.v1.Gateway/Invoke" in detail.message
    assert (detail.function, bool(detail.invocation_id), detail.message_index) == (echo, True, -1)
    assert gateway.view(echo)["invocationCount"] == before + 1


def test_an_unknown_function_is_not_found(old: Stub, new: Stub) -> None:
    for call in (
        lambda: old.Invoke(pb.InvokeServiceRequest(Service="nobody"), timeout=10),
        lambda: old.GetMeta(pb.FunctionRequest(FunctionName="nobody"), timeout=10),
        lambda: old.GetLog(pb.FunctionRequest(FunctionName="nobody"), timeout=10, metadata=AUTH),
        lambda: old.Delete(pb.DeleteFunctionRequest(FunctionName="nobody"), timeout=10, metadata=AUTH),
        lambda: old.Update(pb.CreateFunctionRequest(Service="nobody", Image="i"), timeout=10, metadata=AUTH),
        lambda: new.Invoke(v1.InvokeRequest(function="nobody"), timeout=10),
        lambda: new.Deploy(v1.DeployRequest(service="nobody", image="i", must_exist=True), timeout=10, metadata=AUTH),
        lambda: list(new.Log(v1.LogRequest(function="nobody"), timeout=10, metadata=AUTH)),
    ):
        code, detail = refusal(call)
        assert (code, detail.code) == (grpc.StatusCode.NOT_FOUND, "function_not_found")
        assert "'nobody'" in detail.message


def test_management_wants_the_token_and_the_rest_does_not(old: Stub, new: Stub, echo: str) -> None:
    for call in (
        lambda: old.Deploy(pb.CreateFunctionRequest(Service="x", Image="i"), timeout=10),
        lambda: old.Update(pb.CreateFunctionRequest(Service="x", Image="i"), timeout=10),
        lambda: old.Delete(pb.DeleteFunctionRequest(FunctionName=echo), timeout=10),
        lambda: old.GetLog(pb.FunctionRequest(FunctionName=echo), timeout=10),
        lambda: old.ReplicaUpdate(pb.ScaleServiceRequest(ServiceName=echo, Replicas=2), timeout=10),
        lambda: new.Deploy(v1.DeployRequest(service="x", image="i"), timeout=10),
        lambda: new.Delete(v1.DeleteRequest(function=echo), timeout=10),
        lambda: new.Scale(v1.ScaleRequest(function=echo, replicas=2), timeout=10),
        lambda: list(new.Log(v1.LogRequest(function=echo), timeout=10)),
    ):
        code, detail = refusal(call)
        assert (code, detail.code) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    assert echo in [one.Name for one in old.List(pb.Empty(), timeout=10).Functions]
    assert old.GetMeta(pb.FunctionRequest(FunctionName=echo), timeout=10).AvailableReplicas == 1
    assert old.HealthCheck(pb.Empty(), timeout=10).Msg == "OK"
    assert '"backend": "process"' in old.Info(pb.Empty(), timeout=10).Msg
    assert new.Info(v1.InfoRequest(), timeout=10).cluster == "local"
    assert new.Describe(v1.DescribeRequest(function=echo), timeout=10).spec.image == "bundle:echo@0123456789ab"


def test_the_originals_client_can_deploy_scale_log_and_delete(gateway: Gateway, old: Stub) -> None:
    image = gateway.cluster.bundle("orig", ECHO)
    request = pb.CreateFunctionRequest(
        Service="orig", Image=image, Labels={"a": "b"}, Limits=pb.FunctionResources(Memory="512Mi"), MinReplicas=1
    )

    deployed = old.Deploy(request, timeout=10, metadata=AUTH)
    gateway.until("orig", lambda view: view["settled"], "settled")
    old.ReplicaUpdate(pb.ScaleServiceRequest(ServiceName="orig", Replicas=2), timeout=10, metadata=AUTH)
    gateway.until("orig", lambda view: view["settled"] and view["availableReplicas"] == 2, "has two")
    assert old.Invoke(pb.InvokeServiceRequest(Service="orig", Input=b"12345"), timeout=10).Msg == "12345"
    text = wait_for(
        lambda: (
            (t := old.GetLog(pb.FunctionRequest(FunctionName="orig"), timeout=10, metadata=AUTH).Msg)
            and "got 5" in t
            and t
        ),
        "the log",
    )
    meta = old.GetMeta(pb.FunctionRequest(FunctionName="orig"), timeout=10)
    old.Update(request, timeout=10, metadata=AUTH)
    old.Delete(pb.DeleteFunctionRequest(FunctionName="orig"), timeout=10, metadata=AUTH)

    assert deployed.Msg == "function orig deployed (generation 1)"
    assert "got 5\n" in text
    assert (meta.Name, meta.Image, meta.InvocationCount, meta.Replicas) == ("orig", image, 1, 2)
    assert dict(meta.Labels) == {"a": "b"}
    assert "orig" not in [one.Name for one in old.List(pb.Empty(), timeout=10).Functions]


def test_v1_carries_bytes_metadata_and_the_callers_id(new: Stub, echo: str) -> None:
    raw = new.Invoke(v1.InvokeRequest(function=echo, input=b"bytes"), timeout=10)
    request = v1.InvokeRequest(function=echo, input=b"metadata", content_type="text/x", metadata={"Trace": "1"})
    said = new.Invoke(request, timeout=10, metadata=(("x-call-id", "mine-1"),))

    assert (raw.output, raw.content_type) == (b"\xff\xfe", "application/octet-stream")
    assert raw.invocation_id
    assert (said.invocation_id, said.content_type) == ("mine-1", "application/json")
    assert b'"Trace": "1"' in said.output
    assert b'"content-type": "text/x"' in said.output
    assert b'"id": "mine-1"' in said.output


def test_the_deadline_of_the_rpc_is_the_calls_own(new: Stub, gateway: Gateway) -> None:
    gateway.deploy("sleeper", "import time\n\ndef handler(req):\n    time.sleep(1.5)\n    return b''\n")

    with pytest.raises(grpc.RpcError) as raised:
        new.Invoke(v1.InvokeRequest(function="sleeper"), timeout=0.3)

    error: Any = raised.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_long_message_in_any_language_still_arrives_with_its_detail(new: Stub, echo: str) -> None:
    code, detail = refusal(lambda: new.Invoke(v1.InvokeRequest(function=echo, input=b"raise"), timeout=10))

    assert (code, detail.code) == (grpc.StatusCode.UNKNOWN, "handler_error")
    assert "잘못잘못" in detail.message
    assert detail.traceback == ""


def test_a_long_traceback_keeps_its_end(gateway: Gateway, new: Stub) -> None:
    gateway.deploy("debugged", DEBUG, debug=True)

    code, detail = refusal(lambda: new.Invoke(v1.InvokeRequest(function="debugged"), timeout=10))

    assert code is grpc.StatusCode.UNKNOWN
    assert detail.traceback.rstrip().endswith("the end of the traceback")


def test_v1_deploys_what_it_shows(gateway: Gateway, new: Stub) -> None:
    image = gateway.cluster.bundle("round", ECHO)
    request = v1.DeployRequest(
        service="round", image=image, replicas=0, concurrency=3, timeout="5s", debug=True, env_vars={"A": "1"}
    )

    made = new.Deploy(request, timeout=10, metadata=AUTH)
    shown = new.Describe(v1.DescribeRequest(function="round"), timeout=10, metadata=AUTH)
    pinned = new.Scale(v1.ScaleRequest(function="round", replicas=1), timeout=10, metadata=AUTH)
    freed = new.Scale(v1.ScaleRequest(function="round", auto=True), timeout=10, metadata=AUTH)
    again = new.Deploy(shown.spec, timeout=10, metadata=AUTH)
    new.Delete(v1.DeleteRequest(function="round"), timeout=10, metadata=AUTH)

    assert (made.replicas, pinned.replicas, freed.replicas) == (0, 1, 0)
    assert (shown.spec.concurrency, shown.spec.timeout, shown.spec.debug) == (3, "5s", True)
    assert dict(shown.spec.env_vars) == {"A": "1"}
    assert again.generation == made.generation
    code, detail = refusal(lambda: new.Scale(v1.ScaleRequest(function="echo"), timeout=10, metadata=AUTH))
    assert (code, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_input")


def test_v1_tells_the_log_line_by_line(new: Stub, echo: str) -> None:
    new.Invoke(v1.InvokeRequest(function=echo, input=b"x" * 321), timeout=10)

    def lines() -> list[v1.LogLine]:
        found = new.Log(v1.LogRequest(function=echo, tail=5), timeout=10, metadata=AUTH)
        return [line for line in found if line.text == "got 321"]

    (line,) = wait_for(lines, "the line")
    assert (line.replica, line.stream) == ("echo-g1-0", "stdout")


def test_a_followed_log_begins_with_the_next_line_where_no_tail_is_wanted(new: Stub, echo: str) -> None:
    stream = new.Log(v1.LogRequest(function=echo, tail=0, follow=True), metadata=AUTH, timeout=30)

    with ThreadPoolExecutor(1) as pool:
        line = pool.submit(next, stream)
        wait_for(
            lambda: new.Invoke(v1.InvokeRequest(function=echo, input=b"x" * 77), timeout=10) and line.done(),
            "a line that came after the beginning",
        )

    assert line.result().text == "got 77"
    stream.cancel()


def test_health_and_reflection_say_what_is_there(channel: grpc.Channel, gateway: Gateway) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "pb.Gateway", "dcf.v1.Gateway"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="pb.Gateway"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="dcf.v1.Gateway"),
    ]
    listed, *files = list(reflection.ServerReflectionInfo(iter(asked), timeout=10))

    names = {service.name for service in listed.list_services_response.service}
    assert {"pb.Gateway", "dcf.v1.Gateway", "grpc.health.v1.Health"} <= names
    assert all(file.file_descriptor_response.file_descriptor_proto for file in files)


async def test_who_watches_the_health_hears_of_the_stop_and_does_not_hold_it(cluster: Cluster) -> None:
    gateway = Gateway(cluster, "local-2", DCF_DRAIN_S="30")
    async with gateway.aio_channel() as channel:
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="pb.Gateway"))
        first = await stream.read()
        gateway.process.terminate()
        second = await stream.read()

    assert first.status == health_pb2.HealthCheckResponse.SERVING
    assert second.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert gateway.process.wait(10) == 0
