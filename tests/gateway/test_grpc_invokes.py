from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.pb_gateway_pb2 import InvokeServiceRequest, Messages
from tests.gateway.running_gateway import Cluster, Gateway, pb_stub

pytestmark = pytest.mark.slow

# The sooner a message comes the longer it takes: answers would overtake one another.
BACKWARDS = """
    import asyncio

    async def handler(req):
        number = int(req.text)
        await asyncio.sleep(0.3 - number * 0.01 if number < 30 else 0)
        if number == 7_000:
            raise ValueError("seven thousand")
        return req.input
"""
# Says on its log when it begins and when it is cancelled.
SLOW = """
    import asyncio

    async def handler(req):
        print("began", req.text, flush=True)
        try:
            await asyncio.sleep(float(req.text))
        except asyncio.CancelledError:
            print("cancelled", req.text, flush=True)
            raise
        return req.input
"""


@pytest.fixture(scope="module")
def functions(gateway: Gateway) -> None:
    gateway.deploy("backwards", BACKWARDS)
    gateway.deploy("slow", SLOW)


def detail_of(error: grpc.aio.AioRpcError) -> v1.ErrorDetail:
    found: dict[str, Any] = dict(error.trailing_metadata() or ())
    status, detail = status_pb2.Status.FromString(found["grpc-status-details-bin"]), v1.ErrorDetail()
    assert status.details[0].Unpack(detail)
    return detail


async def read_all(stream: Any) -> tuple[list[bytes], grpc.aio.AioRpcError | None]:
    """Outputs in order, and how it ended."""
    outputs: list[bytes] = []
    try:
        async for message in stream:
            outputs.append(message.Output)
    except grpc.aio.AioRpcError as error:
        return outputs, error
    return outputs, None


def send(function: str, *inputs: object) -> list[InvokeServiceRequest]:
    return [InvokeServiceRequest(Service=function, Input=str(one).encode()) for one in inputs]


async def test_answers_come_in_the_order_of_the_messages(gateway: Gateway, functions: None) -> None:
    async with gateway.aio_channel() as channel:
        outputs, error = await read_all(pb_stub(channel).Invokes(iter(send("backwards", *range(200))), timeout=30))

    assert error is None
    assert outputs == [str(number).encode() for number in range(200)]


async def test_messages_are_pipelined_and_bounded(gateway: Gateway, functions: None) -> None:
    """100 messages of 0.5 s each: one by one they took 50 s, all at once 0.5 s."""
    began = time.monotonic()
    async with gateway.aio_channel() as channel:
        outputs, error = await read_all(pb_stub(channel).Invokes(iter(send("slow", *["0.5"] * 100)), timeout=60))
    took = time.monotonic() - began

    assert (len(outputs), error) == (100, None)
    assert 1.0 <= took < 20


async def test_one_stream_may_call_several_functions_and_wait_in_between(gateway: Gateway, functions: None) -> None:
    async with gateway.aio_channel() as channel:
        stream = pb_stub(channel).Invokes(timeout=30)
        answers = []
        for function, text in (("backwards", "50"), ("slow", "0"), ("backwards", "51")):
            await stream.write(InvokeServiceRequest(Service=function, Input=text.encode()))
            message = await stream.read()
            assert isinstance(message, Messages)
            answers.append(message.Output)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    assert answers == [b"50", b"0", b"51"]


@pytest.mark.parametrize(
    ("bad", "code", "name", "text"),
    [
        (("backwards", b"7000"), grpc.StatusCode.UNKNOWN, "handler_error", "seven thousand"),
        (("nobody", b""), grpc.StatusCode.NOT_FOUND, "function_not_found", "'nobody'"),
        (("", b""), grpc.StatusCode.NOT_FOUND, "function_not_found", ""),
    ],
)
async def test_outputs_before_an_error_are_delivered_and_its_message_is_named(
    gateway: Gateway, functions: None, bad: tuple[str, bytes], code: grpc.StatusCode, name: str, text: str
) -> None:
    messages = send("backwards", *range(12))
    messages[5] = InvokeServiceRequest(Service=bad[0], Input=bad[1])

    async with gateway.aio_channel() as channel:
        outputs, error = await read_all(pb_stub(channel).Invokes(iter(messages), timeout=30))

    assert outputs == [b"0", b"1", b"2", b"3", b"4"]
    assert error is not None
    detail = detail_of(error)
    assert (error.code(), detail.code, detail.message_index) == (code, name, 5)
    assert text in detail.message


async def test_a_big_message_travels_alone_and_whole(gateway: Gateway, functions: None) -> None:
    gateway.deploy("mirror", "def handler(req):\n    return req.input\n")
    bodies = [bytes([number]) * (20 * 1024 * 1024) for number in range(6)]

    async with gateway.aio_channel() as channel:
        messages = (InvokeServiceRequest(Service="mirror", Input=body) for body in bodies)
        outputs, error = await read_all(pb_stub(channel).Invokes(messages, timeout=60))

    assert error is None
    assert outputs == bodies


async def until_logged(gateway: Gateway, function: str, text: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while True:
        _, log, _ = await loop.run_in_executor(None, gateway.http, "GET", f"/system/function-log/{function}")
        if text in str(log):
            return
        assert loop.time() < end, f"{text!r} is not in the log: {log}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def _no_executor_left() -> AsyncIterator[None]:
    yield
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.usefixtures("_no_executor_left")
async def test_a_cancelled_stream_cancels_its_calls(gateway: Gateway, functions: None) -> None:
    async with gateway.aio_channel() as channel:
        stream = pb_stub(channel).Invokes()
        for text in ("31", "32"):
            await stream.write(InvokeServiceRequest(Service="slow", Input=text.encode()))
        await until_logged(gateway, "slow", "began 32")
        stream.cancel()

    await until_logged(gateway, "slow", "cancelled 31")
    await until_logged(gateway, "slow", "cancelled 32")


@pytest.mark.usefixtures("_no_executor_left")
async def test_a_stopping_gateway_delivers_what_is_in_flight_and_says_to_connect_again(
    cluster: Cluster, gateway: Gateway, functions: None
) -> None:
    other = Gateway(cluster, "local-3")
    async with other.aio_channel() as channel:
        stream = pb_stub(channel).Invokes()
        for text in ("1.51", "1.52"):
            await stream.write(InvokeServiceRequest(Service="slow", Input=text.encode()))
        await until_logged(gateway, "slow", "began 1.52")
        other.process.terminate()
        outputs, error = await read_all(stream)
        async with asyncio.timeout(20):
            code = await asyncio.get_running_loop().run_in_executor(None, other.process.wait)

    assert outputs == [b"1.51", b"1.52"]
    assert error is not None
    detail = detail_of(error)
    assert (error.code(), detail.code, detail.message_index) == (
        grpc.StatusCode.UNAVAILABLE, "cluster_unavailable", 2,
    )  # fmt: skip
    assert "connect again" in detail.message
    assert code == 0
    assert detail.retryable
