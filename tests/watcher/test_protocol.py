"""A peer that breaks the protocol hurts its own stream alone."""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from pathlib import Path

import grpc
import grpc.aio

from dcf.rpc import frames
from dcf.rpc.frames import CANCEL, CREDIT, DATA, HELLO, LAST, MESH_BIT, OPEN, REPLY, pack, pack_json, pack_open
from dcf.rpc.v1_watcher_pb2 import Frames
from tests.watcher.harness import PATIENCE_S, Replica, eventually, run_watcher

ECHO = """
    def Handler(req):
        return req.input
"""
GOOD_HELLO = pack_json(0, HELLO, {"protocol": frames.PROTOCOL})
OPENED = pack_open(1, deadline_ms=0, invocation_id=b"", metadata=b"", body=b"", flags=0)

MALFORMED = {
    "nothing": b"",
    "no hello": OPENED,
    "hello is no json": pack(0, HELLO, b"{"),
    "hello is a list": pack(0, HELLO, b"[]"),
    "torn frame": GOOD_HELLO + b"\0\0\0\x09\0\0",
    "huge frame": GOOD_HELLO + frames.HEADER.pack(2**32 - 1, 1, OPEN, 0),
    "short open": GOOD_HELLO + pack(1, OPEN, b"\0\0"),
    "open that lies": GOOD_HELLO + pack(1, OPEN, struct.pack("!IBI", 0, 9, 2**31) + b"x"),
    "open of id 0": GOOD_HELLO + pack(0, OPEN, struct.pack("!IBI", 0, 0, 0)),
    "opened twice": GOOD_HELLO + OPENED + OPENED,
    "kind of a worker": GOOD_HELLO + OPENED + pack(1, REPLY, b"\0" * 9),
    "unknown kind": GOOD_HELLO + pack(1, 77),
    "mesh open": GOOD_HELLO + pack(MESH_BIT | 1, OPEN, struct.pack("!IBI", 0, 0, 0)),
    "odd credit": GOOD_HELLO + OPENED + pack(1, CREDIT, b"\0"),
    "beyond the window": GOOD_HELLO + OPENED + pack(1, DATA, bytes(7_000_000)),
    "after the last": GOOD_HELLO + OPENED + pack(1, DATA, b"", LAST) + pack(1, DATA, b"more"),
}


async def refusal(replica: Replica, data: bytes, *, more: bool = True) -> tuple[grpc.StatusCode, str]:
    """How a stream that begins with `data` ends."""
    stream = replica.stub.Attach(timeout=PATIENCE_S)
    await stream.write(Frames(data=data))
    if not more:
        await stream.done_writing()
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), str(error.details())
    return await stream.code(), str(await stream.details())


async def test_malformed_streams_end_with_a_status_and_others_live_on(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, ECHO) as replica, replica.attach() as gateway:
        for name, data in MALFORMED.items():
            code, details = await refusal(replica, data)
            assert (code, bool(details)) == (grpc.StatusCode.INVALID_ARGUMENT, True), (name, code, details)
            assert (await gateway.call(b"fine")).body == b"fine", name

        dice = random.Random(1)
        for _ in range(50):
            data = GOOD_HELLO * dice.randint(0, 1) + dice.randbytes(dice.randint(0, 60))
            code, _ = await refusal(replica, data, more=False)
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK)
        assert (await gateway.call(b"fine")).body == b"fine"
        await eventually(lambda: gateway.states[-1]["in_flight"] == 0, "the end of what was half opened")
        assert (await replica.until_state("ready")).worker_restarts == 0


async def test_other_protocol_version_is_a_clear_status(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, ECHO) as replica:
        await replica.until_state("ready")
        code, details = await refusal(replica, pack_json(0, HELLO, {"protocol": 99}))

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "speaks protocol 99" in details


async def test_frames_of_calls_that_are_over_are_ignored(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, ECHO) as replica, replica.attach() as gateway:
        call_id = await gateway.open(b"x")
        await gateway.answer(call_id)
        for frame in (pack(call_id, CANCEL), frames.pack_credit(call_id, 5), pack(call_id, DATA, b"x", LAST)):
            await gateway.write(frame)
        for _ in range(200):
            gone = await gateway.open(b"x")
            await gateway.cancel(gone)
            await gateway.answer(gone)

        assert (await gateway.call(b"fine")).body == b"fine"


