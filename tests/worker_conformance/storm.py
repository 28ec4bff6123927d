"""Send a worker frames of all sorts, from dice.

In:   a Wire, dice.
Out:  frames: most of them right, some odd, a few that no watcher may send.
All are well delimited, so that a worker that ignores one can go on with the next.
"""

from __future__ import annotations

import json
import random

from dcf.rpc.frames import (
    CANCEL,
    CREDIT,
    DATA,
    ERROR,
    HEADER,
    LAST,
    MAX_FRAME_BYTES,
    MESH_BIT,
    REPLY,
    pack,
    pack_credit,
)
from tests.worker_conformance.inputs import command
from tests.worker_conformance.ledger import Call
from tests.worker_conformance.wire import Wire

MOST_OPEN = 40
"""Calls that are left open while the storm goes on."""

COMMANDS = (
    command("text", text="t"), command("json", value=[1, {"a": None}]), command("fail", message="m"),
    command("refuse", message="m"), command("bytes", size=1000), command("bytes", size=300_000),
    command("info", header="x"), command("nobody knows this"), command("unsendable"), b"{", b'{"do": 5}',
    command("mesh", function="other", text="x"),
)  # fmt: skip
STREAM_COMMANDS = (
    command("echo"), command("count", count=5, size=10), command("count", count=3, size=70_000), command("nothing"),
    command("fail-after", count=2, message="m"), b"no command", command("kinds"),
)  # fmt: skip


