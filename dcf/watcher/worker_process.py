"""One worker: its process, its two sockets, and the calls that are in it.

In:   frames for the worker (`send_data`, `send_control`).
Out:  `on_frames` for what it sends, `exited` once it is gone.
It decides nothing; worker_pool.py does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcf.errors import LoadError, ProtocolError
from dcf.rpc import frames
from dcf.rpc.frames import HEADER, JOINED_BYTES, Frame, FrameReader, pack, unpack_json
from dcf.sockets import widen

if TYPE_CHECKING:
    from dcf.watcher.function_log import FunctionLog
    from dcf.watcher.invocation import Invocation
    from dcf.watcher.low_descriptors import LowDescriptors
    from dcf.watcher.settings import WatcherSettings

_WORKERS = Path(__file__).parent / "worker"
WORKER_PROGRAMS = {
    # -u: what a handler prints is in the log at once.
    "python": ("-u", str(_WORKERS / "worker.py")),
    "node": (str(_WORKERS / "worker.mjs"),),
}
"""What an interpreter is given; a runtime that is not here compiles its worker into the function's own program."""
STOP_S = 2.0
"""A worker that was told to shut down and does not is killed after this."""
LAST_WORDS_S = 0.5
"""After its end, what a worker has sent and printed is still read; a child of its own may hold the pipes for ever."""
HALF_OPEN_S = 1.0
"""A worker that has closed a socket and lives on after this is deaf: it is killed."""
_OURS_ALONE = ("DCF_", "GRPC_ENABLE_FORK_SUPPORT")
"""Beginnings of our own variables, which are none of the handler's business."""

Spawn = Callable[[str, Coroutine[Any, Any, object]], asyncio.Future[Any]]


class _Connection(asyncio.Protocol):
    """One socket of the worker."""

    def __init__(self, worker: WorkerProcess, on_frames: Callable[[list[Frame]], None]) -> None:
        self._reader = FrameReader()
        self._worker = worker
        self._on_frames = on_frames
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        try:
            self._on_frames(self._reader.feed(data))
        except ProtocolError as error:
            self._worker.kill(f"broke the protocol ({error})")
        except Exception as error:
            # A callback's error would only be logged, and the calls in the worker wait for ever.
            self._worker.on_bug(error)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self._worker.on_connection_lost()


class Batch:
    """Calls of one run of the handler."""

    __slots__ = ("left", "size", "told")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        """Not answered yet."""
        self.told = False
        """Its size was said, with one of its answers."""


