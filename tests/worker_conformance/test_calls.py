"""One input, one answer: what arrives is what was sent, and errors are errors."""

from __future__ import annotations

import json
import time

import pytest

from dcf.rpc.frames import BYTES, JSON, PIECE_BYTES, TEXT, WINDOW_BYTES
from tests.worker_conformance import kinds
from tests.worker_conformance.conftest import Holds, Start
from tests.worker_conformance.inputs import command, pattern
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import Wire

SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, WINDOW_BYTES, WINDOW_BYTES + 1, 5 * WINDOW_BYTES + 77]


@pytest.mark.parametrize("size", SIZES)
def test_input_of_any_size_comes_back_as_it_was(worker: Wire, kind: Kind, size: int) -> None:
    body = pattern(size)

    call = worker.call(body)

    assert call.content == BYTES
    assert call.body == body
    if len(call.frames) > 1:
        kind.needs(kinds.LENGTH, has="length" in call.head)


def test_every_byte_value_travels(worker: Wire) -> None:
    body = bytes(reversed(range(256)))

    assert worker.call(body).body == body


def test_text_and_json_say_their_content_kind(worker: Wire) -> None:
    text = worker.call(command("text", text="grün 😀"))
    value = worker.call(command("json", value={"a": [1, None, "ü"]}))

    assert (text.content, text.body.decode()) == (TEXT, "grün 😀")
    assert (value.content, json.loads(value.body)) == (JSON, {"a": [1, None, "ü"]})


def test_reply_carries_its_own_content_type_and_metadata(worker: Wire) -> None:
    call = worker.call(command("reply", text="<b>", content_type="text/html", metadata={"x-a": "1", "x-b": "ü"}))

    assert call.body == b"<b>"
    assert call.head["content_type"] == "text/html"
    assert call.head["metadata"] == {"x-a": "1", "x-b": "ü"}


def test_handler_sees_who_it_is_and_what_the_call_says_of_itself(worker: Wire) -> None:
    metadata = {"method": "PUT", "path": "/a/b", "query": "x=1", "headers": {"x-colour": "blue"}, "new": [1]}

    call = worker.call(command("info", header="x-colour"), metadata=metadata, deadline_ms=60_000)

    assert json.loads(call.body) == {
        "function": "conformance", "replica": "conformance-g1-0", "invocation_id": f"inv-{call.id}",
        "header": "blue", "method": "PUT", "path": "/a/b", "has_deadline": True,
    }  # fmt: skip


def test_call_without_metadata_and_deadline_has_none(worker: Wire) -> None:
    said = json.loads(worker.call(command("info", header="x-colour")).body)

    assert (said["header"], said["method"], said["path"], said["has_deadline"]) == ("", "", "", False)


def test_frame_may_be_split_at_every_byte(worker: Wire) -> None:
    whole, sample = worker.prepare(b"split me")
    worker.send(sample)
    assert worker.answer(whole).body == b"split me"

    for position in range(1, len(sample)):
        call, data = worker.prepare(b"split me")
        worker.send(data[:position])
        worker.until_read(worker.data)
        worker.send(data[position:])
        assert worker.answer(call).body == b"split me"


def test_many_calls_may_come_in_one_write(worker: Wire) -> None:
    prepared = [worker.prepare(b"call %d" % number) for number in range(200)]

    worker.send(b"".join(data for _, data in prepared))

    for number, (call, _) in enumerate(prepared):
        assert worker.answer(call).body == b"call %d" % number


def test_inputs_of_several_calls_may_be_mixed(worker: Wire) -> None:
    calls = [worker.open(b"%d" % number, whole=False) for number in range(3)]
    for piece in (b"a", b"b", b"c"):
        for call in reversed(calls):
            worker.more(call, piece, last=piece == b"c")

    assert [worker.answer(call).body for call in calls] == [b"0abc", b"1abc", b"2abc"]


def test_last_piece_of_an_input_may_be_empty(worker: Wire) -> None:
    call = worker.open(b"all of it", whole=False)
    worker.more(call, b"", last=True)

    assert worker.answer(call).body == b"all of it"


def test_time_in_the_handler_is_its_own_without_the_wait_for_a_slot(start: Start, holds: Holds) -> None:
    worker = start(slots=1)
    first = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")
    second = worker.open(b"quick")
    started_s = time.monotonic()
    worker.until(lambda: time.monotonic() - started_s > 0.1, "a tenth of a second")
    released_s = time.monotonic()
    holds.release("a")

    worker.answer(second)

    assert first.handler_us >= (released_s - started_s) * 1e6
    assert second.handler_us <= (time.monotonic() - released_s) * 1e6


# -- errors ------------------------------------------------------------------


