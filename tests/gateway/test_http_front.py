"""Bytes of HTTP/1.1 as clients send them, and as they go wrong: whichever server answers, it is the same."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest

from tests.conftest import until, wait_until
from tests.gateway.running_gateway import Cluster, Gateway

pytestmark = pytest.mark.slow

ECHO = """
import time

import dcf

class Handler:
    def __call__(self, req):
        path = req.metadata.get("path")
        if path == "/numbers":
            return (str(number) + " " for number in range(1000))
        if path == "/empty":
            return iter(())
        if path == "/breaks":
            return self.breaks()
        if path == "/large":
            return b"x" * 3_000_000
        if path == "/headers":
            return dcf.Reply("x", metadata={"X-Own": "a\\r\\nX-Forged: 1", "Connection": "close", "Server": "mine"})
        if path == "/wait":
            print("begins", req.text)
            while not req.cancelled:
                time.sleep(0.01)
            print("nobody waits for", req.text)
        return req.input

    def breaks(self):
        yield "one"
        raise ValueError("no more")
"""


@pytest.fixture(scope="module")
def echo(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "front-0")
    gateway.deploy("echo", ECHO, concurrency=8, maxPayload="4Mi")
    return gateway


class Client:
    """One connection, byte by byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def answer(self, method: str = "POST") -> tuple[int, bytes, HTTPResponse]:
        """The next answer, read to its end and no further."""
        answer = HTTPResponse(_Unbuffered(self.sock), method=method)  # type: ignore[arg-type]
        answer.begin()
        return answer.status, answer.read(), answer

    def closed(self) -> bool:
        return self.sock.recv(1) == b""


