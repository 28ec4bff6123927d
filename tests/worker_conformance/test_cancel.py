"""Nobody waits any more: each call is still answered exactly once, and what need not run does not.

That nothing comes after an answer's last frame is checked in every test (ledger.py).
"""

from __future__ import annotations

import json

import pytest

from dcf.rpc.frames import CANCEL, MESH_BIT, STREAM_WINDOW_BYTES, WINDOW_BYTES, pack
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import Wire


@pytest.fixture
def worker(own_worker: Wire) -> Wire:
    """Its call ids begin with the test."""
    return own_worker


LARGEST_ID = MESH_BIT - 1


def cancel_early(worker: Wire, *call_ids: int) -> None:
    """Have CANCEL of these ids read before their OPEN is sent."""
    worker.send_control(b"".join(pack(call_id, CANCEL) for call_id in call_ids))
    worker.until_read(worker.control)


def see(worker: Wire, call_id: int) -> None:
    """Make this the newest id that the worker has seen, and the next one of ours the one after it."""
    assert worker.call(b"x", call_id=call_id).body == b"x"


def test_cancel_that_comes_before_its_open_is_kept_and_the_call_never_runs(worker: Wire, holds: Holds) -> None:
    wanted = worker.next_id() + 2
    cancel_early(worker, wanted)
    worker.barrier()
    worker.newest = wanted - 1

    call = worker.open(holds.hold("a"))

    assert worker.answer(call).code == "client_gone"
    worker.still_echoes()
    assert holds.started() == []


@pytest.mark.parametrize("stream", [False, True])
def test_early_cancel_of_a_call_whose_input_is_not_whole_answers_it_at_open(
    worker: Wire, kind: Kind, stream: bool
) -> None:
    if stream:
        kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    cancel_early(worker, 7)
    worker.barrier()
    worker.newest = 6

    call = worker.open(b"", whole=False, stream=stream)

    assert worker.answer(call).code == "client_gone"


def test_early_cancels_hold_for_their_own_calls_alone(worker: Wire) -> None:
    cancel_early(worker, 16, 12, 14)
    worker.newest = 0
    worker.barrier()
    worker.newest = 9

    answers = {call_id: worker.call(b"x", call_id=call_id) for call_id in range(10, 20)}

    assert [call_id for call_id, call in answers.items() if call.code == "client_gone"] == [12, 14, 16]
    assert all(call.code or call.body == b"x" for call in answers.values())


def test_call_that_waits_for_a_slot_is_answered_at_once_and_never_runs(
    start: Start, holds: Holds, kind: Kind
) -> None:  # fmt: skip
    worker = start(slots=1)
    running = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")
    waiting = [worker.open(holds.hold(name)) for name in ("b", "c")]
    if kind.reads_while_it_runs:
        worker.barrier()  # no early cancel: the worker has both

    worker.cancel(waiting[0])
    if kind.reads_while_it_runs:
        assert worker.answer(waiting[0]).code == "client_gone"
        assert not running.ended
    worker.control_barrier()
    holds.release("a")
    holds.release("c")

    assert worker.answer(waiting[0]).code == "client_gone"
    assert worker.answer(running).body == b"held a"
    assert worker.answer(waiting[1]).body == b"held c"
    worker.still_echoes()
    assert holds.started() == ["a", "c"]


def test_call_whose_input_is_not_whole_is_answered_at_once_and_its_rest_ignored(worker: Wire) -> None:
    call = worker.open(b"part", whole=False)
    worker.barrier()
    worker.cancel(call)

    assert worker.answer(call).code == "client_gone"
    call.ended = False  # its rest crosses the answer
    worker.more(call, b"rest", last=False)
    worker.more(call, b"end", last=True)
    call.ended = True
    worker.still_echoes()


@pytest.mark.parametrize("do", ["hold", "wait"])
def test_running_handler_is_told_and_its_slot_is_free_again(start: Start, holds: Holds, do: str) -> None:
    worker = start(slots=1)
    call = worker.open(holds.hold("a") if do == "hold" else command("wait"))
    if do == "hold":
        holds.until_started(worker, "a")
    else:
        worker.until_read(worker.data)
    worker.cancel(call)

    worker.answer(call)

    assert call.code in ("", "client_gone")
    worker.still_echoes()
    if do == "hold":
        assert holds.lines() == ["started a", "ended a"]


def test_cancelled_call_is_answered_once_although_its_handler_returns_a_result(worker: Wire, holds: Holds) -> None:
    calls = [worker.open(holds.hold(f"n{number}")) for number in range(worker.state["slots"])]
    for number in range(1 if worker.state["slots"] == 1 else 2):
        holds.until_started(worker, f"n{number}")

    for number, call in enumerate(calls):
        worker.cancel(call)
        holds.release(f"n{number}")

    for call in calls:
        worker.answer(call)
    worker.barrier(5)
    worker.still_echoes()


def test_call_that_is_cancelled_twice_is_answered_once(worker: Wire, holds: Holds) -> None:
    call = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")
    worker.cancel(call)
    worker.cancel(call)

    worker.answer(call)

    worker.barrier(3)
    worker.still_echoes()