def test_handler_that_fails_is_a_handler_error_with_its_text(worker: Wire) -> None:
    call = worker.call(command("fail", message="the model is lost"))

    assert call.code == "handler_error"
    assert "the model is lost" in call.message
    worker.still_echoes()


def test_handler_that_refuses_is_invalid_input_with_its_text_alone(worker: Wire) -> None:
    call = worker.call(command("refuse", message="a picture, please"))

    assert (call.code, call.message) == ("invalid_input", "a picture, please")
    worker.still_echoes()


def test_result_that_cannot_be_sent_is_a_handler_error(worker: Wire) -> None:
    assert worker.call(command("unsendable")).code == "handler_error"
    worker.still_echoes()


def test_error_carries_no_traceback_without_debug(worker: Wire) -> None:
    assert "traceback" not in worker.call(command("fail", message="x")).error


def test_error_carries_a_traceback_with_debug(start: Start, kind: Kind) -> None:
    call = start(debug=True).call(command("fail", message="x"))

    kind.needs(kinds.TRACEBACKS, has="traceback" in call.error)
    assert "handler." in call.error["traceback"]


def test_refusal_carries_no_traceback_even_with_debug(start: Start) -> None:
    assert "traceback" not in start(debug=True).call(command("refuse", message="x")).error


def test_answer_over_the_largest_payload_is_a_handler_error(start: Start) -> None:
    worker = start(max_payload_bytes=300_000)

    assert worker.call(command("bytes", size=300_001)).code == "handler_error"
    assert worker.call(command("bytes", size=300_000)).body == pattern(300_000)


# -- several at once -----------------------------------------------------------


def test_no_more_handlers_run_at_once_than_there_are_slots(start: Start, holds: Holds, kind: Kind) -> None:
    worker = start(slots=2) if kind.reads_while_it_runs else start(slots=1)
    names = ["a", "b", "c", "d"]
    calls = [worker.open(holds.hold(name)) for name in names]
    slots = worker.state["slots"]

    for done in range(len(names)):
        running = names[done : done + slots]
        holds.until_started(worker, *running)
        if kind.reads_while_it_runs:
            worker.barrier(5)
        assert set(holds.started()) == set(names[: done + slots])
        holds.release(names[done])
        assert worker.answer(calls[done]).body == f"held {names[done]}".encode()


def test_calls_start_in_the_order_in_which_their_inputs_became_whole(start: Start, holds: Holds) -> None:
    worker = start(slots=1)
    slow = worker.open(holds.hold("slow")[:10], whole=False)
    quick = [worker.open(holds.hold(name)) for name in ("a", "b")]
    worker.more(slow, holds.hold("slow")[10:], last=True)
    late = worker.open(holds.hold("late"))

    for name in ("slow", "a", "late", "b"):
        holds.release(name)
    for call in (slow, *quick, late):
        worker.answer(call)

    assert holds.started() == ["a", "b", "slow", "late"]


def test_many_more_calls_than_slots_may_be_open_and_keep_their_order(start: Start, holds: Holds) -> None:
    worker = start(slots=1)
    names = [f"n{number}" for number in range(40)]
    for name in names[1:]:
        holds.release(name)
    calls = [worker.open(holds.hold(name)) for name in names]
    holds.until_started(worker, names[0])
    holds.release(names[0])

    for call in calls:
        worker.answer(call)

    assert holds.started() == names


def test_answer_does_not_wait_for_the_handler_of_another_call(start: Start, holds: Holds, kind: Kind) -> None:
    if not kind.reads_while_it_runs:
        pytest.skip(f"{kind.name} is for one slot")
    worker = start(slots=2)
    held = worker.open(holds.hold("a"))
    holds.until_started(worker, "a")

    for number in range(20):
        assert worker.call(b"%d" % number).body == b"%d" % number

    assert not held.ended
    holds.release("a")
    assert worker.answer(held).body == b"held a"


def test_answers_come_in_the_order_in_which_handlers_return(start: Start, holds: Holds, kind: Kind) -> None:
    if not kind.reads_while_it_runs:
        pytest.skip(f"{kind.name} is for one slot")
    worker = start(slots=3)
    calls = {name: worker.open(holds.hold(name)) for name in ("a", "b", "c")}
    holds.until_started(worker, *calls)

    for name in ("c", "a", "b"):
        holds.release(name)
        assert worker.answer(calls[name]).body == f"held {name}".encode()
        del calls[name]
        assert not any(call.ended for call in calls.values())


def test_what_a_handler_prints_is_on_standard_output(own_worker: Wire) -> None:
    assert own_worker.call(command("print", text="hello from the handler")).body == b"printed"
    own_worker.shut_down()
    own_worker.exit_status()

    assert own_worker.stdout.read_text() == "hello from the handler\n"