class WorkerProcess:
    """Touched only by the event loop of the watcher."""

    def __init__(self, settings: WatcherSettings, log: FunctionLog, number: int, low: LowDescriptors) -> None:
        self.number = number
        self.calls: dict[int, Invocation] = {}
        """Handed over and not yet answered, by the watcher's call id; those whose input is whole in the order
        in which it became so, which is the order in which they start."""
        self.whole = 0
        """Of `calls`, those whose input is whole (a stream's always is) and whose handler has not returned."""
        self.slots = 0
        """Handlers at once."""
        self.batches = 0
        """Runs of a batched handler, which are under way."""
        self.batch = 1
        """Calls that one run of the handler takes."""
        self.bidirectional = False
        """It has a handler for streams of input."""
        self.streams = False
        """It has answered with a stream, or will: how long the next call takes is not known from the last."""
        self.mean_handler_s = 0.0
        """Recent mean of one handler run; 0: none measured yet."""
        self.ready = False
        self.condemned = False
        """A call in it is past its deadline and grace: it takes no more, and dies when its others have ended."""
        self.load_traceback = ""
        """Of a handler that could not be loaded."""
        self.on_frames: Callable[[WorkerProcess, list[Frame]], None] = lambda worker, batch: None
        self.on_bug: Callable[[BaseException], None] = lambda error: None
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit status, negative for a signal. All that it had sent was read before."""
        self._settings = settings
        self._log = log
        self._low = low
        self._process: subprocess.Process | None = None
        self._data: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._control: asyncio.Transport | None = None
        self._connection: _Connection | None = None
        self._state: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._output: list[asyncio.Future[Any]] = []
        self._killed_because = ""
        self._shut_down = False

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self._process.pid if self._process else 0

    def _command(self) -> list[str]:
        return [*self._settings.command(), *WORKER_PROGRAMS.get(self._settings.runtime, ())]

    def _environ(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS_ALONE)}
        # A Python 3.6 without a locale would refuse to print anything but ASCII.
        environ |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        return environ | self._settings.worker_environment() | self._settings.device_environment()

    async def start(self, slots: int, spawn: Spawn) -> None:
        """Start the process and wait until the handler is loaded.

        Args:
            slots: handlers at once in this worker; 0: as the kind of handler asks for.
            spawn: runs the tasks that collect the worker's output and its end.

        Raises:
            LoadError: the command, the handshake or the handler failed, or it took over start_timeout.
        """
        (data, their_data), (control, their_control) = socket.socketpair(), socket.socketpair()
        with contextlib.ExitStack() as unused:
            for sock in (data, control):
                unused.callback(sock.close)
            for sock in (data, their_data, control):
                widen(sock)
            with their_data, their_control:
                async with self._low.lent_to(their_data.fileno(), their_control.fileno()) as numbers:
                    process = await self._start_process(*numbers)
            # First of all: `stop` waits for it, also where we are cancelled in the next line.
            name = f"worker-{self.number}-{process.pid}"
            spawn(f"{name}-exit", self._watch_exit(process))
            loop = asyncio.get_running_loop()
            connection = self._connection = _Connection(self, self._on_data)
            self._data, _ = await loop.create_unix_connection(lambda: connection, sock=data)
            self._control, _ = await loop.create_unix_connection(
                lambda: _Connection(self, self._on_control), sock=control
            )
            unused.pop_all()
        assert process.stdout
        assert process.stderr
        self._output = [
            spawn(f"{name}-stdout", self._log.collect("stdout", process.stdout)),
            spawn(f"{name}-stderr", self._log.collect("stderr", process.stderr)),
        ]
        settings = self._settings
        hello = {
            "protocol": frames.PROTOCOL,
            "function": settings.function,
            "replica": settings.replica,
            "source": settings.source,
            "handler_file": settings.handler_file,
            "handler_name": settings.handler_name,
            "slots": slots,
            "batch_max_size": settings.batch_max_size,
            "max_payload_bytes": settings.max_payload_bytes,
            "debug": settings.debug,
        }
        self.send_data(0, frames.HELLO, json.dumps(hello).encode())
        self.slots = await self._until_loaded()
        self.ready = True

    async def _start_process(self, *descriptors: int) -> subprocess.Process:
        source = self._settings.source
        if not Path(source).is_dir():
            raise LoadError(f"the handler's folder {source} is not there")
        command = self._command()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *map(str, descriptors),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=source,
                env=self._environ(),
                pass_fds=descriptors,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LoadError(f"the worker cannot be started with {command[0]}: {reason}") from error
        return self._process

    async def _until_loaded(self) -> int:
        """The worker's slots. Raises LoadError where the load failed, at its death and at the time limit."""
        limit_s = self._settings.start_timeout_s
        either: list[asyncio.Future[Any]] = [self._state, self.exited]
        await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._state.done():
            if self.exited.done():
                raise LoadError(f"the worker {self.describe_end()} while the handler was loaded")
            raise LoadError(
                f"the handler was not loaded after {limit_s:g} s (start_timeout); "
                "is its constructor waiting for something?"
            )
        state = self._state.result()
        slots, batch = state.get("slots"), state.get("batch", 1)
        if state.get("state") == "ready" and isinstance(slots, int) and slots > 0:
            if batch != max(1, self._settings.batch_max_size):
                raise LoadError("the worker takes no batches; leave `batch` out of config.yaml")
            self.batch = batch
            self.bidirectional, self.streams = bool(state.get("bidirectional")), bool(state.get("streams"))
            return slots
        self.load_traceback = str(state.get("traceback", ""))
        raise LoadError(str(state.get("cause") or "the worker gave no cause"))

    def _on_data(self, batch: list[Frame]) -> None:
        """Frames of the data socket, before and after the handler is there."""
        if self.ready:
            self.on_frames(self, batch)
            return
        for frame in batch:
            if self._state.done():
                raise ProtocolError("it sent frames before it had a call")
            body = unpack_json(frame.payload)
            if frame.kind == frames.HELLO:
                if body.get("protocol") != frames.PROTOCOL:
                    raise ProtocolError(f"it speaks protocol {body.get('protocol')}, expected {frames.PROTOCOL}")
            elif frame.kind == frames.STATE:
                self._state.set_result(body)
            else:
                raise ProtocolError(f"it sent kind {frame.kind} before its state")

    def _on_control(self, batch: list[Frame]) -> None:
        if batch:
            raise ProtocolError("it wrote to its control socket")

    @property
    def places(self) -> int:
        """Calls that it can run at once."""
        return self.slots * self.batch

    def add(self, call: Invocation) -> None:
        """A call is handed over."""
        self.calls[call.id] = call
        self.whole += call.whole

    def start_batch(self, calls: list[Invocation]) -> None:
        """The calls, which are here, run together."""
        self.batches += 1
        batch = Batch(len(calls))
        for call in calls:
            call.batch = batch
        self.send_data(0, frames.BATCH, b"".join(call.id.to_bytes(4, "big") for call in calls))

    def note_whole(self, call: Invocation) -> None:
        """The last of a call's input was sent: it starts after those that were whole before."""
        self.calls[call.id] = self.calls.pop(call.id)
        self.whole += 1

    def free_slot(self, call: Invocation) -> None:
        """A call's handler has returned."""
        self.whole -= call.whole
        if call.batch is not None:
            call.batch.left -= 1
            if not call.batch.left:
                self.batches -= 1

    def remove(self, call: Invocation) -> None:
        """A call was answered."""
        del self.calls[call.id]
        if not call.leaving:
            self.free_slot(call)

    def send_data(self, call_id: int, kind: int, payload: bytes, flags: int = 0) -> None:
        """A frame to the main thread of the worker; what comes in one turn of the loop travels in one write."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush_data)
        self._unsent.append(HEADER.pack(len(payload), call_id, kind, flags))
        if payload:
            self._unsent.append(payload)
        self._unsent_bytes += HEADER.size + len(payload)

    def _flush_data(self) -> None:
        parts, size = self._unsent, self._unsent_bytes
        self._unsent, self._unsent_bytes = [], 0
        if self._data and not self._data.is_closing():
            if size <= JOINED_BYTES:
                self._data.write(b"".join(parts))
            else:
                self._data.writelines(parts)

    def send_control(self, data: bytes) -> None:
        """Towards its control thread: arrives while a handler runs."""
        if self._control and not self._control.is_closing():
            self._control.write(data)

    async def _watch_exit(self, process: subprocess.Process) -> None:
        status = -signal.SIGKILL
        try:
            status = await process.wait()
            # An answer that it had written before its end is an answer.
            if self._connection:
                await asyncio.wait({self._connection.ended}, timeout=LAST_WORDS_S)
        finally:
            self.kill("was stopped")  # only where nobody waits for it any more
            self.exited.set_result(status)

    def on_connection_lost(self) -> None:
        """The process ends, or it has closed a socket and cannot be reached any more."""
        if not self.exited.done():
            asyncio.get_running_loop().call_later(HALF_OPEN_S, self.kill, "closed its connection to the watcher")

    def kill(self, because: str) -> None:
        """End it now, with all that is in it."""
        if self._process and self._process.returncode is None:
            self._killed_because = self._killed_because or because
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def shut_down(self) -> None:
        """Ask it to end; one that does not is killed after STOP_S, one that still loads at once."""
        if self._shut_down:
            return
        self._shut_down = True
        self.send_control(pack(0, frames.SHUTDOWN))
        if self.ready or self._state.done():
            asyncio.get_running_loop().call_later(STOP_S, self.kill, "did not shut down")
        else:
            self.kill("was stopped")

    async def stop(self) -> None:
        """Shut it down and wait until it is gone and its output is read. Safe to call twice."""
        if self._process:
            self.shut_down()
            await self.exited
            if self._output:
                await asyncio.wait(self._output, timeout=LAST_WORDS_S)
        for transport in (self._data, self._control):
            if transport:
                transport.close()

    def note_handler_time(self, handler_us: int) -> None:
        """Follow the handler's recent mean: slowly down, at once up, so that a slow model is never fed ahead."""
        measured_s = max(handler_us, 1) / 1e6  # the fastest take less than one; 0 would mean "not measured"
        mean_s = self.mean_handler_s
        self.mean_handler_s = measured_s if measured_s > 4 * mean_s else mean_s + 0.1 * (measured_s - mean_s)

    def describe_end(self) -> str:
        """`exited with status 3`, `was ended by SIGKILL`: what fits after "the worker"."""
        if self._killed_because:
            return f"{self._killed_because} and was ended"
        status = self.exited.result()
        if status >= 0:
            return f"exited with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (out of memory?)" if name == "SIGKILL" and sys.platform == "linux" else ""
        return f"was ended by {name}{hint}"
