"""Start a worker and play its watcher: both sockets, in one thread.

In:   the worker's command, what the test sends.
Out:  the worker's answers, checked frame by frame (ledger.py).
Every wait is bounded by PATIENCE_S and ends at once where the worker does.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcf.rpc.frames import (
    BATCH,
    CANCEL,
    CONTENT_SHIFT,
    CREDIT,
    DATA,
    END,
    ERROR,
    HELLO,
    LAST,
    MESH_BIT,
    OPEN,
    REPLY,
    REPLY_PREFIX,
    SHUTDOWN,
    STATE,
    STREAM,
    STREAM_PIECE_BYTES,
    Frame,
    FrameReader,
    pack,
    pack_credit,
    pack_json,
    pack_open,
)
from tests.worker_conformance.ledger import Call, MeshCall, cut

PATIENCE_S = float(os.environ.get("DCF_CONFORMANCE_PATIENCE_S", "15"))
"""Bounds every wait; only a failure ever takes so long. The mutants' runs make it shorter."""

START_S = 30.0
"""Bounds the start of a worker, also of one that is known to be wrong, on a machine with much else to do."""

AT_ONCE_S = min(4.0, PATIENCE_S)
"""A worker has 2 s after SHUTDOWN before it is killed; twice that on a machine with much else to do."""

TURN_S = 0.005
"""Between two looks at a condition that no frame of the worker's makes true."""

NUMBERS = (14, 15)
"""What a worker inherits: the highest that the protocol allows, and so not next to what it has anyhow."""


def _reserve_numbers() -> None:
    """Have something open under NUMBERS here: subprocess hands on nothing else."""
    for number in NUMBERS:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number, inheritable=False)
            os.close(null)


