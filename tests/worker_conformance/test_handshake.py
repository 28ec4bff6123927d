"""How a worker begins: two HELLOs, the load, and its STATE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcf.rpc.frames import HELLO, PROTOCOL, STATE, pack_json
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Start
from tests.worker_conformance.inputs import hello_of
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import Wire


@pytest.fixture
def worker(own_worker: Wire) -> Wire:
    """Its frames begin with the test."""
    return own_worker


def test_worker_says_hello_without_waiting_for_ours(start: Start) -> None:
    wire = start(hello=False)

    wire.until(lambda: wire.hello, "HELLO")

    assert wire.hello["protocol"] == PROTOCOL
    assert not wire.state


def test_hello_comes_first_and_state_second(worker: Wire) -> None:
    assert [frame.kind for frame in worker.frames] == [HELLO, STATE]


@pytest.mark.parametrize("slots", [1, 3])
def test_slots_are_those_that_hello_gives(start: Start, slots: int) -> None:
    assert start(slots=slots).state["slots"] == slots


def test_worker_chooses_its_slots_where_hello_gives_none(start: Start) -> None:
    wire = start(slots=0)

    assert wire.state["slots"] >= 1
    wire.still_echoes()


def test_keys_of_hello_that_nobody_knows_are_ignored(start: Start) -> None:
    wire = start(colour="blue", nested={"a": [1, None]}, minor_version=7)

    wire.still_echoes()


def test_hello_may_come_byte_by_byte(start: Start, kind: Kind) -> None:
    wire = start(hello=False)
    data = pack_json(0, HELLO, hello_of(source=kind.source, file=kind.file, handler=kind.handler))

    for byte in data[:40]:
        wire.send(bytes([byte]))
        wire.until_read(wire.data)
    wire.send(data[40:])

    wire.until_ready()
    wire.still_echoes()


def test_handler_that_cannot_be_loaded_is_a_failed_state_and_the_end(start: Start) -> None:
    wire = start(environ={"CONFORMANCE_FAIL": "1"}, ready=False)

    wire.until(lambda: wire.state, "STATE")

    assert wire.state["state"] == "failed"
    assert wire.state["cause"].strip()
    assert "\n" not in wire.state["cause"]
    assert "CONFORMANCE_FAIL" in wire.state["cause"]
    assert isinstance(wire.state.get("traceback", ""), str)
    wire.exit_status()


@pytest.mark.parametrize(
    ("wanted", "named"), [({"handler_file": "nowhere.x"}, "nowhere.x"), ({"handler": "Nobody"}, "Nobody")]
)
def test_handler_or_file_that_is_not_there_is_a_failed_state_that_names_it(
    start: Start, kind: Kind, wanted: dict[str, str], named: str
) -> None:
    kind.needs(kinds.LOADS_FILES, has=bool(kind.file))
    wire = start(**wanted, ready=False)

    wire.until(lambda: wire.state, "STATE")

    assert wire.state["state"] == "failed"
    assert named in wire.state["cause"]
    wire.exit_status()


def test_state_says_whether_the_handler_takes_streams_of_input(worker: Wire, kind: Kind) -> None:
    assert isinstance(worker.state.get("bidirectional", False), bool)
    assert isinstance(worker.state.get("streams", False), bool)
    if kind.can is not None:
        assert worker.state.get("bidirectional", False) == (kinds.BIDIRECTIONAL in kind.can)


def test_no_program_that_a_handler_starts_inherits_the_sockets(worker: Wire) -> None:
    for descriptor in worker.descriptors:
        path = Path(f"/proc/{worker.process.pid}/fdinfo/{descriptor}")
        if not path.exists():  # the worker has moved it to another number
            continue
        flags = next(line for line in path.read_text().splitlines() if line.startswith("flags:"))
        assert int(flags.split()[1], 8) & os.O_CLOEXEC, flags
    sockets = _sockets_of(worker.process.pid)
    assert len(sockets) >= 2
    assert all(sockets.values()), f"not close-on-exec: {sockets}"


def _sockets_of(pid: int) -> dict[str, bool]:
    """Descriptor to whether it is close-on-exec, for all sockets of a process."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if not os.readlink(link).startswith("socket:"):
                continue
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
        except OSError:
            continue
        found[link.name] = bool(int(info.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC)
    return found
