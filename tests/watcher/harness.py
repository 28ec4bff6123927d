"""A real watcher as a process, and a gateway's side of its stream."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from dcf.domain.bundle import BundleManifest, watcher_environment
from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.rpc import frames, v1_watcher_pb2
from dcf.rpc.frames import LAST, PIECE_BYTES, WINDOW_BYTES, Frame, iter_frames, pack, pack_credit, pack_json
from dcf.rpc.services import OPTIONS, Stub
from dcf.rpc.status import from_wire
from dcf.rpc.v1_watcher_pb2 import Frames, ReplicaLogLine, ReplicaLogRequest, WatchRequest

SERVICE = v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]
_CHANNEL = (
    *OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
)
"""The watcher's socket is not there at the first try, and gRPC's own second one comes after a second."""
PATIENCE_S = 30.0
"""Bounds every wait; only a failure ever takes so long."""


def interpreters() -> dict[str, str]:
    """Version ("3.6") to a real interpreter of it, for those that this machine has."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    candidates = [
        *sorted(Path.home().glob(".pyenv/versions/*/bin/python")),
        *(Path(f"/usr/bin/python3.{minor}") for minor in range(6, 15)),
        *(Path(f"/usr/local/bin/python3.{minor}") for minor in range(6, 15)),
    ]
    for candidate in candidates:
        if candidate.exists() and (version := _version(str(candidate))):
            found.setdefault(version, str(candidate))
    return found


@functools.cache
def _version(path: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


async def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait, bounded, until `condition` gives something true; returns it."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {PATIENCE_S:g} s")
        await asyncio.sleep(0.01)
    return value


