"""One handler file, examples/tokens, reached by every way in, with the same answers."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import aiohttp
import grpc
import pytest

from dcf import AsyncClient, Client
from dcf.errors import HandlerError, InvalidInputError
from dcf.rpc import pb_gateway_pb2, v1_gateway_pb2
from dcf.rpc.services import Stub
from tests.flows.cluster import Cluster

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "tokens"
V1 = v1_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]
PB = pb_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]
TEXT = "to be or not"
WORDS = ["to ", "be ", "or ", "not"]
LONG = "x" * 41
BREAKS_OFF = f"to be or {LONG} not"
"""After the third chunk."""
REFUSED = " "
CAUSE = "41 letters is too long to say"

Outcome = tuple[list[str], str]
"""The chunks that came (one where the way has but one answer), and the error's text; "" for a good end."""


@pytest.fixture(scope="module")
def tokens(shared_cluster: Cluster) -> Cluster:
    folder = shared_cluster.work / "tokens"
    shutil.copytree(EXAMPLE, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("PAUSE_S=0.05", "PAUSE_S=0"))
    shared_cluster.run("function", "build", "-f", "tokens/config.yaml")
    shared_cluster.run("function", "deploy", "-f", "tokens/config.yaml")
    return shared_cluster


def http(cluster: Cluster, text: str) -> Outcome:
    """A client that knows nothing of streams."""
    try:
        with urllib.request.urlopen(f"{cluster.url}/function/tokens", data=text.encode(), timeout=30) as answer:
            return [answer.read().decode()], ""
    except urllib.error.HTTPError as error:
        return [], json.load(error)["error"]["message"]
    except OSError as error:
        return [], f"broken: {error!r}"
    except Exception as error:  # http.client.IncompleteRead is no OSError
        return [], f"broken: {error!r}"


def http_chunks(cluster: Cluster, text: str) -> Outcome:
    async def run() -> Outcome:
        chunks: list[str] = []
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{cluster.url}/function/tokens", data=text) as answer,
        ):
            if answer.status != 200:
                return [], (await answer.json())["error"]["message"]
            try:
                async for data in answer.content.iter_any():
                    chunks.append(data.decode())
            except aiohttp.ClientPayloadError as error:
                return chunks, f"broken: {error!r}"
        return chunks, ""

    return asyncio.run(run())