def test_calls_that_are_cancelled_at_any_moment_are_answered_once_each(worker: Wire) -> None:
    calls = []
    for number in range(300):
        calls.append(worker.open(b"x" * (number % 7)))
        if number % 3:
            worker.cancel(calls[number - number % 2])

    for call in calls:
        worker.answer(call)
        assert call.code in ("", "client_gone")
    worker.barrier(3)
    worker.still_echoes()


def test_late_cancel_is_ignored(worker: Wire) -> None:
    for _ in range(20):
        call = worker.call(b"x")
        worker.cancel(call)
    worker.until_read(worker.control)

    worker.barrier()
    worker.still_echoes()


def test_large_answer_that_waits_for_credit_ends_with_an_error_in_place_of_its_rest(worker: Wire) -> None:
    calls = [worker.open(command("bytes", size=2 * WINDOW_BYTES), auto_credit=False) for _ in range(2)]
    for call in calls:
        worker.until(lambda call=call: call.received == WINDOW_BYTES, "a whole window of the answer")

    worker.cancel(calls[1])
    worker.until(lambda: calls[1].ended, "the end of the cancelled answer")

    assert calls[1].code == "client_gone"
    assert not calls[0].ended
    calls[0].auto_credit = True
    worker.credit(calls[0], WINDOW_BYTES)
    worker.answer(calls[0])
    worker.still_echoes()


# -- streams -------------------------------------------------------------------


def test_stream_that_waits_for_credit_is_ended(start: Start, kind: Kind) -> None:
    worker = start(slots=1)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream(command("count", count=5000, size=100), auto_credit=False)
    worker.until(lambda: call.received >= STREAM_WINDOW_BYTES, "a whole window of the stream")

    worker.cancel(call)

    assert worker.answer(call).code in ("", "client_gone")
    assert len(call.messages) < 5000
    worker.still_echoes()


@pytest.mark.parametrize("do", ["wait", "echo", "nothing yet"])
def test_stream_that_waits_for_input_is_ended(start: Start, kind: Kind, holds: Holds, do: str) -> None:
    worker = start(slots=1)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream()
    if do == "wait":
        worker.send_message(call, holds.hold("a", "wait"))
        worker.until(lambda: call.messages == [b"first"], "the first message")
    elif do == "echo":
        worker.send_message(call, command("echo"))
        worker.send_message(call, b"one")
        worker.until(lambda: call.messages == [b"one"], "the first message")
    else:
        worker.barrier()

    worker.cancel(call)

    assert worker.answer(call).code in ("", "client_gone")
    worker.still_echoes()
    if do == "wait":
        worker.until(lambda: holds.lines() == ["started a", "ended a"], "the end of the handler")


def test_stream_that_waits_for_a_slot_is_answered_at_once_and_never_runs(
    start: Start, kind: Kind, holds: Holds
) -> None:  # fmt: skip
    worker = start(slots=1)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    running = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")
    waiting = worker.open_stream(holds.hold("b", "wait"))
    worker.barrier()

    worker.cancel(waiting)

    assert worker.answer(waiting).code == "client_gone"
    assert not running.ended
    holds.release("a")
    worker.answer(running)
    worker.still_echoes()
    assert holds.started() == ["a"]


def test_generator_is_closed_where_nobody_waits_for_its_stream(start: Start, kind: Kind, holds: Holds) -> None:
    worker = start(slots=1)
    has = worker.call(command("stream", stream="nothing")).code != "invalid_input"
    kind.needs(kinds.GENERATORS, has=has)
    call = worker.open(json.dumps({**json.loads(holds.hold("a", "stream")), "stream": "wait"}).encode())
    worker.until(lambda: call.messages == [b"first"], "the first message")

    worker.cancel(call)

    worker.answer(call)
    worker.still_echoes()
    assert holds.lines() == ["started a", "ended a"]


# -- ids -----------------------------------------------------------------------


def test_ids_begin_again_after_the_largest(worker: Wire) -> None:
    for call_id in (LARGEST_ID // 3, LARGEST_ID // 3 * 2, LARGEST_ID - 1, LARGEST_ID, 1, 2, 3):
        see(worker, call_id)


def test_cancel_of_an_id_after_the_wrap_is_early_and_one_of_before_it_is_late(worker: Wire) -> None:
    for call_id in (LARGEST_ID // 3, LARGEST_ID // 3 * 2, LARGEST_ID - 1, LARGEST_ID):
        see(worker, call_id)
    cancel_early(worker, 3, LARGEST_ID - 5)
    worker.barrier()

    answers = [worker.call(b"x", call_id=call_id) for call_id in (2, 3, 4)]

    assert [call.code for call in answers] == ["", "client_gone", ""]


def test_late_cancel_does_not_hit_the_call_that_has_its_id_after_the_wrap(worker: Wire) -> None:
    see(worker, 5)
    see(worker, 6)
    cancel_early(worker, 5)
    worker.barrier()
    for call_id in (LARGEST_ID // 3, LARGEST_ID // 3 * 2, LARGEST_ID, 4, 5):
        see(worker, call_id)
