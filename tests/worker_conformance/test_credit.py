"""Neither side sends more than the other allows, and a reader allows what it has taken.

That no worker sends beyond its credit is checked in every test (ledger.py).
"""

from __future__ import annotations

import pytest

from dcf.rpc.frames import (
    DATA,
    FRAME_COST_BYTES,
    PIECE_BYTES,
    STREAM_PIECE_BYTES,
    STREAM_WINDOW_BYTES,
    WINDOW_BYTES,
)
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command, pattern
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.ledger import Call
from tests.worker_conformance.wire import Wire

BIG = 3 * WINDOW_BYTES + 5


def stalled_answer(worker: Wire, size: int = BIG) -> Call:
    """A call whose answer has used up its window."""
    call = worker.open(command("bytes", size=size), auto_credit=False)
    worker.until(lambda: call.received == WINDOW_BYTES, "a whole window of the answer")
    return call


def let_flow(worker: Wire, call: Call) -> None:
    """Give the credit that is owed, and go on giving it."""
    call.auto_credit = True
    worker.credit(call, call.received)


def test_large_answer_stops_at_its_window_and_goes_on_with_credit(worker: Wire) -> None:
    call = stalled_answer(worker)
    worker.barrier(3)
    assert call.received == WINDOW_BYTES

    worker.credit(call, PIECE_BYTES)
    worker.until(lambda: call.received == WINDOW_BYTES + PIECE_BYTES, "one more piece")
    worker.barrier(3)
    assert call.received == WINDOW_BYTES + PIECE_BYTES

    call.auto_credit = True
    worker.credit(call, WINDOW_BYTES)
    assert worker.answer(call).body == pattern(BIG)


def test_credit_for_less_than_a_piece_adds_up(worker: Wire) -> None:
    call = stalled_answer(worker, WINDOW_BYTES + 2 * PIECE_BYTES)

    for _ in range(4):
        worker.credit(call, PIECE_BYTES // 2)
        worker.barrier()

    assert worker.answer(call).body == pattern(WINDOW_BYTES + 2 * PIECE_BYTES)


def test_credit_for_half_a_window_at_once_is_enough(worker: Wire) -> None:
    """So much a reader may owe, so no worker may wait for less."""
    call, credited = worker.open(command("bytes", size=BIG), auto_credit=False), 0

    while BIG - credited > WINDOW_BYTES:
        worker.until(lambda owed=credited: call.received - owed >= WINDOW_BYTES // 2, "half a window of the answer")
        worker.credit(call, call.received - credited)
        credited = call.received

    assert worker.answer(call).body == pattern(BIG)


def test_answer_of_one_window_needs_no_credit(worker: Wire) -> None:
    call = worker.open(command("bytes", size=WINDOW_BYTES), auto_credit=False)

    assert worker.answer(call).body == pattern(WINDOW_BYTES)


def test_credit_that_comes_before_the_answer_counts(start: Start, holds: Holds) -> None:
    worker = start(slots=1)
    held = worker.open(holds.hold("a"))
    call = worker.open(command("bytes", size=2 * WINDOW_BYTES), auto_credit=False)
    holds.until_started(worker, "a")
    holds.release("a")
    worker.answer(held)

    worker.credit(call, WINDOW_BYTES)

    assert worker.answer(call).body == pattern(2 * WINDOW_BYTES)


def test_answer_that_waits_for_credit_does_not_hold_its_slot(start: Start) -> None:
    worker = start(slots=1)

    stalled = [stalled_answer(worker) for _ in range(4)]
    for number in range(10):
        assert worker.call(b"%d" % number).body == b"%d" % number
    assert worker.call(command("bytes", size=BIG)).body == pattern(BIG)

    for call in reversed(stalled):
        let_flow(worker, call)
        assert worker.answer(call).body == pattern(BIG)


def test_credit_is_given_for_each_piece_of_an_input(worker: Wire) -> None:
    size = 5 * WINDOW_BYTES
    call = worker.call(pattern(size))

    first_and_last = 2 * PIECE_BYTES
    assert call.given >= size - first_and_last - WINDOW_BYTES
    assert call.given <= size


def test_every_single_piece_is_credited_before_the_next_one_comes(worker: Wire) -> None:
    call = worker.open(b"a" * 10, whole=False)
    for number in range(1, 6):
        owed = 1000 * number
        before = call.given
        worker.more(call, b"b" * owed, last=False)
        worker.until(lambda before=before, owed=owed: call.given >= before + owed, f"credit for piece {number}")
    worker.more(call, b"c", last=True)

    assert worker.answer(call).body == b"a" * 10 + b"b" * 15_000 + b"c"
    assert call.given in (15_000, 15_010), "credit for what was never sent"


def test_inputs_larger_than_the_window_come_side_by_side(worker: Wire) -> None:
    calls = [worker.open(bytes([number]) * BIG) for number in range(4)]

    for number, call in enumerate(calls):
        assert worker.answer(call).body == bytes([number]) * BIG


def test_input_is_read_while_an_answer_waits_for_credit(worker: Wire) -> None:
    stalled = stalled_answer(worker)

    assert worker.call(pattern(BIG)).body == pattern(BIG)

    let_flow(worker, stalled)
    assert worker.answer(stalled).body == pattern(BIG)


# -- streams -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, STREAM_PIECE_BYTES, 3 * STREAM_PIECE_BYTES + 1])
def test_stream_stops_at_its_window_and_goes_on_with_credit(worker: Wire, kind: Kind, size: int) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    count = 2000 if size <= 1000 else 20
    call = worker.open_stream(command("count", count=count, size=size), auto_credit=False)

    worker.until(lambda: call.received >= STREAM_WINDOW_BYTES, "a whole window of the stream")
    worker.barrier(3)
    # ledger.py has looked that the last frame left while there was still some credit.
    assert call.received < STREAM_WINDOW_BYTES + STREAM_PIECE_BYTES + FRAME_COST_BYTES
    assert not call.ended

    call.auto_credit = True
    worker.credit(call, call.received)
    assert worker.answer(call).messages == [pattern(size)] * count


def test_one_byte_of_credit_lets_one_more_frame_of_a_stream_go(worker: Wire, kind: Kind) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream(command("count", count=100, size=5000), auto_credit=False)
    worker.until(lambda: call.received >= STREAM_WINDOW_BYTES, "a whole window of the stream")
    frames = len(call.frames)

    worker.credit(call, call.received - call.allowed + 1)
    worker.until(lambda: len(call.frames) > frames, "one more frame")
    worker.barrier(3)

    assert len(call.frames) == frames + 1
    call.auto_credit = True
    worker.credit(call, STREAM_WINDOW_BYTES)
    assert len(worker.answer(call).messages) == 100


def test_stream_that_waits_for_credit_does_not_stop_the_others(worker: Wire, kind: Kind) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    stalled = worker.open_stream(command("count", count=2000, size=100), auto_credit=False)
    worker.until(lambda: stalled.received >= STREAM_WINDOW_BYTES, "a whole window of the stream")

    other = worker.open_stream(command("count", count=2000, size=100))
    assert worker.answer(other).messages == [pattern(100)] * 2000
    worker.still_echoes()

    assert not stalled.ended
    let_flow(worker, stalled)
    assert worker.answer(stalled).messages == [pattern(100)] * 2000


def test_stream_of_input_begins_without_credit_and_is_given_its_window(worker: Wire, kind: Kind) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))

    call = worker.open_stream()

    worker.until(lambda: call.given >= STREAM_WINDOW_BYTES, "the window")
    if kinds.OWN_WINDOW in (kind.can or ()):
        assert call.given == STREAM_WINDOW_BYTES
    worker.end_input(call)
    worker.answer(call)