def sse(cluster: Cluster, text: str) -> Outcome:
    request = urllib.request.Request(
        f"{cluster.url}/function/tokens", text.encode(), {"Accept": "text/event-stream"}
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            *events, _ = answer.read().decode().split("\n\n")
    except urllib.error.HTTPError as error:
        return [], json.load(error)["error"]["message"]
    error_text = ""
    if events[-1].startswith("event: error\n"):
        error_text = json.loads(events.pop().partition("data: ")[2])["error"]["message"]
    return [event.partition("data: ")[2] for event in events], error_text


def websocket(cluster: Cluster, text: str) -> Outcome:
    async def run() -> Outcome:
        chunks: list[str] = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{cluster.url}/function/tokens") as socket,
        ):
            await socket.send_str(text)
            while (message := await socket.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
                chunks.append(message.data)
                if not message.data:  # the example's own sign of an end
                    return chunks, ""
            return chunks, message.extra

    return asyncio.run(run())


def over_grpc(call: Callable[[grpc.Channel, list[str]], None]) -> Callable[[Cluster, str], Outcome]:
    """Run `call(channel, text, chunks)`; its error is part of the outcome."""

    def way(cluster: Cluster, text: str) -> Outcome:
        chunks: list[str] = []
        with grpc.insecure_channel(cluster.address) as channel:
            try:
                call(channel, text, chunks)  # type: ignore[call-arg,arg-type]
            except grpc.RpcError as error:
                return chunks, error.details()  # type: ignore[attr-defined]
        return chunks, ""

    return way


@over_grpc
def v1_unary(channel: grpc.Channel, text: str, chunks: list[str]) -> None:
    request = v1_gateway_pb2.InvokeRequest(function="tokens", input=text.encode())
    chunks.append(Stub(channel, V1).Invoke(request, timeout=30).output.decode())


@over_grpc
def v1_stream(channel: grpc.Channel, text: str, chunks: list[str]) -> None:
    request = v1_gateway_pb2.InvokeRequest(function="tokens", input=text.encode())
    chunks.extend(chunk.output.decode() for chunk in Stub(channel, V1).InvokeStream(request, timeout=30))


@over_grpc
def v1_bidi(channel: grpc.Channel, text: str, chunks: list[str]) -> None:
    inputs = [v1_gateway_pb2.InvokeInput(function="tokens", input=text.encode())]
    for chunk in Stub(channel, V1).InvokeBidi(iter(inputs), timeout=30):
        chunks.append(chunk.output.decode())


@over_grpc
def pb_invoke(channel: grpc.Channel, text: str, chunks: list[str]) -> None:
    request = pb_gateway_pb2.InvokeServiceRequest(Service="tokens", Input=text.encode())
    chunks.append(Stub(channel, PB).Invoke(request, timeout=30).Msg)


@over_grpc
def pb_invokes(channel: grpc.Channel, text: str, chunks: list[str]) -> None:
    request = pb_gateway_pb2.InvokeServiceRequest(Service="tokens", Input=text.encode())
    for answer in Stub(channel, PB).Invokes(iter([request]), timeout=30):
        chunks.append(answer.Output.decode())


def client(cluster: Cluster, text: str, how: str) -> Outcome:
    chunks: list[str] = []
    with Client(cluster.address) as dcf:
        try:
            if how == "invoke":
                return [dcf.invoke("tokens", text, timeout_s=30).text], ""
            answer = dcf.stream("tokens", text) if how == "stream" else dcf.converse("tokens", [text])
            for chunk in answer:
                chunks.append(chunk.text)
        except (HandlerError, InvalidInputError) as error:
            return chunks, error.message
    return chunks, ""


def async_client(cluster: Cluster, text: str, how: str) -> Outcome:
    async def run() -> Outcome:
        chunks: list[str] = []
        async with AsyncClient(cluster.address) as dcf:
            try:
                if how == "invoke":
                    return [(await dcf.invoke("tokens", text, timeout_s=30)).text], ""
                answer = dcf.stream("tokens", text) if how == "stream" else dcf.converse("tokens", [text])
                async for chunk in answer:
                    chunks.append(chunk.text)
            except (HandlerError, InvalidInputError) as error:
                return chunks, error.message
        return chunks, ""

    return asyncio.run(run())


def cli(cluster: Cluster, text: str, *words: str) -> Outcome:
    done = cluster.run("function", *words, stdin=text, check=False)
    # `run` shows on stderr what the handler prints, also when all is well.
    return [done.stdout] if done.stdout else [], done.stderr if done.returncode else ""


WAYS: dict[str, Callable[[Cluster, str], Outcome]] = {
    "http": http,
    "chunked": http_chunks,
    "sse": sse,
    "websocket": websocket,
    "v1 unary": v1_unary,
    "v1 server-streaming": v1_stream,
    "v1 bidirectional": v1_bidi,
    "pb Invoke": pb_invoke,
    "pb Invokes": pb_invokes,
    **{f"Client.{how}": lambda c, t, how=how: client(c, t, how) for how in ("invoke", "stream", "converse")},
    **{f"AsyncClient.{how}": lambda c, t, how=how: async_client(c, t, how) for how in ("invoke", "stream", "converse")},
    "dcf function invoke": lambda c, t: cli(c, t, "invoke", "tokens"),
    "dcf function invoke --stream": lambda c, t: cli(c, t, "invoke", "tokens", "--stream"),
    "dcf function run": lambda c, t: cli(c, t, "run", "tokens"),
}
CHUNK_BY_CHUNK = {
    "sse", "websocket", "v1 server-streaming", "v1 bidirectional", "Client.stream", "Client.converse",
    "AsyncClient.stream", "AsyncClient.converse",
}  # fmt: skip
"""These see each chunk by itself; the others see them joined, or as they come out of a pipe."""
IN_PIECES = {"chunked", "dcf function invoke --stream"}
"""These see what came before an error, but not where one chunk ends."""
CANNOT_SAY = {"http", "chunked"}
"""HTTP has nothing but the connection for an error after the first chunk."""


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_is_the_same(tokens: Cluster, way: str) -> None:
    chunks, error = WAYS[way](tokens, TEXT)

    assert error == ""
    assert "".join(chunks) == TEXT
    if way in CHUNK_BY_CHUNK:
        assert chunks == [*WORDS, ""]


@pytest.mark.parametrize("way", WAYS)
def test_the_error_after_the_third_chunk_is_told(tokens: Cluster, way: str) -> None:
    chunks, error = WAYS[way](tokens, BREAKS_OFF)

    assert error.startswith("broken: ") if way in CANNOT_SAY else CAUSE in error
    if way in CHUNK_BY_CHUNK:
        assert chunks == ["to ", "be ", "or "]
    elif way in IN_PIECES:
        assert "to be or ".startswith("".join(chunks))
    else:
        assert chunks == []


@pytest.mark.parametrize("way", WAYS)
def test_bad_input_is_refused(tokens: Cluster, way: str) -> None:
    chunks, error = WAYS[way](tokens, REFUSED)

    assert chunks == []
    assert "there is nothing to say" in error