class Storm:
    """One worker's share of it. Touched only by its test."""

    def __init__(self, wire: Wire, dice: random.Random, *, streams: bool, fatal_share: float) -> None:
        self.wire = wire
        self._dice = dice
        self._early: set[int] = set()
        self._incomplete: list[Call] = []
        self._streams: list[Call] = []
        self._fatal_share = fatal_share
        self._kinds = [
            (30, self._echo), (8, self._command), (6, self._begin_input), (10, self._more_input), (8, self._late_data),
            (10, self._cancel), (3, self._cancel_early), (8, self._credit), (4, self._late_credit),
            (5, self._late_mesh), (4, self._odd_flags), (3, self._answer_mesh), (3, self._deadline),
        ]  # fmt: skip
        if streams:
            self._kinds += [(4, self._stream), (10, self._message)]
        self._weights = [weight for weight, _ in self._kinds]

    def blow(self, count: int) -> int:
        """Send about `count` frames; returns how many."""
        for _ in range(count):
            if self._dice.random() < self._fatal_share:
                self._fatal()
            else:
                self._dice.choices(self._kinds, self._weights)[0][1]()
        return count

    def open_calls(self) -> list[Call]:
        return [call for call in self.wire.calls.values() if not call.ended]

    def settle(self, most: int) -> None:
        """Cancel until at most so many calls are open, and wait until the worker has answered the others."""
        for call in self.open_calls()[: -most or None]:
            self.wire.cancel(call)
        self.wire.until(lambda: len(self.open_calls()) <= most or self.wire.data_ended, "the answers of the cancelled")
        for call_id in [call_id for call_id, call in self.wire.calls.items() if call.ended][:-100]:
            del self.wire.calls[call_id]
            self.wire.forgotten.add(call_id)
        self._incomplete = [call for call in self._incomplete if not call.ended]
        self._streams = [call for call in self._streams if not call.ended]

    def next_id(self) -> int:
        """An id that no early cancel has named."""
        while (call_id := self.wire.next_id()) in self._early:
            pass
        return call_id

    # -- what a watcher may send ---------------------------------------------

    def _body(self, most: int = 200) -> bytes:
        return b"x" + self._dice.randbytes(self._dice.randrange(most))

    def _echo(self) -> None:
        self.wire.open(self._body())

    def _command(self) -> None:
        self.wire.open(self._dice.choice(COMMANDS))

    def _deadline(self) -> None:
        metadata = {"headers": {"x": "y"}} if self._dice.random() < 0.5 else None
        self.wire.open(self._body(), deadline_ms=self._dice.choice((1, 1000, 2**32 - 1)), metadata=metadata)

    def _begin_input(self) -> None:
        self._incomplete.append(self.wire.open(self._body(), whole=False))

    def _more_input(self) -> None:
        if self._incomplete:
            call = self._dice.choice(self._incomplete)
            last = self._dice.random() < 0.4
            self.wire.more(call, self._body(), last=last)
            if last:
                self._incomplete.remove(call)

    def _stream(self) -> None:
        self._streams.append(self.wire.open_stream(self._dice.choice(STREAM_COMMANDS)))

    def _message(self) -> None:
        if self._streams:
            call = self._dice.choice(self._streams)
            self.wire.send_message(call, self._body(2000), self._dice.randrange(3))
            if self._dice.random() < 0.2:
                self.wire.end_input(call)
                self._streams.remove(call)

    def _cancel(self) -> None:
        if self.wire.calls:
            self.wire.cancel(self._dice.choice(list(self.wire.calls.values())[-60:]))

    def _cancel_early(self) -> None:
        call_id = self.wire.newest + self._dice.randint(1, 200)
        self._early.add(call_id)
        self.wire.send_control(pack(call_id, CANCEL))

    def _credit(self) -> None:
        if self.wire.calls:
            call = self._dice.choice(list(self.wire.calls.values())[-60:])
            self.wire.credit(call, self._dice.choice((1, 1000, 100_000)))

    def _answer_mesh(self) -> None:
        waiting = [mesh for mesh in self.wire.mesh[-20:] if not mesh.answered and not mesh.cancelled]
        for mesh in waiting:
            mesh.answered = True
            if self._dice.random() < 0.5:
                self.wire.answer_mesh(mesh, self._body())
            else:
                self.wire.fail_mesh(mesh, "busy", "come again")

    # -- what crosses, and what is odd -------------------------------------------

    def _unknown_id(self) -> int:
        return MESH_BIT - 1 - self._dice.randrange(1000)

    def _late_data(self) -> None:
        self.wire.send(pack(self._unknown_id(), DATA, self._body(), self._dice.randrange(32)))

    def _late_credit(self) -> None:
        self.wire.send_control(pack_credit(self._unknown_id(), self._dice.choice((1, 2**32 - 1))))

    def _late_mesh(self) -> None:
        mesh_id = 2**32 - 1 - self._dice.randrange(1000)
        error = json.dumps({"code": "x", "message": "y"}).encode()
        kind, payload = self._dice.choice(((REPLY, bytes(15)), (DATA, b"x"), (ERROR, error), (CREDIT, b"\0\0\0\1")))
        self.wire.send_control(pack(mesh_id, kind, payload, self._dice.randrange(2)))

    def _odd_flags(self) -> None:
        call, data = self.wire.prepare(self._body(), whole=False)
        flags = self._dice.choice((LAST, LAST | 4, LAST | 32, LAST | 128, 64))
        self.wire.send(data[:9] + bytes([flags]) + data[10:])
        if not flags & LAST:
            self._incomplete.append(call)

    # -- what no watcher may send -----------------------------------------------

    def _fatal(self) -> None:
        self._dice.choice((self._bad_length, self._bad_kind, self._bad_open, self._cut_open, self._bad_control))()

    def _bad_length(self) -> None:
        length = self._dice.randint(MAX_FRAME_BYTES + 1, 2**32 - 1)
        self.wire.send(HEADER.pack(length, self._unknown_id(), DATA, 0))

    def _bad_kind(self) -> None:
        self.wire.send(pack(self._dice.choice((0, self._unknown_id())), self._dice.randint(12, 255), self._body()))

    def _bad_control(self) -> None:
        self.wire.send_control(pack(0, self._dice.randint(12, 255), self._body()))

    def _bad_open(self) -> None:
        """One byte of an OPEN's prefix or metadata is another."""
        _, data = self.wire.prepare(self._dice.choice(COMMANDS[:-1]), metadata={"headers": {"x": "y"}})
        position = self._dice.randrange(HEADER.size, HEADER.size + 30)
        self.wire.send(data[:position] + self._dice.randbytes(1) + data[position + 1 :])

    def _cut_open(self) -> None:
        _, data = self.wire.prepare(b"x" * 10)
        payload = data[HEADER.size : self._dice.randrange(HEADER.size, len(data))]
        self.wire.send(HEADER.pack(len(payload), *HEADER.unpack(data[: HEADER.size])[1:]) + payload)
