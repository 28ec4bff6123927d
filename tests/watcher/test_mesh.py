"""A handler's calls to other functions are frames of its own stream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from dcf.rpc import frames
from dcf.rpc.frames import CANCEL, ERROR, LAST, MESH_BIT, OPEN, PIECE_BYTES, REPLY, REPLY_PREFIX, pack, unpack_open
from tests.watcher.harness import GatewaySide, Replica, eventually, interpreters, run_watcher

VERSIONS = interpreters()

SYNC = """
    import mesh, threading

    def Handler(req):
        if req.input == b"thread":
            out = []
            thread = threading.Thread(target=lambda: out.append(mesh.mesh_call("other", b"t")))
            thread.start()
            thread.join()
            return out[0]
        try:
            return mesh.mesh_call("other", req.input)
        except mesh.MeshError as error:
            print("mesh failed", error.code, flush=True)
            return "failed %s: %s" % (error.code, error)
"""

ASYNC = """
    import asyncio, mesh

    async def Handler(req):
        try:
            return await mesh.mesh_call_async("other", req.input)
        except mesh.MeshError as error:
            return "failed %s: %s" % (error.code, error)
        except asyncio.CancelledError:
            print("handler cancelled", flush=True)
            raise
"""


async def opened(gateway: GatewaySide, after: int = 0) -> frames.Frame:
    """The mesh call that comes next."""
    await eventually(lambda: sum(frame.kind == OPEN for frame in gateway.mesh) > after, "a mesh call")
    return [frame for frame in gateway.mesh if frame.kind == OPEN][after]


async def following(gateway: GatewaySide) -> frames.Frame:
    """The next frame of the only mesh call."""
    await eventually(lambda: gateway.mesh, "a frame")
    return gateway.mesh.pop(0)


async def reply(gateway: GatewaySide, call_id: int, body: bytes) -> None:
    await gateway.write(pack(call_id, REPLY, REPLY_PREFIX.pack(0, 0, 0, 0, 0) + body, LAST))


@pytest.mark.parametrize(
    ("handler", "concurrency", "version"),
    [
        (SYNC, 1, "3.13"), (SYNC, 3, "3.13"), (ASYNC, None, "3.13"),
        (SYNC, 1, "3.6"), (SYNC, 3, "3.6"), (ASYNC, None, "3.6"),
    ],
)  # fmt: skip
async def test_mesh_call_names_its_parent_and_brings_the_answer(
    tmp_path: Path, handler: str, concurrency: int | None, version: str
) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")

    async with (
        run_watcher(tmp_path, handler, concurrency=concurrency, python=VERSIONS[version]) as replica,
        replica.attach() as gateway,
    ):
        outer = await gateway.open(b"hi", call_id=4711)
        frame = await opened(gateway)
        call = unpack_open(frame.payload)
        await reply(gateway, frame.call_id, b"there")
        answer = await gateway.answer(outer)

        second = await gateway.open(b"again")
        frame = await opened(gateway, 1)
        error = json.dumps({"code": "function_not_found", "message": "no such function"}).encode()
        await gateway.write(pack(frame.call_id, ERROR, error, LAST))
        failed = await gateway.answer(second)

    assert frame.call_id & MESH_BIT
    assert json.loads(call.metadata) == {"function": "other", "parent": 4711}
    assert call.body == b"hi"
    assert answer.body == b"there"
    assert failed.body == b"failed function_not_found: no such function"


async def test_mesh_call_of_a_handlers_own_thread_has_its_parent_too(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, SYNC) as replica, replica.attach() as gateway:
        outer = await gateway.open(b"thread", call_id=99)
        frame = await opened(gateway)
        await reply(gateway, frame.call_id, b"fine")

        assert (await gateway.answer(outer)).body == b"fine"
        assert json.loads(unpack_open(frame.payload).metadata)["parent"] == 99


@pytest.mark.parametrize("handler", [SYNC, ASYNC])
async def test_large_mesh_bodies_travel_as_credit_allows(tmp_path: Path, handler: str) -> None:
    body = bytes(range(250)) * 20_000

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        outer = await gateway.open(body)
        first = await opened(gateway)
        got = unpack_open(first.payload).body
        gateway.mesh.pop(0)
        while len(got) < len(body):
            frame = await following(gateway)
            got += frame.payload
            await gateway.write(frames.pack_credit(first.call_id, len(frame.payload)))
        # The answer, a piece for each credit beyond the window.
        window = frames.WINDOW_BYTES
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            window -= len(piece)
            while window < 0:
                window += frames.unpack_credit((await following(gateway)).payload)
            last = LAST if start + PIECE_BYTES >= len(body) else 0
            kind, head = (frames.DATA, b"") if start else (REPLY, REPLY_PREFIX.pack(0, 0, 0, 0, 0))
            await gateway.write(pack(first.call_id, kind, head + piece, last))
        answer = await gateway.answer(outer)

    assert got == body
    assert answer.body == body


@pytest.mark.parametrize("handler", [SYNC, ASYNC])
async def test_cancel_of_the_parent_cancels_its_mesh_call(tmp_path: Path, handler: str) -> None:
    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        outer = await gateway.open(b"hi")
        frame = await opened(gateway)
        await gateway.cancel(outer)
        await gateway.answer(outer)
        await eventually(lambda: gateway.mesh[-1].kind == CANCEL, "the cancel")
        await replica.until_logged("mesh failed client_gone" if handler is SYNC else "handler cancelled")
        await reply(gateway, frame.call_id, b"too late")
        again = await gateway.open(b"again")
        await reply(gateway, (await opened(gateway, 1)).call_id, b"fine")

        assert gateway.mesh[1].call_id == frame.call_id
        assert (await gateway.answer(again)).body == b"fine"


async def test_mesh_call_fails_when_its_gateway_goes_and_is_cancelled_when_its_worker_does(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, SYNC) as replica:
        async with replica.attach() as gateway:
            await gateway.open(b"hi")
            await opened(gateway)
        await replica.until_logged("mesh failed")
        async with replica.attach() as gateway:
            await eventually(lambda: gateway.states[-1]["in_flight"] == 0)
            outer = await gateway.open(b"hi")
            await opened(gateway)
            await _kill_worker(replica)
            await eventually(lambda: gateway.mesh[-1].kind == CANCEL, "the cancel")
            assert (await gateway.answer(outer)).code == "replica_lost"


async def _kill_worker(replica: Replica) -> None:
    for pid in replica.worker_pids():
        os.kill(pid, signal.SIGKILL)


async def test_mesh_call_without_a_cluster_is_a_clear_error_and_never_blocks_a_loop(tmp_path: Path) -> None:
    handler = """
        import mesh

        async def Handler(req):
            if req.input == b"blocking":
                return mesh.mesh_call("other")
            return await mesh.mesh_call_async("other")
    """

    async with run_watcher(tmp_path, handler) as replica:
        await replica.until_state("ready")
        with pytest.raises(Exception, match="needs a cluster"):
            await replica.call()
        with pytest.raises(Exception, match=r"await mesh\.mesh_call_async"):
            await replica.call(b"blocking")


async def test_async_mesh_call_with_a_timeout_of_its_own(tmp_path: Path) -> None:
    handler = """
        import asyncio, mesh

        async def Handler(req):
            try:
                return await asyncio.wait_for(mesh.mesh_call_async("other", b"x" * 3000000), 0.2)
            except asyncio.TimeoutError:
                return "timed out"
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        answers = await asyncio.gather(*(gateway.call() for _ in range(3)))
        await eventually(lambda: sum(frame.kind == CANCEL for frame in gateway.mesh) == 3, "the cancels")

    assert [answer.body for answer in answers] == [b"timed out"] * 3