def test_consumer_that_takes_nothing_stops_its_sender(worker: Wire, kind: Kind, holds: Holds) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    message = b"m" * (4096 - FRAME_COST_BYTES)
    call = worker.open_stream(holds.hold("a", "take", count=3))
    taken = call.cost(holds.hold("a", "take", count=3)) + 3 * 4096
    for _ in range(2000):
        worker.send_message(call, message)
    worker.end_input(call)
    holds.until_started(worker, "a")
    before = -1
    while call.sent > before:
        before = call.sent
        worker.barrier(5)

    # A worker may make its window larger, but not without an end.
    assert call.sent < 1024 * 1024
    if kinds.OWN_WINDOW in (kind.can or ()):
        assert call.given <= STREAM_WINDOW_BYTES + taken
    holds.release("a")
    assert worker.answer(call).messages == [b"1997"]


def test_taken_messages_are_credited_before_half_of_the_window_is_owed(worker: Wire, kind: Kind) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream(command("echo"))
    for number in range(100):
        worker.send_message(call, b"x" * 1000)
        worker.until(lambda number=number: len(call.messages) > number, f"message {number}")
    worker.barrier(2)

    assert call.sent - (call.given - STREAM_WINDOW_BYTES) < STREAM_WINDOW_BYTES // 2
    worker.end_input(call)
    worker.answer(call)


def test_message_larger_than_the_window_is_credited_while_it_comes(worker: Wire, kind: Kind) -> None:
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    large = pattern(10 * STREAM_WINDOW_BYTES + 3)

    call = worker.open_stream(command("echo"), large, b"small")
    worker.end_input(call)

    assert worker.answer(call).messages == [large, b"small"]
    assert max(len(frame.payload) for frame in call.frames if frame.kind == DATA) <= STREAM_PIECE_BYTES
