"""Streams as the worker makes and takes them, in every Python, frame by frame."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dcf.rpc import frames
from dcf.rpc.frames import (
    DATA,
    END,
    FRAME_COST_BYTES,
    LAST,
    STREAM,
    STREAM_PIECE_BYTES,
    STREAM_WINDOW_BYTES,
    pack,
    pack_credit,
    pack_open,
)
from tests.watcher.harness import Answer, GatewaySide, eventually, interpreters, run_watcher

pytestmark = pytest.mark.slow
VERSIONS = interpreters()

HANDLERS = {
    "sync": """
import dcf

class Handler:
    def __call__(self, req):
        if req.text == "reply":
            return dcf.Reply(self.chunks("abc"), content_type="text/csv", metadata={"X-Own": "1"})
        return self.chunks(req.text)

    def chunks(self, text):
        try:
            while text == "endless":
                yield b"x" * 1000
            for letter in text:
                yield letter
        finally:
            print("closed", text)

    def stream(self, requests):
        for req in requests:
            print("taken", len(req.input))
            yield req.input
        yield {"last": True}
""",
    "async": """
import dcf

class Handler:
    async def __call__(self, req):
        if req.text == "reply":
            return dcf.Reply(self.chunks("abc"), content_type="text/csv", metadata={"X-Own": "1"})
        return self.chunks(req.text)

    async def chunks(self, text):
        try:
            while text == "endless":
                yield b"x" * 1000
            for letter in text:
                yield letter
        finally:
            print("closed", text)

    async def stream(self, requests):
        async for req in requests:
            print("taken", len(req.input))
            yield req.input
        yield {"last": True}
""",
}


@pytest.fixture(params=[(kind, version) for kind in HANDLERS for version in ("3.6", "3.8", "3.13")], ids=str)
def spec(request: pytest.FixtureRequest) -> dict[str, str]:
    kind, version = request.param
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")
    return {"handler": HANDLERS[kind], "python": VERSIONS[version]}


async def open_stream(gateway: GatewaySide) -> tuple[int, Answer]:
    """A call whose input is a stream; the answer is what has come of it so far."""
    call_id = 1 + max(gateway._answers, default=0)
    gateway._answers[call_id], gateway._done[call_id] = Answer(), asyncio.Event()
    prefix = pack_open(call_id, deadline_ms=0, invocation_id=b"inv", metadata=b"", body=b"", flags=STREAM)
    await gateway.write(prefix)
    return call_id, gateway._answers[call_id]


async def test_chunks_come_and_a_reader_that_stops_stops_them(tmp_path: Path, spec: dict[str, str]) -> None:
    async with run_watcher(tmp_path, concurrency=2, **spec) as replica, replica.attach() as gateway:
        answer = await gateway.call(b"hello")
        assert (answer.pieces, answer.content) == ([b"", *(letter.encode() for letter in "hello"), b""], frames.TEXT)

        reply = await gateway.call(b"reply")
        assert reply.body == b"abc"
        assert reply.head == {"content_type": "text/csv", "metadata": {"X-Own": "1"}}

        gateway.credit_answers = False
        endless = await gateway.open(b"endless")
        each = 1000 + FRAME_COST_BYTES
        most = STREAM_WINDOW_BYTES // each + 1  # it may send while it has any credit left
        await eventually(lambda: len(gateway._answers[endless].pieces) == 1 + most, "a full window")
        assert (await gateway.call(b"others go on")).body == b"others go on"
        assert len(gateway._answers[endless].pieces) == 1 + most
        await gateway.write(pack_credit(endless, 10 * each))
        await eventually(lambda: len(gateway._answers[endless].pieces) >= 1 + most + 9, "what was credited")
        await gateway.cancel(endless)
        assert (await gateway.answer(endless)).code == "client_gone"
        await replica.until_logged("closed endless")


async def test_inputs_wait_for_their_credit_and_for_the_handler(tmp_path: Path, spec: dict[str, str]) -> None:
    async with run_watcher(tmp_path, concurrency=2, **spec) as replica, replica.attach() as gateway:
        call_id, answer = await open_stream(gateway)
        await gateway.write(pack(call_id, DATA, b"one", END) + pack(call_id, DATA, b"", END))
        await eventually(lambda: answer.pieces[1:] == [b"one", b""], "both messages back")

        big = bytes(range(256)) * 1024  # 256 KiB in four pieces
        for start in range(0, len(big), STREAM_PIECE_BYTES):
            last = END if start + STREAM_PIECE_BYTES >= len(big) else 0
            await gateway.write(pack(call_id, DATA, big[start : start + STREAM_PIECE_BYTES], last))
        await eventually(lambda: b"".join(answer.pieces[3:]) == big, "the big one")
        await gateway.write(pack(call_id, DATA, b"", LAST))
        await gateway.answer(call_id)
        assert answer.pieces[-2:] == [b'{"last": true}', b""]
        assert any("taken 262144" in line.text for line in await replica.lines())

        call_id, answer = await open_stream(gateway)
        await gateway.cancel(call_id)
        assert (await gateway.answer(call_id)).code == "client_gone"

        single = await gateway.call(b"word")
        assert single.body == b"word"


async def test_a_stream_for_a_handler_that_takes_none_is_refused(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, "def Handler(req):\n    return req.input") as replica, replica.attach() as gateway:
        call_id, answer = await open_stream(gateway)
        await gateway.answer(call_id)

        assert answer.kind == frames.REFUSED  # a replica of another version may take it
        assert gateway.states[-1]["bidirectional"] is False
