"""A handler calls another function: the worker opens the call, the watcher answers it on the control socket.

The form of its frames is checked in every test (ledger.py).
"""

from __future__ import annotations

import pytest

from dcf.rpc.frames import CREDIT, DATA, JSON, LAST, MESH_BIT, PIECE_BYTES, TEXT, WINDOW_BYTES, pack, pack_credit
from tests.worker_conformance.conftest import Start
from tests.worker_conformance.inputs import command, pattern
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.ledger import Call, MeshCall
from tests.worker_conformance.wire import Wire

BIG = 3 * WINDOW_BYTES + 5


def calling(worker: Wire, text: str = "hi", function: str = "other") -> tuple[Call, MeshCall]:
    """A call whose handler waits for the answer of another function."""
    number = len(worker.mesh) + 1
    call = worker.open(command("mesh", function=function, text=text))
    return call, worker.until_mesh(number)


def test_mesh_call_names_its_function_and_its_parent(worker: Wire) -> None:
    worker.still_echoes()
    call, mesh = calling(worker, "grün", "other-one")

    assert mesh.id & MESH_BIT
    assert (mesh.function, mesh.parent) == ("other-one", call.id)
    assert (mesh.body.decode(), mesh.whole) == ("grün", True)
    worker.answer_mesh(mesh, b"there")
    assert worker.answer(call).body == b"there"


@pytest.mark.parametrize("content", [TEXT, JSON])
def test_answer_of_any_content_kind_reaches_the_handler(worker: Wire, content: int) -> None:
    call, mesh = calling(worker)
    worker.answer_mesh(mesh, b'"there"', content)

    assert worker.answer(call).body == b'"there"'


def test_mesh_call_may_be_empty_and_be_answered_with_nothing(worker: Wire) -> None:
    call, mesh = calling(worker, "")
    assert (mesh.body, mesh.whole) == (b"", True)
    worker.answer_mesh(mesh, b"")

    answered = worker.answer(call)
    assert (answered.body, answered.code) == (b"", "")


def test_error_reaches_the_handler_with_its_code(worker: Wire) -> None:
    call, mesh = calling(worker)
    worker.fail_mesh(mesh, "function_not_found", "there is no other")

    assert worker.answer(call).body == b"function_not_found: there is no other"
    worker.still_echoes()


def test_error_may_come_after_a_part_of_the_answer(worker: Wire) -> None:
    call, mesh = calling(worker)
    worker.answer_mesh(mesh, pattern(WINDOW_BYTES))
    # Another one, cut short: its first piece, and then the error.
    worker.answer(call)
    call, mesh = calling(worker)
    mesh.rest = [(b"never sent", LAST)]
    worker.send_control(pack(mesh.id, 5, b"\0" * 15 + b"part"))
    worker.fail_mesh(mesh, "replica_lost", "it broke")

    assert worker.answer(call).body == b"replica_lost: it broke"


def test_large_input_of_a_mesh_call_follows_its_credit(worker: Wire) -> None:
    call = worker.open(command("mesh", function="other", size=BIG))
    mesh = worker.until_mesh()
    worker.until(lambda: mesh.whole, "the whole input of the mesh call")

    assert mesh.body == pattern(BIG)
    worker.answer_mesh(mesh, b"there")
    assert worker.answer(call).body == b"there"


def test_large_input_of_a_mesh_call_stops_at_its_window(worker: Wire, kind: Kind) -> None:
    worker.mesh_credit = False
    call = worker.open(command("mesh", function="other", size=BIG))
    mesh = worker.until_mesh()
    worker.until(lambda: mesh.received == WINDOW_BYTES, "a whole window of the mesh call")
    if kind.reads_while_it_runs:
        worker.barrier(3)
    assert not mesh.whole

    worker.mesh_credit = True
    worker.credit_mesh(mesh, WINDOW_BYTES)
    worker.until(lambda: mesh.whole, "the whole input of the mesh call")
    worker.answer_mesh(mesh, b"there")
    assert worker.answer(call).body == b"there"


