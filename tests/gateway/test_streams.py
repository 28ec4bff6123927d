"""One handler, every protocol: chunks out, messages in, and errors in the middle."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest

from dcf.rpc import pb_gateway_pb2, v1_gateway_pb2
from tests.conftest import until
from tests.gateway.running_gateway import Cluster, Gateway, pb_stub, v1_stub

pytestmark = pytest.mark.slow

BODY = """
    text = req.text
    if not text:
        raise dcf.InvalidInputError("expected words")
    for number, word in enumerate(text.split()):
        if word == "boom":
            raise ValueError("boom at %d" % number)
        if word == "bytes":
            yield b"\\xff\\xfe"
        elif word == "json":
            yield {"number": number}
        elif word == "lines":
            yield "one\\ntwo\\r\\nthree"
        elif word == "empty":
            yield ""
        elif word == "big":
            yield b"x" * 300000
        else:
            yield word
"""


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line + "\n" if line else "\n" for line in text.strip("\n").split("\n"))


KINDS = {
    "gen": "import dcf\n\ndef handler(req):\n" + BODY,
    "agen": "import dcf\n\nasync def handler(req):\n" + BODY,
    "bidi": "import dcf\n\nclass Handler:\n    def words(self, req):\n"
    + indented(BODY, 4)
    + "    def stream(self, requests):\n        for req in requests:\n            yield from self.words(req)\n",
    "abidi": "import dcf\n\nclass Handler:\n    async def words(self, req):\n"
    + indented(BODY, 4)
    + "    async def stream(self, requests):\n        async for req in requests:\n"
    + "            async for word in self.words(req):\n                yield word\n",
}


@pytest.fixture(scope="module")
def streams(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "streams-0")
    for name, source in KINDS.items():
        gateway.deploy(name, source)
    return gateway


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
async def v1(streams: Gateway) -> AsyncIterator[Any]:
    async with streams.aio_channel() as channel:
        yield v1_stub(channel)


def url(gateway: Gateway, name: str) -> str:
    return f"http://{gateway.address}/function/{name}"


async def outputs_of(call: Any, outputs: list[bytes]) -> None:
    """Collect what a call of any kind answers."""
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        outputs.append((await call).output)
    else:
        async for chunk in call:
            outputs.append(chunk.output)


def in_chunks(text: str, name: str) -> v1_gateway_pb2.InvokeRequest:
    return v1_gateway_pb2.InvokeRequest(function=name, input=text.encode())


@pytest.mark.parametrize("name", KINDS)
async def test_one_handler_answers_in_every_protocol(
    streams: Gateway, session: aiohttp.ClientSession, v1: Any, name: str
) -> None:
    text = "to be or"
    words = text.split()

    async with session.post(url(streams, name), data=text) as answer:
        assert (answer.status, await answer.text()) == (200, "tobeor")
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.content_type == "text/plain"
    async with session.post(url(streams, name), data=text, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.content_type == "text/event-stream"
        events = "".join(f"id: {number}\ndata: {word}\n\n" for number, word in enumerate(words))
        assert await answer.text() == events
    async with session.ws_connect(url(streams, name)) as ws:
        await ws.send_str(text)
        assert [await ws.receive_str(timeout=10) for _ in words] == words
        await ws.send_bytes(b"and more")
        assert [await ws.receive_str(timeout=10) for _ in "12"] == ["and", "more"]

    assert (await v1.Invoke(in_chunks(text, name), timeout=10)).output == b"tobeor"
    chunks = [chunk async for chunk in v1.InvokeStream(in_chunks(text, name), timeout=10)]
    assert [chunk.output.decode() for chunk in chunks] == words
    assert {chunk.content_type for chunk in chunks} == {"text/plain; charset=utf-8"}
    assert [bool(chunk.invocation_id) for chunk in chunks] == [True, False, False]
    inputs = [
        v1_gateway_pb2.InvokeInput(function=name),
        v1_gateway_pb2.InvokeInput(input=b"to be"),
        v1_gateway_pb2.InvokeInput(input=b"or"),
    ]
    assert [chunk.output.decode() async for chunk in v1.InvokeBidi(iter(inputs), timeout=10)] == words

    async with streams.aio_channel() as channel:
        pb = pb_stub(channel)
        request = pb_gateway_pb2.InvokeServiceRequest(Service=name, Input=text.encode())
        assert (await pb.Invoke(request, timeout=10)).Msg == "tobeor"
        answers = [answer.Output async for answer in pb.Invokes(iter([request, request]), timeout=10)]
        assert answers == [b"tobeor", b"tobeor"]


@pytest.mark.parametrize("name", KINDS)
async def test_an_error_after_the_third_chunk_is_never_a_good_end(
    streams: Gateway, session: aiohttp.ClientSession, v1: Any, name: str
) -> None:
    text = "a b c boom d"

    async with session.post(url(streams, name), data=text) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    async with session.post(url(streams, name), data=text, headers={"Accept": "text/event-stream"}) as answer:
        *chunks, error = [event for event in (await answer.text()).split("\n\n") if event]
        assert len(chunks) == 3
        assert error.startswith("event: error\ndata: ")
        told = json.loads(error.partition("data: ")[2])["error"]
        assert (told["code"], told["function"]) == ("handler_error", name)
        assert "boom at 3" in told["message"]
        assert told["invocation_id"] == answer.headers["X-Call-Id"]
    async with session.ws_connect(url(streams, name)) as ws:
        await ws.send_str(text)
        assert [await ws.receive_str(timeout=10) for _ in "123"] == ["a", "b", "c"]
        closed = await ws.receive(timeout=10)
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1011)
        assert "boom at 3" in closed.extra

    for method in (v1.Invoke, v1.InvokeStream, v1.InvokeBidi):
        request: Any = in_chunks(text, name)
        if method is v1.InvokeBidi:
            request = iter([v1_gateway_pb2.InvokeInput(function=name, input=text.encode())])
        outputs: list[bytes] = []
        with pytest.raises(grpc.aio.AioRpcError, match="boom at 3") as broken:
            await outputs_of(method(request, timeout=10), outputs)
        assert broken.value.code() is grpc.StatusCode.UNKNOWN
        assert outputs == ([] if method is v1.Invoke else [b"a", b"b", b"c"])
    async with streams.aio_channel() as channel:
        pb_request = pb_gateway_pb2.InvokeServiceRequest(Service=name, Input=text.encode())
        with pytest.raises(grpc.aio.AioRpcError, match="boom at 3"):
            await pb_stub(channel).Invoke(pb_request, timeout=10)


@pytest.mark.parametrize("name", KINDS)
async def test_an_error_before_the_first_chunk_has_its_own_status(
    streams: Gateway, session: aiohttp.ClientSession, v1: Any, name: str
) -> None:
    for accept in ("*/*", "text/event-stream"):
        async with session.post(url(streams, name), data="", headers={"Accept": accept}) as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
            assert (error["message"], error["function"]) == ("expected words", name)
    async with session.ws_connect(url(streams, name)) as ws:
        await ws.send_str("")
        closed = await ws.receive(timeout=10)
        assert (closed.data, closed.extra) == (1008, "invalid_input: expected words")
    for stream in (
        v1.InvokeStream(in_chunks("", name), timeout=10),
        v1.InvokeBidi(iter([v1_gateway_pb2.InvokeInput(function=name, input=b"")]), timeout=10),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(stream))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", KINDS)
async def test_kinds_of_chunks(streams: Gateway, session: aiohttp.ClientSession, v1: Any, name: str) -> None:
    async with session.post(url(streams, name), data="json json") as answer:
        assert answer.content_type == "application/x-ndjson"
        assert await answer.text() == '{"number": 0}\n{"number": 1}\n'
    async with session.post(url(streams, name), data="empty bytes big") as answer:
        assert await answer.read() == b"\xff\xfe" + b"x" * 300000
    async with session.ws_connect(url(streams, name)) as ws:
        await ws.send_str("empty json bytes big word")
        assert await ws.receive_str(timeout=10) == ""
        assert await ws.receive_json(timeout=10) == {"number": 1}
        assert await ws.receive_bytes(timeout=10) == b"\xff\xfe"
        assert len(await ws.receive_bytes(timeout=10)) == 300000
        assert await ws.receive_str(timeout=10) == "word"
    chunks = [chunk async for chunk in v1.InvokeStream(in_chunks("json bytes", name), timeout=10)]
    assert [(chunk.output, chunk.content_type) for chunk in chunks] == [
        (b'{"number": 0}', "application/json"),
        (b"\xff\xfe", "application/octet-stream"),
    ]


async def test_events_carry_several_lines_and_no_bytes(streams: Gateway, session: aiohttp.ClientSession) -> None:
    accept = {"Accept": "text/html, text/event-stream;q=0.9"}
    async with session.post(url(streams, "gen"), data="lines", headers=accept) as answer:
        assert await answer.text() == "id: 0\ndata: one\ndata: two\ndata: three\n\n"
    async with session.post(url(streams, "gen"), data="bytes", headers=accept) as answer:
        assert answer.status == 400
        assert "binary" in (await answer.json())["error"]["message"]
    async with session.post(url(streams, "gen"), data="word bytes", headers=accept) as answer:
        assert (await answer.text()).startswith("id: 0\ndata: word\n\nevent: error\ndata: {")


async def test_an_event_source_that_comes_again_is_told_to_stop(
    streams: Gateway, session: aiohttp.ClientSession
) -> None:
    accept = {"Accept": "text/event-stream", "Last-Event-ID": "2"}
    async with session.get(url(streams, "gen"), headers=accept) as answer:
        assert answer.status == 204


def test_a_client_of_http_1_0_gets_the_whole(streams: Gateway) -> None:
    host, _, port = streams.address.partition(":")
    for text, status in (("a b c", b"200"), ("a b c boom", b"500")):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(f"POST /function/gen HTTP/1.0\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
            data = b""
            while piece := sock.recv(65536):
                data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.split()[1] == status
        assert b"chunked" not in head.lower()
        assert body == b"abc" if status == b"200" else b"boom at 3" in body


LATE = """
import time