WORKER = """
import json, os, socket, struct, sys, threading
sockets = [socket.socket(fileno=int(number)) for number in sys.argv[-2:]]
data, control = sockets

def leave():
    control.recv(1)
    os._exit(0)

if "deaf" not in sys.argv:
    threading.Thread(target=leave, daemon=True).start()

def send(call_id, kind, payload=b"", flags=0, sock=data):
    sock.sendall(struct.pack("!IIBB", len(payload), call_id, kind, flags) + payload)

def frame():
    head = data.recv(10, socket.MSG_WAITALL)
    if not head:
        sys.exit(0)
    length, call_id, kind, flags = struct.unpack("!IIBB", head)
    return call_id, kind, flags, data.recv(length, socket.MSG_WAITALL) if length else b""

send(0, 1, b'{"protocol": 1}')
frame()
send(0, 2, b'{"state": "ready", "slots": 1}')
while True:
    call_id, kind, flags, payload = frame()
    word = payload[9 + payload[4] + struct.unpack("!I", payload[5:9])[0]:].decode()
    exec({
        "fine": "send(call_id, 5, b'\\\\0' * 15 + b'fine', 1)",
        "last words": "send(call_id, 5, b'\\\\0' * 15 + b'fine', 1); import os; os._exit(3)",
        "short reply": "send(call_id, 5, b'', 1)",
        "unknown kind": "send(call_id, 99)",
        "huge": "data.sendall(struct.pack('!IIBB', 2**31, call_id, 5, 0))",
        "odd credit": "send(call_id, 9, b'xx')",
        "mesh without metadata": "send(1 << 31, 3, b'\\\\0' * 9)",
        "mesh with a list": "send(1 << 31, 3, struct.pack('!IBI', 0, 0, 2) + b'[]')",
        "mesh with odd parent": "send(1 << 31, 3, struct.pack('!IBI', 0, 0, 13) + b'{\\"parent\\":[]}')",
        "mesh kind": "send(1 << 31, 1)",
        "on control": "send(call_id, 5, b'', sock=control)",
        "other call": "send(call_id + 7, 5, b'\\\\0' * 15, 1); send(call_id, 5, b'\\\\0' * 15 + b'fine', 1)",
    }[word])
"""


async def test_worker_that_breaks_the_protocol_is_replaced(tmp_path: Path) -> None:
    words = (
        "short reply", "unknown kind", "huge", "odd credit", "mesh without metadata", "mesh with a list",
        "mesh with odd parent", "mesh kind", "on control",
    )  # fmt: skip
    for word in words[:3]:
        await _breaks(tmp_path / word.replace(" ", "-"), word)
    await asyncio.gather(*(_breaks(tmp_path / word.replace(" ", "-"), word) for word in words[3:]))


async def _breaks(folder: Path, word: str) -> None:
    folder.mkdir()
    async with (
        run_watcher(folder, WORKER, file="w.py", runtime="other", command=(sys.executable, "w.py")) as replica,
        replica.attach() as gateway,
    ):
        assert (await gateway.call(b"fine")).body == b"fine"
        assert (await gateway.call(b"other call")).body == b"fine"
        lost = await gateway.call(word.encode())
        await replica.until_logged("broke the protocol")

    assert lost.code == "replica_lost", word
    assert "broke the protocol" in lost.message, word


async def test_answer_written_just_before_the_end_is_an_answer(tmp_path: Path) -> None:
    async with (
        run_watcher(tmp_path, WORKER, file="w.py", runtime="other", command=(sys.executable, "w.py")) as replica,
        replica.attach() as gateway,
    ):
        assert (await gateway.call(b"last words")).body == b"fine"
        await replica.until_logged("exited with status 3")


async def test_worker_in_another_language_that_ignores_its_shutdown_is_killed(tmp_path: Path) -> None:
    command = (sys.executable, "w.py", "deaf")

    async with (
        run_watcher(tmp_path, WORKER, file="w.py", runtime="other", command=command) as replica,
        replica.attach() as gateway,
    ):
        answers = await asyncio.gather(*(gateway.call(b"fine") for _ in range(2)))
        replica.process.terminate()
        assert await replica.exit_status() == 0

    assert [answer.body for answer in answers] == [b"fine"] * 2