def test_large_answer_of_a_mesh_call_is_credited_piece_by_piece(worker: Wire) -> None:
    call, mesh = calling(worker)
    worker.answer_mesh(mesh, pattern(BIG))

    assert worker.answer(call).body == pattern(BIG)
    pieces = [frame for frame in worker.frames if frame.call_id == mesh.id and frame.kind == CREDIT]
    assert pieces
    assert BIG - WINDOW_BYTES - 2 * PIECE_BYTES <= mesh.given <= BIG


def test_calls_at_once_have_each_their_own_parent_and_answer(worker: Wire, kind: Kind) -> None:
    if not kind.reads_while_it_runs:
        pytest.skip(f"{kind.name} is for one slot")
    calls = [worker.open(command("mesh", function="other", text=f"{number}")) for number in range(4)]
    worker.until_mesh(4)

    assert len({mesh.id for mesh in worker.mesh}) == 4
    parents = {mesh.body.decode(): mesh.parent for mesh in worker.mesh}
    assert parents == {f"{number}": call.id for number, call in enumerate(calls)}
    for mesh in reversed(worker.mesh):
        worker.answer_mesh(mesh, b"for " + mesh.body)
    assert [worker.answer(call).body for call in calls] == [b"for %d" % number for number in range(4)]


def test_mesh_call_is_cancelled_with_its_parent(start: Start) -> None:
    worker = start(slots=1)
    call, mesh = calling(worker)
    worker.cancel(call)

    worker.until(lambda: mesh.cancelled, "CANCEL of the mesh call")
    worker.answer(call)

    worker.still_echoes()


def test_mesh_call_that_waits_for_credit_is_cancelled_with_its_parent(start: Start) -> None:
    worker = start(slots=1)
    worker.mesh_credit = False
    call = worker.open(command("mesh", function="other", size=BIG))
    mesh = worker.until_mesh()
    worker.until(lambda: mesh.received == WINDOW_BYTES, "a whole window of the mesh call")
    worker.cancel(call)

    worker.until(lambda: mesh.cancelled, "CANCEL of the mesh call")
    worker.answer(call)

    worker.still_echoes()


def test_mesh_calls_whose_parents_are_cancelled_at_any_moment_hold_no_handler(worker: Wire) -> None:
    calls = []
    for number in range(300):
        calls.append(worker.open(command("mesh", function="other", text="hi")))
        # Some before their OPEN is read, some while they wait for a slot, some as they make their mesh call.
        if number % 10 == 9:
            worker.until_mesh(len(worker.mesh) + 1)
            for call in calls[-10:]:
                worker.cancel(call)
                worker.turn(0)

    for call in calls:
        worker.answer(call)
    worker.still_echoes()


def test_only_the_mesh_calls_of_the_cancelled_parent_end(start: Start, kind: Kind) -> None:
    if not kind.reads_while_it_runs:
        pytest.skip(f"{kind.name} is for one slot")
    worker = start(slots=2)
    (first, mesh), (second, other) = calling(worker), calling(worker)
    worker.cancel(first)
    worker.until(lambda: mesh.cancelled, "CANCEL of the mesh call")
    worker.answer(first)
    worker.barrier(3)

    assert not other.cancelled
    worker.answer_mesh(other, b"there")
    assert worker.answer(second).body == b"there"


def test_answer_that_crosses_the_cancel_of_its_mesh_call_is_ignored(start: Start) -> None:
    worker = start(slots=1)
    call, mesh = calling(worker)
    worker.cancel(call)
    worker.answer_mesh(mesh, pattern(10))
    worker.send_control(pack_credit(mesh.id, 5))
    worker.send_control(pack(mesh.id, DATA, b"x", LAST))
    worker.answer(call)

    call, mesh = calling(worker)
    worker.answer_mesh(mesh, b"there")
    assert worker.answer(call).body == b"there"


def test_mesh_calls_one_after_the_other_have_ids_of_their_own_or_free_ones(worker: Wire) -> None:
    for number in range(20):
        call, mesh = calling(worker, f"{number}")
        worker.answer_mesh(mesh, b"%d" % number)
        assert worker.answer(call).body == b"%d" % number