def handler(req):
    yield "first"
    if req.text == "stuck":
        time.sleep(3)
    for _ in range(8):
        time.sleep(0.25)
        yield "."
    yield "last"
"""


async def test_a_stream_may_take_longer_than_the_timeout_but_not_stand_still(
    streams: Gateway, session: aiohttp.ClientSession
) -> None:
    streams.deploy("late", LATE, timeout="1s")

    async with session.post(url(streams, "late"), data="go") as answer:
        assert await answer.text() == "first........last"
    async with session.post(url(streams, "late"), data="stuck", headers={"Accept": "text/event-stream"}) as answer:
        text = await answer.text()
    assert "stood still for 1 s" in text
    async with session.post(url(streams, "late"), data="go") as answer:  # the slot is free when the handler returns
        assert answer.status in (200, 429, 504)


TALK = """
class Handler:
    def __call__(self, req):
        return "once " + req.text

    def stream(self, requests):
        seen = 0
        try:
            for req in requests:
                seen += len(req.input)
                yield {"seen": seen, "header": requests.metadata["headers"].get("x-own")}
            yield "end after %d" % seen
        finally:
            print("talk closed", seen)
"""


async def test_a_class_with_both_is_called_and_conversed_with(
    streams: Gateway, session: aiohttp.ClientSession, v1: Any
) -> None:
    streams.deploy("talk", TALK, concurrency=2)

    async with session.post(url(streams, "talk"), data="x") as answer:
        assert await answer.text() == "once x"
    stream = v1.InvokeBidi(timeout=20)
    await stream.write(v1_gateway_pb2.InvokeInput(function="talk", metadata={"x-own": "7"}))
    for size, seen in ((3, 3), (1_000_000, 1_000_003), (0, 1_000_003)):
        await stream.write(v1_gateway_pb2.InvokeInput(input=b"x" * size))
        assert json.loads((await stream.read()).output) == {"seen": seen, "header": "7"}
    await stream.done_writing()
    assert (await stream.read()).output == b"end after 1000003"
    assert await stream.read() is grpc.aio.EOF

    async with session.ws_connect(url(streams, "talk")) as ws:
        await ws.send_bytes(b"12345")
        assert (await ws.receive_json(timeout=10))["seen"] == 5
    await until(lambda: "talk closed 5" in log_of(streams, "talk"), what="the generator's end")


def log_of(gateway: Gateway, name: str) -> str:
    return str(gateway.http("GET", f"/system/function-log/{name}")[1])
