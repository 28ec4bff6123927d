"""A watcher gone wrong: the worker ends and says so, it never guesses. What merely crossed is ignored."""

from __future__ import annotations

import json

import pytest

from dcf.rpc.frames import (
    BATCH,
    CANCEL,
    CREDIT,
    DATA,
    ERROR,
    HEADER,
    HELLO,
    LAST,
    MAX_FRAME_BYTES,
    MESH_BIT,
    OPEN,
    OPEN_PREFIX,
    REPLY,
    REPLY_PREFIX,
    pack,
    pack_credit,
)
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import Wire


@pytest.fixture
def worker(own_worker: Wire) -> Wire:
    """Each ends."""
    return own_worker


BAD_DATA = {
    "length over the limit": HEADER.pack(MAX_FRAME_BYTES + 1, 1, OPEN, LAST),
    "largest length": HEADER.pack(2**32 - 1, 1, DATA, 0),
    "OPEN without a prefix": pack(1, OPEN, b"", LAST),
    "OPEN shorter than its prefix": pack(1, OPEN, b"\0" * (OPEN_PREFIX.size - 1), LAST),
    "OPEN shorter than its invocation id": pack(1, OPEN, OPEN_PREFIX.pack(0, 9, 0) + b"x", LAST),
    "OPEN shorter than its metadata": pack(1, OPEN, OPEN_PREFIX.pack(0, 0, 9) + b"{}", LAST),
    "OPEN with the largest metadata": pack(1, OPEN, OPEN_PREFIX.pack(0, 0, 2**32 - 1) + b"{}", LAST),
    "unknown kind": pack(0, 77),
    "kind 0": pack(0, 0),
    "the first kind that is not there yet": pack(0, 12),
    "the largest kind": pack(0, 255, b"x", LAST),
}
BAD_CONTROL = {
    "length over the limit": HEADER.pack(MAX_FRAME_BYTES + 1, 1, CREDIT, 0),
    "unknown kind": pack(0, 77),
    "kind 0": pack(0, 0),
}
BAD_HELLO = {
    "no JSON": b"{",
    "not UTF-8": b'{"a": "\xff"}',
    "empty": b"",
    "a list": b"[]",
}
BAD_MESH = {
    "REPLY shorter than its prefix": (REPLY, b"\0" * (REPLY_PREFIX.size - 1)),
    "REPLY shorter than its metadata": (REPLY, REPLY_PREFIX.pack(0, 0, 0, 0, 9) + b"{}"),
    "ERROR that is no JSON": (ERROR, b"{"),
    "ERROR that is not UTF-8": (ERROR, b"\xff"),
    "unknown kind": (77, b""),
}


def ends_with_a_complaint(worker: Wire) -> None:
    status = worker.exit_status()
    assert status > 0, f"exit status {status}"
    assert worker.stderr.read_text(errors="replace").strip(), "nothing on standard error"


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_frame_on_the_data_socket_ends_the_worker(worker: Wire, name: str) -> None:
    worker.send(BAD_DATA[name])

    ends_with_a_complaint(worker)


@pytest.mark.parametrize("name", BAD_CONTROL)
def test_bad_frame_on_the_control_socket_ends_the_worker(worker: Wire, name: str) -> None:
    worker.send_control(BAD_CONTROL[name])

    ends_with_a_complaint(worker)


def test_unknown_kind_for_an_open_call_ends_the_worker(worker: Wire) -> None:
    call = worker.open(b"part", whole=False)
    worker.send(pack(call.id, 77))

    ends_with_a_complaint(worker)


@pytest.mark.parametrize("name", BAD_HELLO)
def test_hello_that_cannot_be_read_ends_the_worker(start: Start, name: str) -> None:
    worker = start(hello=False)
    worker.send(pack(0, HELLO, BAD_HELLO[name]))

    ends_with_a_complaint(worker)


@pytest.mark.parametrize("name", BAD_MESH)
def test_answer_of_a_mesh_call_that_cannot_be_read_ends_the_worker(worker: Wire, name: str) -> None:
    worker.open(command("mesh", function="other", text="hi"))
    mesh = worker.until_mesh()
    worker.send_control(pack(mesh.id, BAD_MESH[name][0], BAD_MESH[name][1], LAST))

    ends_with_a_complaint(worker)


def test_bad_frame_on_the_control_socket_ends_the_worker_while_a_handler_runs(worker: Wire, holds: Holds) -> None:
    worker.open(holds.hold("a"))
    holds.until_started(worker, "a")

    worker.send_control(BAD_CONTROL["length over the limit"])

    ends_with_a_complaint(worker)


def test_answers_before_the_bad_frame_are_not_lost(worker: Wire) -> None:
    calls = [worker.call(b"%d" % number) for number in range(5)]
    worker.send(BAD_DATA["OPEN without a prefix"])

    ends_with_a_complaint(worker)
    assert [call.body for call in calls] == [b"0", b"1", b"2", b"3", b"4"]


CROSSED_DATA = {
    "DATA": pack(999, DATA, b"late"),
    "last DATA": pack(999, DATA, b"late", LAST),
    "DATA of the largest length": pack(999, DATA, bytes(MAX_FRAME_BYTES), LAST),
}
CROSSED_CONTROL = {
    "CREDIT": pack_credit(999_999, 5),
    "CANCEL of an answered call": pack(1, CANCEL),
    "CREDIT of a mesh call": pack_credit(MESH_BIT | 5, 5),
    "REPLY of a mesh call": pack(MESH_BIT | 5, REPLY, REPLY_PREFIX.pack(0, 0, 0, 0, 0) + b"x", LAST),
    "DATA of a mesh call": pack(MESH_BIT | 5, DATA, b"x"),
    "ERROR of a mesh call": pack(MESH_BIT | 5, ERROR, json.dumps({"code": "x", "message": "y"}).encode(), LAST),
}


@pytest.mark.parametrize("name", CROSSED_DATA)
def test_frame_of_an_unknown_call_on_the_data_socket_is_ignored(worker: Wire, name: str) -> None:
    worker.send(CROSSED_DATA[name])

    worker.still_echoes()


@pytest.mark.parametrize("name", CROSSED_CONTROL)
def test_frame_of_an_unknown_call_on_the_control_socket_is_ignored(worker: Wire, name: str) -> None:
    worker.still_echoes()
    worker.send_control(CROSSED_CONTROL[name])
    worker.until_read(worker.control)

    worker.barrier()
    worker.still_echoes()


def test_batch_of_unknown_calls_is_ignored(start: Start, kind: Kind) -> None:
    worker = start(handler="Plain", batch_max_size=4, ready=False)
    worker.until(lambda: worker.state, "STATE")
    kind.needs(kinds.BATCH, has=worker.state.get("batch") == 4)
    worker.send(pack(0, BATCH, (999).to_bytes(4, "big")))
    call = worker.open(command("size"))
    worker.send_batch(call)

    assert json.loads(worker.answer(call).body) == {"number": 0, "size": 1}
