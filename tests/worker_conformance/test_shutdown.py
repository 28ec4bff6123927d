"""The end: at once, whatever runs, and nothing that was written is lost."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dcf.rpc.frames import WINDOW_BYTES
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import AT_ONCE_S, Wire


@pytest.fixture
def worker(own_worker: Wire) -> Wire:
    """Each ends."""
    return own_worker


WAYS: dict[str, Callable[[Wire], None]] = {
    "SHUTDOWN": Wire.shut_down,
    "the end of the data socket": lambda wire: wire.data.shutdown(socket.SHUT_WR),
    "the end of the control socket": lambda wire: wire.control.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("way", WAYS)
def test_idle_worker_ends_at_once(worker: Wire, way: str) -> None:
    worker.still_echoes()

    WAYS[way](worker)

    assert worker.exit_status(within_s=AT_ONCE_S) == 0


@pytest.mark.parametrize("way", WAYS)
def test_worker_ends_at_once_while_a_handler_runs(worker: Wire, holds: Holds, way: str) -> None:
    call = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")

    WAYS[way](worker)

    worker.exit_status(within_s=AT_ONCE_S)
    assert not call.body


@pytest.mark.parametrize("way", WAYS)
def test_worker_ends_at_once_while_an_answer_waits_for_credit(worker: Wire, way: str) -> None:
    call = worker.open(command("bytes", size=2 * WINDOW_BYTES), auto_credit=False)
    worker.until(lambda: call.received == WINDOW_BYTES, "a whole window of the answer")

    WAYS[way](worker)

    worker.exit_status(within_s=AT_ONCE_S)


@pytest.mark.parametrize("way", WAYS)
def test_worker_ends_at_once_while_a_stream_waits_for_input(worker: Wire, kind: Kind, way: str) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream(command("echo"), b"one")
    worker.until(lambda: call.messages == [b"one"], "the first message")

    WAYS[way](worker)

    worker.exit_status(within_s=AT_ONCE_S)


@pytest.mark.parametrize("way", WAYS)
def test_worker_ends_at_once_while_a_mesh_call_runs(worker: Wire, way: str) -> None:
    worker.open(command("mesh", function="other", text="hi"))
    worker.until_mesh()

    WAYS[way](worker)

    worker.exit_status(within_s=AT_ONCE_S)


@pytest.mark.parametrize("way", ["SHUTDOWN", "the end of the control socket"])
def test_worker_that_waits_for_hello_ends_at_once_with_both_sockets(start: Start, way: str) -> None:
    worker = start(hello=False)
    worker.until(lambda: worker.hello, "HELLO")

    WAYS[way](worker)
    worker.data.shutdown(socket.SHUT_WR)

    worker.exit_status(within_s=AT_ONCE_S)


def test_what_handlers_printed_is_not_lost(worker: Wire, holds: Holds) -> None:
    for number in range(50):
        worker.call(command("print", text=f"line {number}"))
    worker.open(holds.hold("a"))
    holds.until_started(worker, "a")

    worker.shut_down()
    worker.exit_status(within_s=AT_ONCE_S)

    assert worker.stdout.read_text().splitlines() == [f"line {number}" for number in range(50)]


def test_interrupt_is_not_for_the_worker(worker: Wire) -> None:
    for _ in range(3):
        os.kill(worker.process.pid, signal.SIGINT)
        worker.still_echoes()


def test_interrupt_does_not_disturb_a_handler(worker: Wire, holds: Holds) -> None:
    call = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")
    os.kill(worker.process.pid, signal.SIGINT)
    holds.release("a")

    assert worker.answer(call).body == b"held a"
    assert worker.process.poll() is None


def test_programs_that_a_handler_starts_do_not_inherit_that_interrupts_are_ignored(worker: Wire) -> None:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    ignored = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:"))

    assert not ignored & 1 << (signal.SIGINT - 1)
