"""Answers bit by bit, and inputs bit by bit."""

from __future__ import annotations

import json

import pytest

from dcf.rpc.frames import BYTES, ERROR, JSON, LAST, REPLY, STREAM, STREAM_PIECE_BYTES, TEXT
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command, pattern
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.ledger import Call
from tests.worker_conformance.wire import Wire


@pytest.fixture
def both_ways(worker: Wire, kind: Kind) -> Wire:
    """A worker whose handler takes streams of input."""
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    return worker


def stream(worker: Wire, *messages: bytes) -> Call:
    """The whole answer to a whole stream."""
    call = worker.open_stream(*messages)
    worker.end_input(call)
    return worker.answer(call)


def ends_well(call: Call) -> bool:
    return call.stream_out and not call.code and bool(call.frames[-1].flags & LAST)


def test_messages_of_any_size_come_back_in_order(both_ways: Wire) -> None:
    sizes = (0, 1, STREAM_PIECE_BYTES - 1, STREAM_PIECE_BYTES, STREAM_PIECE_BYTES + 1, 0, 700_001)
    messages = [pattern(size) for size in sizes]

    call = stream(both_ways, command("echo"), *messages)

    assert call.messages == messages
    assert ends_well(call)


def test_many_small_messages_keep_their_order(both_ways: Wire) -> None:
    messages = [b"%d" % number for number in range(3000)]

    assert stream(both_ways, command("echo"), *messages).messages == messages


def test_answers_come_while_the_input_is_still_open(both_ways: Wire) -> None:
    call = both_ways.open_stream(command("echo"))

    for number in range(20):
        both_ways.send_message(call, b"%d" % number)
        both_ways.until(lambda number=number: len(call.messages) == number + 1, f"the echo of message {number}")
    assert not call.ended

    both_ways.end_input(call)
    assert ends_well(both_ways.answer(call))


def test_first_message_leaves_at_the_moment_that_it_is_there(both_ways: Wire, holds: Holds) -> None:
    call = both_ways.open_stream(holds.hold("a", "wait"))

    both_ways.until(lambda: call.messages == [b"first"], "the first message")

    assert not call.ended
    both_ways.end_input(call)
    assert ends_well(both_ways.answer(call))
    assert holds.lines() == ["started a", "ended a"]


def test_messages_of_input_may_have_every_content_kind(both_ways: Wire) -> None:
    call = both_ways.open_stream(command("echo"))
    for content in (BYTES, TEXT, JSON):
        both_ways.send_message(call, b'"%d"' % content, content)
    both_ways.end_input(call)

    assert both_ways.answer(call).messages == [b'"0"', b'"1"', b'"2"']


def test_messages_of_an_answer_say_their_content_kind(both_ways: Wire, kind: Kind) -> None:
    call = stream(both_ways, command("kinds"))

    assert [call.messages[0], call.messages[1], json.loads(call.messages[2])] == [b"bytes", b"text", {"json": 1}]
    kind.needs(kinds.CONTENT_KINDS, has=call.contents != [BYTES] * 3)
    assert call.contents == [BYTES, TEXT, JSON]


def test_stream_without_messages_is_an_empty_stream(both_ways: Wire) -> None:
    call = stream(both_ways, command("nothing"))

    assert call.frames[0].kind == REPLY
    assert (call.messages, ends_well(call)) == ([], True)


def test_input_without_messages_is_an_empty_stream(both_ways: Wire) -> None:
    call = stream(both_ways)

    assert (call.messages, ends_well(call)) == ([], True)


def test_error_before_the_first_message_is_a_plain_error(both_ways: Wire) -> None:
    call = stream(both_ways, command("fail-after", count=0, message="no model"))

    assert [frame.kind for frame in call.frames] == [ERROR]
    assert call.code == "handler_error"
    assert "no model" in call.message


def test_error_after_some_messages_comes_in_place_of_the_rest(both_ways: Wire) -> None:
    call = stream(both_ways, command("fail-after", count=3, message="worn out"))

    assert call.messages == [b"0", b"1", b"2"]
    assert call.code == "handler_error"
    assert "worn out" in call.message
    both_ways.still_echoes()