class _Unbuffered:
    """Lets HTTPResponse read from a socket without taking what belongs to the next answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> object:
        return _Reader(self._sock)


class _Reader:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def readline(self, limit: int = -1) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) != limit and (byte := self._sock.recv(1)):
            line += byte
        return line

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size and (part := self._sock.recv(min(size, 65536) if size > 0 else 65536)):
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:
        return self._sock.recv_into(buffer)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def connected(gateway: Gateway) -> Iterator[Client]:
    host, _, port = gateway.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        yield Client(sock)


def post(body: bytes, path: str = "/function/echo", *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def test_requests_that_a_client_sends_ahead_are_answered_in_their_order(echo: Gateway) -> None:
    bodies = [b"call %d" % number for number in range(200)]
    with connected(echo) as client:
        client.send(b"".join(post(body) for body in bodies))

        assert [client.answer()[:2] for _ in bodies] == [(200, body) for body in bodies]


def test_what_is_sent_far_ahead_is_left_with_the_client(echo: Gateway) -> None:
    """More than the gateway reads ahead, all of it answered."""
    body = bytes(100_000)
    with connected(echo) as client:
        client.sock.settimeout(60)
        client.send(*(post(body) for _ in range(3)))

        assert [client.answer()[1] == body for _ in range(3)] == [True] * 3


def test_a_client_that_reads_no_answers_gets_no_more_of_them(echo: Gateway) -> None:
    """Or the gateway would hold them all: 60 MB here, where the sockets hold some."""
    request, number = post(bytes(200_000)), 300

    def counted() -> int:
        return int(echo.view("echo")["invocationCount"])

    before = counted()
    with connected(echo) as client, ThreadPoolExecutor(1) as pool:
        client.sock.settimeout(60)
        sending = pool.submit(client.sock.sendall, request * number)
        seen = [-1, 0]
        while seen[-1] != seen[-2]:  # counts are published once a second
            time.sleep(1.5)
            seen.append(counted() - before)
        assert 0 < seen[-1] < number / 2

        assert sum(client.answer()[1] == bytes(200_000) for _ in range(number)) == number
        sending.result()


def test_a_large_body_that_is_refused_ends_its_connection(echo: Gateway) -> None:
    with connected(echo) as client:
        head = post(b"", "/function/echo/wait", "X-Timeout: 300ms").replace(
            b"Content-Length: 0", b"Content-Length: 3000000"
        )
        client.send(head + bytes(1_000_000))  # the rest never comes

        status, _, answer = client.answer()
        assert (status, answer.headers["Connection"]) == (504, "close")
        assert client.closed()


def test_a_request_may_come_byte_by_byte(echo: Gateway) -> None:
    request = post(b"slowly", "/function/echo", "X-Call-Id: slow")
    with connected(echo) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            client.send(*(request[number : number + 1] for number in range(len(request))))

            status, body, answer = client.answer()
            assert (status, body, answer.headers["X-Call-Id"]) == (200, b"slowly", "slow")


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000, 1_048_576, 1_048_577, 4_194_304])
def test_bodies_of_every_size_come_back(echo: Gateway, size: int) -> None:
    body = bytes(number * 7 % 251 for number in range(1000)) * (size // 1000 + 1)
    with connected(echo) as client:
        for _ in range(2):
            client.send(post(body[:size]))
            status, answer, _ = client.answer()
            assert (status, answer == body[:size]) == (200, True)


def test_other_kinds_of_request_share_a_connection_with_calls(echo: Gateway) -> None:
    chunked = (
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n2\r\nby\r\n0\r\n\r\n"
    )
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(echo) as client:
        client.send(post(b"first"), chunked, health, post(b"last"))

        assert client.answer()[:2] == (200, b"first")
        assert client.answer()[:2] == (200, b"oneby")
        assert json.loads(client.answer("GET")[1]) == {"live": True}
        assert client.answer()[:2] == (200, b"last")


def test_a_stream_comes_in_chunks_and_the_next_answer_after_it(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(post(b"", "/function/echo/numbers"), post(b"after"), post(b"", "/function/echo/empty"))

        status, body, answer = client.answer()
        assert (status, answer.headers["Transfer-Encoding"]) == (200, "chunked")
        assert body == b"".join(b"%d " % number for number in range(1000))
        assert client.answer()[:2] == (200, b"after")
        assert client.answer()[:2] == (200, b"")


def test_a_large_answer_has_its_length(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(post(b"", "/function/echo/large"), post(b"after"))

        status, body, answer = client.answer()
        assert (status, len(body), answer.headers["Content-Length"]) == (200, 3_000_000, "3000000")
        assert client.answer()[:2] == (200, b"after")


def test_a_stream_that_breaks_off_has_no_good_end(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(post(b"", "/function/echo/breaks"))
        data = b""
        while piece := client.sock.recv(65536):
            data += piece

    assert b"one" in data
    assert not data.endswith(b"0\r\n\r\n")


def test_a_handlers_header_makes_no_other_header(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(post(b"", "/function/echo/headers"), post(b"after"))

        _, _, answer = client.answer()
        assert answer.headers["X-Own"] == "a  X-Forged: 1"
        assert "X-Forged" not in answer.headers
        assert answer.headers["Server"].startswith("dcf/")
        assert client.answer()[:2] == (200, b"after")


@pytest.mark.parametrize("line", ["Connection: close", "connection: keep-alive, Close"])
def test_close_is_kept(echo: Gateway, line: str) -> None:
    with connected(echo) as client:
        client.send(post(b"last", "/function/echo", line))

        assert client.answer()[:2] == (200, b"last")
        assert client.closed()


def test_http_1_0_and_head_are_answered_as_they_want_it(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(b"POST /function/echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nold")
        assert client.answer()[:2] == (200, b"old")
        assert client.closed()
    with connected(echo) as client:
        client.send(b"HEAD /function/echo HTTP/1.1\r\nHost: x\r\n\r\n", post(b"after"))
        assert client.answer("HEAD")[:2] == (200, b"")
        assert client.answer()[:2] == (200, b"after")


def test_an_error_leaves_the_connection_as_it_was(echo: Gateway) -> None:
    with connected(echo) as client:
        for path, code in (("/function/nothing", 404), ("/function/", 400), ("/function/echo", 400)):
            lines = ["X-Timeout: soon"] if code == 400 else []
            client.send(post(b"x", path, *lines))
            status, body, _ = client.answer()
            assert (status, "error" in json.loads(body)) == (code, True)
        client.send(post(b"fine"))
        assert client.answer()[:2] == (200, b"fine")


def test_a_deadline_is_a_504_and_the_connection_goes_on(echo: Gateway) -> None:
    with connected(echo) as client:
        client.send(post(b"late", "/function/echo/wait", "X-Timeout: 200ms"))
        status, body, answer = client.answer()

        assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
        assert answer.headers["X-Call-Id"] == json.loads(body)["error"]["invocation_id"]
        client.send(post(b"fine"))
        assert client.answer()[:2] == (200, b"fine")


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: three\r\n\r\nabc",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\nContent-Length: 0\r\n\r\n",
        b"POST /function/echo HTTP/1.1\r\nHost : x\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_is_malformed_is_refused_and_smuggles_nothing(echo: Gateway, request_: bytes) -> None:
    """After a good call as before one: a head that was never read whole is nobody's."""
    for before in (b"", post(b"good")):
        with connected(echo) as client:
            if before:
                client.send(before)
                assert client.answer()[:2] == (200, b"good")
            client.send(request_ + post(b"smuggled"))
            status, body, _ = client.answer()
            assert (status, b"smuggled" in body) == (400, False)
            assert client.closed()


def test_a_client_that_goes_has_its_call_cancelled(echo: Gateway) -> None:
    for number in range(3):
        with connected(echo) as client:
            client.send(post(b"gone %d" % number, "/function/echo/wait"))
            wait_until(lambda line=f"begins gone {number}": line in log_of(echo), what="the call to run")
    for number in range(3):
        line = f"nobody waits for gone {number}"
        wait_until(lambda line=line: line in log_of(echo), what=line)


def log_of(gateway: Gateway) -> str:
    _, text, _ = gateway.http("GET", "/system/function-log/echo")
    return str(text)


async def test_a_gateway_that_stops_answers_what_runs_and_closes_what_is_idle(cluster: Cluster, echo: Gateway) -> None:
    stopping = Gateway(cluster, "front-1")
    wait_until(lambda: "error" not in stopping.view("echo"), what="the function to be known")
    with connected(stopping) as idle, connected(stopping) as busy:
        idle.send(post(b"before"))
        assert idle.answer()[:2] == (200, b"before")
        busy.send(post(b"at the stop", "/function/echo/wait", "X-Timeout: 4s"))
        wait_until(lambda: "begins at the stop" in log_of(echo), what="the call to run")

        stopping.process.terminate()

        status, _, answer = busy.answer()
        assert (status, answer.headers["Connection"]) == (504, "close")
        assert busy.closed()
        assert idle.closed()
    await until(lambda: stopping.process.poll() is not None, what="the end of the gateway")
    assert stopping.process.returncode == 0
