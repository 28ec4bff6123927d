"""Several calls in one run of the handler, where the worker says that it can."""

from __future__ import annotations

import json

import pytest

from dcf.rpc.frames import WINDOW_BYTES
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command, pattern
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.ledger import Call
from tests.worker_conformance.wire import Wire

LARGEST = 8


@pytest.fixture
def batching(start: Start, kind: Kind) -> Wire:
    """A worker with one slot whose handler takes batches."""
    wire = start(handler="Plain", slots=1, batch_max_size=LARGEST, ready=False)
    wire.until(lambda: wire.state, "STATE")
    kind.needs(kinds.BATCH, has=wire.state["state"] == "ready" and "batch" in wire.state)
    return wire


def where(call: Call) -> dict[str, int]:
    """In which place of how large a batch the call was."""
    return dict(json.loads(call.body))


def test_worker_that_batches_says_the_size_that_hello_gave(batching: Wire) -> None:
    assert batching.state["batch"] == LARGEST
    assert batching.state["slots"] == 1


def test_no_call_starts_by_itself(batching: Wire, holds: Holds) -> None:
    calls = [batching.open(holds.hold(name)) for name in ("a", "b")]
    batching.barrier(5)
    assert holds.started() == []
    assert not any(call.began for call in calls)

    for name in ("a", "b"):
        holds.release(name)
    batching.send_batch(*calls)

    assert [where(batching.answer(call)) for call in calls] == [{"number": n, "size": 2} for n in (0, 1)]


def test_batch_frame_says_which_calls_run_together_and_in_which_order(batching: Wire) -> None:
    calls = [batching.open(command("size")) for _ in range(6)]
    batching.send_batch(calls[4], calls[1], calls[3])
    batching.send_batch(calls[0])
    batching.send_batch(calls[2], calls[5])

    found = {number: where(batching.answer(call)) for number, call in enumerate(calls)}

    assert found == {
        4: {"number": 0, "size": 3}, 1: {"number": 1, "size": 3}, 3: {"number": 2, "size": 3},
        0: {"number": 0, "size": 1},
        2: {"number": 0, "size": 2}, 5: {"number": 1, "size": 2},
    }  # fmt: skip


def test_error_of_one_call_of_a_batch_is_its_own(batching: Wire) -> None:
    calls = [
        batching.open(body)
        for body in (command("size"), command("fail", message="bad"), command("refuse", message="no"), command("size"))
    ]
    batching.send_batch(*calls)
    for call in calls:
        batching.answer(call)

    assert [call.code for call in calls] == ["", "handler_error", "invalid_input", ""]
    assert "bad" in calls[1].message
    assert calls[2].message == "no"


def test_error_of_the_whole_run_is_the_answer_of_each(batching: Wire) -> None:
    calls = [batching.open(body) for body in (command("size"), command("fail_all", message="out of memory"))]
    batching.send_batch(*calls)

    for call in calls:
        assert batching.answer(call).code == "handler_error"
        assert "out of memory" in call.message


def test_wrong_number_of_results_is_an_error_of_each(batching: Wire) -> None:
    calls = [batching.open(body) for body in (command("size"), command("short"), command("size"))]
    batching.send_batch(*calls)

    assert [batching.answer(call).code for call in calls] == ["handler_error"] * 3
    again = batching.open(command("size"))
    batching.send_batch(again)
    assert where(batching.answer(again)) == {"number": 0, "size": 1}


def test_call_that_was_cancelled_meanwhile_is_left_out(batching: Wire) -> None:
    calls = [batching.open(command("size")) for _ in range(3)]
    batching.barrier()
    batching.cancel(calls[1])
    assert batching.answer(calls[1]).code == "client_gone"

    batching.send_batch(*calls)

    assert where(batching.answer(calls[0])) == {"number": 0, "size": 2}
    assert where(batching.answer(calls[2])) == {"number": 1, "size": 2}


def test_batch_of_which_nobody_waits_runs_nothing(batching: Wire, holds: Holds) -> None:
    calls = [batching.open(holds.hold(name)) for name in ("a", "b")]
    batching.barrier()
    for call in calls:
        batching.cancel(call)
        assert batching.answer(call).code == "client_gone"
    batching.send_batch(*calls)

    after = batching.open(command("size"))
    batching.send_batch(after)

    assert where(batching.answer(after)) == {"number": 0, "size": 1}
    assert holds.started() == []


def test_call_that_is_cancelled_while_its_batch_runs_is_answered_once_and_the_others_go_on(
    batching: Wire, holds: Holds
) -> None:  # fmt: skip
    calls = [batching.open(holds.hold("a")), batching.open(command("size"))]
    batching.send_batch(*calls)
    holds.until_started(batching, "a")
    batching.cancel(calls[1])
    batching.barrier()
    holds.release("a")

    assert where(batching.answer(calls[0])) == {"number": 0, "size": 2}
    batching.answer(calls[1])
    batching.barrier(3)


def test_no_more_batches_run_at_once_than_there_are_slots(batching: Wire, holds: Holds) -> None:
    calls = [batching.open(holds.hold(name)) for name in ("a", "b")]
    batching.send_batch(calls[0])
    batching.send_batch(calls[1])
    holds.until_started(batching, "a")
    batching.barrier(5)
    assert holds.started() == ["a"]

    holds.release("a")
    holds.release("b")
    for call in calls:
        batching.answer(call)

    assert holds.lines() == ["started a", "ended a", "started b", "ended b"]


def test_large_inputs_and_answers_travel_in_batches(batching: Wire) -> None:
    size = 2 * WINDOW_BYTES + 3
    padded = command("bytes", size=size, padding="x" * size)
    calls = [batching.open(padded) for _ in range(2)] + [batching.open(command("size"))]
    for call in calls:
        batching.until(lambda call=call: not call.rest, "the whole input")
    batching.send_batch(*calls)

    assert [batching.answer(call).body for call in calls[:2]] == [pattern(size)] * 2
    assert where(batching.answer(calls[2])) == {"number": 2, "size": 3}