def test_handler_may_end_its_stream_while_input_still_comes(both_ways: Wire) -> None:
    call = both_ways.open_stream(command("count", count=2, size=5))
    for _ in range(50):
        both_ways.send_message(call, b"too late")

    both_ways.answer(call)

    assert call.messages == [pattern(5)] * 2
    assert ends_well(call)
    both_ways.still_echoes()


def test_stream_holds_its_slot(start: Start, kind: Kind, holds: Holds) -> None:
    worker = start(slots=1)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    call = worker.open_stream(holds.hold("a", "wait"))
    holds.until_started(worker, "a")

    waiting = worker.open(b"next")
    worker.barrier(5)
    assert not waiting.began

    worker.end_input(call)
    worker.answer(call)
    assert worker.answer(waiting).body == b"next"


def test_streams_and_calls_start_in_one_order(start: Start, kind: Kind, holds: Holds) -> None:
    worker = start(slots=1)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))
    calls = [worker.open(holds.hold("a")), worker.open_stream(holds.hold("b", "wait")), worker.open(holds.hold("c"))]
    holds.until_started(worker, "a")
    worker.barrier()
    worker.end_input(calls[1])
    for name in ("a", "c"):
        holds.release(name)

    for call in calls:
        worker.answer(call)

    assert holds.started() == ["a", "b", "c"]


def test_many_streams_run_side_by_side(both_ways: Wire) -> None:
    calls = [both_ways.open_stream(command("echo")) for _ in range(both_ways.state["slots"])]
    for number in range(50):
        for one, call in enumerate(calls):
            both_ways.send_message(call, b"%d-%d" % (one, number))
    for call in calls:
        both_ways.end_input(call)

    for one, call in enumerate(calls):
        assert both_ways.answer(call).messages == [b"%d-%d" % (one, number) for number in range(50)]


def test_message_of_an_answer_over_the_largest_payload_is_a_handler_error(start: Start, kind: Kind) -> None:
    worker = start(max_payload_bytes=100_000)
    kind.needs(kinds.BIDIRECTIONAL, has=worker.state.get("bidirectional", False))

    assert stream(worker, command("count", count=1, size=100_001)).code == "handler_error"
    # It is the largest of a message, not of a stream.
    assert stream(worker, command("count", count=5, size=100_000)).messages == [pattern(100_000)] * 5


# -- one input, and a stream ------------------------------------------------------


def test_one_input_may_be_answered_with_a_stream(worker: Wire, kind: Kind) -> None:
    call = worker.call(command("stream", stream="count", count=3, size=10))

    kind.needs(kinds.GENERATORS, has=call.code != "invalid_input")
    assert call.messages == [pattern(10)] * 3
    assert ends_well(call)


def test_empty_stream_may_answer_one_input(worker: Wire, kind: Kind) -> None:
    call = worker.call(command("stream", stream="nothing"))

    kind.needs(kinds.GENERATORS, has=call.code != "invalid_input")
    assert call.frames[0].flags & STREAM
    assert (call.messages, ends_well(call)) == ([], True)


@pytest.mark.parametrize("count", [0, 2])
def test_stream_that_answers_one_input_may_fail(worker: Wire, kind: Kind, count: int) -> None:
    call = worker.call(command("stream", stream="fail-after", count=count, message="worn out"))

    kind.needs(kinds.GENERATORS, has=call.code != "invalid_input")
    assert call.messages == [b"0", b"1"][:count]
    assert call.code == "handler_error"
    assert call.began
    assert call.stream_out == bool(count)


def test_handler_that_has_only_a_stream_gets_one_input_as_one_message(start: Start, kind: Kind) -> None:
    worker = start(handler="StreamOnly", ready=False)
    worker.until(lambda: worker.state, "STATE")
    answered = worker.call(b"one") if worker.state["state"] == "ready" else None
    kind.needs(kinds.OTHER_HANDLERS, has=answered is not None and answered.stream_out)

    assert answered is not None
    assert answered.messages == [b"one"]
    assert ends_well(answered)


def test_stream_to_a_handler_without_one_is_not_said_to_be_possible(start: Start, kind: Kind) -> None:
    worker = start(handler="Plain", ready=False)
    worker.until(lambda: worker.state, "STATE")
    kind.needs(kinds.OTHER_HANDLERS, has=not worker.state.get("bidirectional", False))

    assert worker.state["state"] == "ready" or not kind.ours