@dataclass
class Answer:
    """What came back for one call."""

    kind: int = 0
    content: int = frames.BYTES
    head: dict[str, Any] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    code: str = ""
    message: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class GatewaySide:
    """One Attach stream, as a gateway drives it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._next_id = 0
        self._answers: dict[int, Answer] = {}
        self._done: dict[int, asyncio.Event] = {}
        self._rest: dict[int, tuple[bytes, int, int]] = {}
        self._writing = asyncio.Lock()
        self.states: list[dict[str, Any]] = []
        self.mesh: list[Frame] = []
        self.finished: list[int] = []
        self.credit_answers = True
        self.ended = asyncio.Event()

    async def write(self, data: bytes) -> None:
        async with self._writing:
            await self._stream.write(Frames(data=data))

    async def open(self, body: bytes = b"", *, deadline_ms: int = 0, metadata: bytes = b"", call_id: int = 0) -> int:
        """Send a call; its answer is awaited with `answer`."""
        self._next_id += 1
        call_id = call_id or self._next_id
        await self.write(self.pack_call(call_id, body, deadline_ms=deadline_ms, metadata=metadata))
        return call_id

    def pack_call(self, call_id: int, body: bytes, *, deadline_ms: int = 0, metadata: bytes = b"") -> bytes:
        self._next_id = max(self._next_id, call_id)
        self._answers[call_id], self._done[call_id] = Answer(), asyncio.Event()
        first, rest = body[:PIECE_BYTES], body[PIECE_BYTES:]
        if rest:
            self._rest[call_id] = (rest, 0, WINDOW_BYTES - len(first))
        data = frames.pack_open(
            call_id, deadline_ms=deadline_ms, invocation_id=b"inv-%d" % call_id, metadata=metadata, body=first,
            flags=0 if rest else LAST,
        )  # fmt: skip
        return data + self._more(call_id, 0)

    def _more(self, call_id: int, credit: int) -> bytes:
        if call_id not in self._rest:
            return b""
        rest, position, left = self._rest[call_id]
        left += credit
        out = b""
        while position < len(rest) and left >= (size := min(PIECE_BYTES, len(rest) - position)):
            last = LAST if position + size >= len(rest) else 0
            out += pack(call_id, frames.DATA, rest[position : position + size], last)
            position, left = position + size, left - size
        self._rest[call_id] = (rest, position, left)
        return out

    async def answer(self, call_id: int) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            await self._done[call_id].wait()
        return self._answers[call_id]

    def has_answer(self, call_id: int) -> bool:
        return self._done[call_id].is_set()

    async def call(self, body: bytes = b"", **options: Any) -> Answer:
        return await self.answer(await self.open(body, **options))

    async def cancel(self, call_id: int) -> None:
        await self.write(pack(call_id, frames.CANCEL))

    async def run(self) -> None:
        """Read until the stream ends."""
        with contextlib.suppress(
            grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError
        ):
            while (message := await self._stream.read()) is not grpc.aio.EOF:
                for frame in iter_frames(message.data):
                    await self._take(frame)
        self.ended.set()

    async def _take(self, frame: Frame) -> None:
        if frame.kind == frames.STATE:
            self.states.append(json.loads(frame.payload))
            if self.states[-1]["state"] == "draining" and all(done.is_set() for done in self._done.values()):
                with contextlib.suppress(grpc.aio.BaseError):
                    await self._stream.done_writing()  # as a gateway leaves
        elif frame.call_id & frames.MESH_BIT:
            self.mesh.append(frame)
        elif frame.call_id in self._answers:
            await self._take_answer(frame)

    async def _take_answer(self, frame: Frame) -> None:
        answer = self._answers[frame.call_id]
        if frame.kind == frames.CREDIT:
            if more := self._more(frame.call_id, frames.unpack_credit(frame.payload)):
                await self.write(more)
            return
        answer.kind = frame.kind
        if frame.kind == frames.REPLY:
            reply = frames.unpack_reply(frame.payload)
            answer.content, answer.pieces = reply.content, [reply.body]
            answer.head = json.loads(reply.metadata) if reply.metadata else {}
        elif frame.kind == frames.DATA:
            answer.pieces.append(frame.payload)
        elif frame.kind == frames.ERROR:
            body = json.loads(frame.payload)
            answer.code, answer.message = body["code"], from_wire(frame.payload).message
        if frame.flags & LAST:
            assert not self._done[frame.call_id].is_set(), "a call was answered twice"
            self.finished.append(frame.call_id)
            self._done[frame.call_id].set()
        elif self.credit_answers:
            await self.write(pack_credit(frame.call_id, len(frame.payload)))


class Replica:
    """A watcher process."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, address: str) -> None:
        self.process = process
        self.folder = folder
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self.stub = Stub(self.channel, SERVICE)

    @asynccontextmanager
    async def attach(self, *, ready: bool = True) -> AsyncIterator[GatewaySide]:
        """A gateway's stream; with `ready` from the moment that the handler is loaded."""
        channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL)
        stream = Stub(channel, SERVICE).Attach(wait_for_ready=True, timeout=10 * PATIENCE_S)
        side = GatewaySide(stream)
        reader = asyncio.ensure_future(side.run())
        try:
            await side.write(pack_json(0, frames.HELLO, {"protocol": frames.PROTOCOL, "version": "test"}))
            if ready:
                await eventually(lambda: any(s["capacity"] for s in side.states), "the handler's load")
            yield side
        finally:
            stream.cancel()
            await reader
            await channel.close()

    async def call(self, body: bytes = b"", metadata: dict[str, str] | None = None) -> Any:
        """`Watcher.Call`."""
        request = v1_watcher_pb2.CallRequest(input=body, metadata=metadata or {})
        return await self.stub.Call(request, timeout=PATIENCE_S, wait_for_ready=True)

    async def until_state(self, *wanted: str) -> Any:
        """The first report with one of these states."""
        async with asyncio.timeout(PATIENCE_S):
            async for report in self.stub.Watch(WatchRequest(), wait_for_ready=True):
                if report.state in wanted:
                    return report
        raise AssertionError("the Watch stream ended")

    async def lines(self) -> list[ReplicaLogLine]:
        return [line async for line in self.stub.Log(ReplicaLogRequest(), timeout=PATIENCE_S, wait_for_ready=True)]

    async def until_logged(self, text: str) -> list[ReplicaLogLine]:
        """The log, once a line holds `text`."""
        end = time.monotonic() + PATIENCE_S
        while True:
            lines = await self.lines()
            if any(text in line.text for line in lines):
                return lines
            assert time.monotonic() < end, f"{text!r} is not in {[line.text for line in lines]}"
            await asyncio.sleep(0.02)

    async def exit_status(self) -> int:
        await eventually(lambda: self.process.poll() is not None, "the end of the watcher")
        return int(self.process.returncode)

    def log_file(self) -> list[tuple[str, str]]:
        """(stream, text) of each line of the log file."""
        rows = (self.folder / "log").read_text().splitlines()
        return [(row.split(" ", 2)[1], row.split(" ", 2)[2]) for row in rows]

    def worker_pids(self) -> list[int]:
        """Its workers, by their parent."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for file in children for pid in file.read_text().split()]


@asynccontextmanager
async def run_watcher(
    folder: Path,
    handler: str | None,
    *,
    python: str = sys.executable,
    file: str = "handler.py",
    name: str = "Handler",
    environ: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
    runtime: str = "python",
    watcher: dict[str, str] | None = None,
    **spec: Any,
) -> AsyncIterator[Replica]:
    """A watcher on a handler of this source; gone when the block ends.

    `environ` is the function's, `watcher` the process's own.
    """
    source = folder / "src"
    source.mkdir(exist_ok=True)
    if handler is not None:
        (source / file).write_text(textwrap.dedent(handler), encoding="utf-8")
    manifest = BundleManifest(
        function="echo", digest="0" * 12, runtime=runtime, command=command or (python,), version="", handler_file=file,
        handler_name=name,
    )  # fmt: skip
    # pytest's folders may be too long for a socket's path.
    with tempfile.TemporaryDirectory(prefix="dcf-w-", dir="/tmp") as sockets:
        address = f"unix:{sockets}/w.sock"
        settings = watcher_environment(
            FunctionSpec(name=FunctionName("echo"), image="x", environment=environ or {}, **spec),
            manifest, replica="echo-g1-0", listen=address, source=str(source), log_file=str(folder / "log"),
        )  # fmt: skip
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DCF_")}
        with (folder / "watcher.stderr").open("ab") as stderr:
            process = subprocess.Popen(  # noqa: ASYNC220 - its start takes a moment
                [sys.executable, "-P", "-m", "dcf.watcher"],
                env=kept | settings | (watcher or {}),
                cwd=source, stdin=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        replica = Replica(process, folder, address)
        try:
            yield replica
        finally:
            await replica.channel.close()
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(AssertionError):
                    await eventually(lambda: process.poll() is not None)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    complaints = (folder / "watcher.stderr").read_text()
    assert "Traceback" not in complaints, complaints