class Wire:
    """The watcher's end of one worker. Touched only by the test's thread."""

    def __init__(
        self, argv: Sequence[str], *, source: Path, hello: Mapping[str, Any] | None, environ: Mapping[str, str],
        folder: Path,
    ) -> None:  # fmt: skip
        """Start `argv` in `source`; `hello` is sent at once, None: not at all."""
        folder.mkdir()
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        (self.data, data), (self.control, control) = socket.socketpair(), socket.socketpair()
        self.descriptors = NUMBERS
        _reserve_numbers()

        def take_numbers() -> None:
            for sock, number in zip((data, control), NUMBERS, strict=True):
                os.dup2(sock.fileno(), number)

        self.began_s = time.monotonic()
        with data, control, self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*argv, *map(str, self.descriptors)], cwd=source, env=dict(environ), stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=stderr, pass_fds=NUMBERS, preexec_fn=take_numbers,
            )  # fmt: skip
        self.data.setblocking(False)
        self.control.setblocking(False)
        self.frames: list[Frame] = []
        """All that came, in order."""
        self.hello: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.calls: dict[int, Call] = {}
        self.forgotten: set[int] = set()
        """Ids of calls that have ended and are no longer in `calls`."""
        self.mesh: list[MeshCall] = []
        """In the order in which the handlers made them."""
        self.mesh_credit = True
        """Each piece of a mesh call's input is credited as it comes."""
        self.data_ended = False
        self.newest = 0
        """Call id that was used last."""
        self._mesh_running: dict[int, MeshCall] = {}
        self._unsent: dict[socket.socket, bytearray] = {self.data: bytearray(), self.control: bytearray()}
        self._reader = FrameReader()
        if hello is not None:
            self.send(pack_json(0, HELLO, dict(hello)))

    # -- both sockets --------------------------------------------------------

    def turn(self, wait_s: float = TURN_S) -> None:
        """Read what is there and write what can be written, after at most `wait_s`."""
        poll = select.poll()
        if not self.data_ended:
            poll.register(self.data, select.POLLIN | (select.POLLOUT if self._unsent[self.data] else 0))
        if self._unsent[self.control]:
            poll.register(self.control, select.POLLOUT)
        poll.poll(wait_s * 1000)
        self._write()
        if not self.data_ended:
            self._read()

    def _write(self) -> None:
        for sock, unsent in self._unsent.items():
            try:
                while unsent:
                    del unsent[: sock.send(unsent)]
            except BlockingIOError:
                continue
            except OSError:  # the worker has ended; what it sent before is still read
                unsent.clear()

    def _read(self) -> None:
        for _ in range(64):
            try:
                data = self.data.recv(1 << 18)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it left bytes unread
                data = b""
            if not data:
                self.data_ended = True
                return
            for frame in self._reader.feed(data):
                self.frames.append(frame)
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.kind in (HELLO, STATE):
            assert (frame.call_id, frame.flags) == (0, 0), frame
            assert frame.kind != HELLO or not self.hello, "a second HELLO"
            assert frame.kind != STATE or self.hello, "STATE before HELLO"
            assert not self.state, f"{frame} after STATE"
            said = json.loads(frame.payload)
            assert isinstance(said, dict)
            self.hello, self.state = (said, {}) if frame.kind == HELLO else (self.hello, said)
        elif frame.call_id & MESH_BIT:
            self._take_mesh(frame)
        else:
            if frame.kind == CREDIT and frame.call_id in self.forgotten:
                return  # for a piece that was read before its call was cancelled
            assert frame.call_id in self.calls, f"{frame} of a call that was never opened"
            call = self.calls[frame.call_id]
            owed = call.take(frame)
            if call.auto_credit and owed:
                self.credit(call, owed)
            self._send_rest(call)

    def _take_mesh(self, frame: Frame) -> None:
        if frame.kind == OPEN:
            assert frame.call_id not in self._mesh_running, "the id of a running mesh call was used again"
            mesh = self._mesh_running[frame.call_id] = MeshCall(frame)
            self.mesh.append(mesh)
            if not mesh.whole and self.mesh_credit:
                self.credit_mesh(mesh, len(mesh.pieces[0]))
            return
        known = [one for one in self.mesh if one.id == frame.call_id]
        if frame.kind == CANCEL and not known:
            return  # its parent was cancelled while the worker was about to open it: the watcher ignores it
        assert known, f"{frame} of a mesh call that was never opened"
        mesh = known[-1]
        owed = mesh.take(frame)
        if mesh.cancelled:
            self._mesh_running.pop(mesh.id, None)
        elif owed and self.mesh_credit:
            self.credit_mesh(mesh, owed)
        self._send_mesh_rest(mesh)

    def credit_mesh(self, mesh: MeshCall, number: int) -> None:
        """Allow the worker so much more of a mesh call's input."""
        mesh.allowed += number
        self.send_control(pack_credit(mesh.id, number))

    # -- waiting -------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str = "it", *, within_s: float = PATIENCE_S) -> Any:
        """Go on reading and writing until `condition` gives something true; returns it."""
        end_s = time.monotonic() + within_s
        while not (value := condition()):
            if self.data_ended:
                raise AssertionError(f"the worker ended before {what} {self.last_words()}")
            if time.monotonic() > end_s:
                raise AssertionError(f"{what} did not happen within {within_s:g} s {self.last_words()}")
            self.turn()
        return value

    def last_words(self) -> str:
        """The worker's exit status and standard error, for the message of a failure."""
        words = self.stderr.read_text(errors="replace")[-2000:]
        return f"(exit status {self.process.poll()}, standard error: {words!r})"

    def until_ready(self) -> dict[str, Any]:
        """Its STATE, which says ready."""
        self.until(lambda: self.state, "STATE", within_s=START_S)
        assert self.state["state"] == "ready", self.state
        return self.state

    def until_read(self, sock: socket.socket) -> None:
        """Wait until the worker has taken every byte out of the socket."""

        def unread() -> int:
            number = array.array("i", [0])
            fcntl.ioctl(sock, termios.TIOCOUTQ, number, True)
            return number[0]

        self.until(lambda: not self._unsent[sock] and unread() == 0, "that the worker reads")

    def barrier(self, rounds: int = 1) -> None:
        """What was sent before has been read, and what it led to at once is here.

        A call whose input is not whole is cancelled: it needs no slot, and both sockets take part.
        """
        for _ in range(rounds):
            call = self.open(b"", whole=False)
            self.cancel(call)
            self.until(lambda call=call: call.ended, "the answer of a call that was cancelled before its start")
            assert call.code == "client_gone"

    def control_barrier(self) -> None:
        """What was sent on the control socket has been taken, by a worker that takes one read after the other."""
        self.until_read(self.control)
        self.send_control(pack_credit(MESH_BIT - 1, 1))  # of no call: it is ignored
        self.until_read(self.control)

    def exit_status(self, *, within_s: float = PATIENCE_S) -> int:
        """Wait for the worker's own end; negative for a signal."""
        end_s = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < end_s, f"the worker did not end within {within_s:g} s {self.last_words()}"
            self.turn()
        while not self.data_ended:
            self._read()
            assert time.monotonic() < end_s + PATIENCE_S, "something that the worker started holds its socket"
        return self.process.returncode

    # -- calls ---------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write to the data socket, with the next turns."""
        self._unsent[self.data] += data
        self._write()

    def send_control(self, data: bytes) -> None:
        self._unsent[self.control] += data
        self._write()

    def next_id(self) -> int:
        self.newest = self.newest % (MESH_BIT - 1) + 1
        return self.newest

    def prepare(
        self, body: bytes = b"", *, call_id: int = 0, whole: bool = True, stream: bool = False,
        metadata: dict[str, Any] | None = None, deadline_ms: int = 0, auto_credit: bool = True,
    ) -> tuple[Call, bytes]:  # fmt: skip
        """A call and its OPEN frame, which the test sends; further pieces follow as the worker gives credit."""
        call_id = self.newest = call_id or self.next_id()
        call = self.calls[call_id] = Call(call_id, stream=stream, auto_credit=auto_credit)
        first, *rest = cut(body)
        call.rest = [(piece, 0) for piece in rest]
        if rest and whole:
            call.rest[-1] = (rest[-1], LAST)
        call.sent = call.cost(first) if not stream else 0
        flags = STREAM if stream else LAST if whole and not rest else 0
        data = pack_open(
            call_id, deadline_ms=deadline_ms, invocation_id=b"inv-%d" % call_id,
            metadata=json.dumps(metadata).encode() if metadata is not None else b"", body=first, flags=flags,
        )  # fmt: skip
        return call, data

    def open(self, body: bytes = b"", **options: Any) -> Call:
        """Start a call; the options are those of `prepare`."""
        call, data = self.prepare(body, **options)
        self.send(data)
        self._send_rest(call)
        return call

    def open_stream(self, *messages: bytes, **options: Any) -> Call:
        """Start a call whose input is a stream of these messages, and maybe more."""
        call = self.open(stream=True, **options)
        for message in messages:
            self.send_message(call, message)
        return call

    def send_message(self, call: Call, message: bytes, content: int = 0) -> None:
        """One more message of a stream of input, when there is credit for it."""
        pieces = cut(message, STREAM_PIECE_BYTES)
        flags = [*[0] * (len(pieces) - 1), END]
        call.rest += [(piece, flag | content << CONTENT_SHIFT) for piece, flag in zip(pieces, flags, strict=True)]
        self._send_rest(call)

    def end_input(self, call: Call) -> None:
        """The end of a stream of input."""
        call.rest.append((b"", LAST))
        self._send_rest(call)

    def more(self, call: Call, piece: bytes, *, last: bool) -> None:
        """One more piece of an input that `open(..., whole=False)` began."""
        call.rest.append((piece, LAST if last else 0))
        self._send_rest(call)

    def _send_rest(self, call: Call) -> None:
        while call.rest and not call.ended and call.may_send(*call.rest[0]):
            piece, flags = call.rest.pop(0)
            call.sent += call.cost(piece)
            self.send(pack(call.id, DATA, piece, flags))

    def credit(self, call: Call, number: int) -> None:
        """Allow the worker so much more of the answer."""
        call.allowed += number
        self.send_control(pack_credit(call.id, number))

    def cancel(self, call: Call) -> None:
        self.send_control(pack(call.id, CANCEL))

    def send_batch(self, *calls: Call) -> None:
        self.send(pack(0, BATCH, b"".join(call.id.to_bytes(4, "big") for call in calls)))

    def answer(self, call: Call) -> Call:
        """The call, once its answer is whole."""
        self.until(lambda: call.ended, f"the answer of call {call.id}")
        return call

    def call(self, body: bytes = b"", **options: Any) -> Call:
        return self.answer(self.open(body, **options))

    def forget(self) -> None:
        """Leave what was for the next test on this worker.

        Raises:
            AssertionError: a call of the last one is still open.
        """
        self.barrier(2)
        left = [call.id for call in self.calls.values() if not call.ended]
        assert not left, f"calls {left} have no answer"
        self.forgotten |= set(self.calls)
        for kept in (self.calls, self.mesh, self.frames, self._mesh_running):
            kept.clear()
        self.mesh_credit = True

    def still_echoes(self) -> None:
        """Raise AssertionError where the worker no longer answers."""
        assert self.call(b"still here").body == b"still here"

    # -- answers of mesh calls ---------------------------------------------

    def until_mesh(self, number: int = 1) -> MeshCall:
        """The mesh call with this number, its input whole or not."""
        return self.until(lambda: len(self.mesh) >= number and self.mesh[number - 1], f"mesh call {number}")

    def answer_mesh(self, mesh: MeshCall, body: bytes, content: int = 0) -> None:
        first, *rest = cut(body)
        mesh.rest = [(piece, 0) for piece in rest]
        if rest:
            mesh.rest[-1] = (rest[-1], LAST)
        mesh.sent = len(first)
        payload = REPLY_PREFIX.pack(5, 6, 1, content, 0) + first
        self.send_control(pack(mesh.id, REPLY, payload, 0 if rest else LAST))
        self._send_mesh_rest(mesh)

    def _send_mesh_rest(self, mesh: MeshCall) -> None:
        while mesh.rest and not mesh.cancelled and mesh.may_send(mesh.rest[0][0]):
            piece, flags = mesh.rest.pop(0)
            mesh.sent += len(piece)
            self.send_control(pack(mesh.id, DATA, piece, flags))
        if not mesh.rest:
            self._mesh_running.pop(mesh.id, None)

    def fail_mesh(self, mesh: MeshCall, code: str, message: str) -> None:
        self._mesh_running.pop(mesh.id, None)
        payload = json.dumps({"code": code, "message": message}).encode()
        self.send_control(pack(mesh.id, ERROR, payload, LAST))

    # -- the end -------------------------------------------------------------

    def shut_down(self) -> None:
        self.send_control(pack(0, SHUTDOWN))

    @property
    def closed(self) -> bool:
        return self.data.fileno() < 0

    def close(self) -> None:
        """End the worker by the end of both sockets.

        Raises:
            AssertionError: it does not end, or has written to the control socket, or a frame is still wrong.
        """
        if self.closed:
            return
        try:
            for sock in (self.data, self.control):
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:  # the worker has ended
                    continue
            self.exit_status()
            self._nothing_on_control()
        finally:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
            self.data.close()
            self.control.close()

    def _nothing_on_control(self) -> None:
        try:
            said = self.control.recv(100)
        except (BlockingIOError, ConnectionResetError):
            said = b""
        assert said == b"", f"the worker wrote to the control socket: {said!r}"
