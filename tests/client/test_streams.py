"""Answers in chunks and inputs meanwhile: both clients against a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcf import AsyncClient, Client
from dcf.client import Chunk
from dcf.errors import (
    ClientGoneError,
    DeadlineError,
    FunctionNotFoundError,
    HandlerError,
    InvalidInputError,
    PayloadTooLargeError,
)
from tests.conftest import until, wait_until

pytestmark = pytest.mark.slow

LIMIT_S = 20.0


class OutOfInk(Exception):
    """What a user's iterable raises."""


@pytest.fixture
def dcf(gateway: str) -> Iterator[Client]:
    with Client(gateway) as client:
        yield client


@pytest.fixture
async def adcf(gateway: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway) as client:
        yield client


def texts(chunks: Any) -> list[str]:
    return [chunk.text for chunk in chunks]


def collect(chunks: Any, seen: list[Chunk]) -> None:
    """Into `seen`, also where it breaks off."""
    for chunk in chunks:
        seen.append(chunk)


async def acollect(chunks: Any, seen: list[Chunk]) -> None:
    async for chunk in chunks:
        seen.append(chunk)


def inputs_that_raise(error: Exception, seen: list[Chunk]) -> Iterator[str]:
    """Once the handler is at work: a call that is cancelled before has no generator to close."""
    while len(seen) < 2:
        yield "more"
    raise error


def closed(gateway: str, name: str, tag: str) -> list[str]:
    """What the handlers of that tag printed when they were closed; waits for one."""

    def lines() -> list[str]:
        with Client(gateway) as client:
            return [line.text for line in client.log(name) if line.text.startswith(f"closed {tag} ")]

    wait_until(lines, within_s=LIMIT_S, what=f"the end of {tag}")
    return lines()


async def aclosed(gateway: str, name: str, tag: str) -> list[str]:
    return await asyncio.to_thread(closed, gateway, name, tag)


# -- an answer in chunks ------------------------------------------------------


def test_chunks_arrive_while_the_handler_still_runs(dcf: Client, tmp_path: Path) -> None:
    chunks = dcf.stream("story", f"running one wait:{tmp_path}/go two", timeout_s=LIMIT_S)

    first = next(chunks)
    (tmp_path / "go").touch()
    rest = list(chunks)

    assert (first.text, texts(rest)) == ("one", ["two"])
    assert first.invocation_id
    assert {chunk.invocation_id for chunk in rest} == {first.invocation_id}


def test_each_chunk_is_what_the_handler_made(dcf: Client) -> None:
    word, data, number = dcf.stream("story", "kinds é bytes json:7")
    table, _ = dcf.stream("story", "kinds reply json:7")

    assert (word.text, word.content_type) == ("é", "text/plain; charset=utf-8")
    assert (data.output, data.content_type) == (b"\xff\x00", "application/octet-stream")
    assert (number.json(), number.content_type) == ({"word": "7"}, "application/json")
    assert (table.text, table.content_type, table.metadata) == ("a,b", "text/csv", {"X-Rows": "1"})
    assert number.metadata == {}


def test_handler_that_does_not_stream_answers_in_one_chunk(dcf: Client) -> None:
    (chunk,) = dcf.stream("shape", {"a": 1}, metadata={"X-Colour": "blue"})

    assert chunk.json()["text"] == '{"a": 1}'
    assert chunk.json()["headers"] == {"X-Colour": "blue", "content-type": "application/json"}


def test_error_after_the_third_chunk_comes_after_the_third_chunk(dcf: Client) -> None:
    seen: list[Chunk] = []

    with pytest.raises(HandlerError, match="boom of late") as caught:
        collect(dcf.stream("story", "late a b c boom d"), seen)

    assert texts(seen) == ["a", "b", "c"]
    assert caught.value.invocation_id == seen[0].invocation_id
    assert caught.value.replica.startswith("story-")


def test_slow_reader_gets_every_chunk_before_the_error(gateway: str, dcf: Client) -> None:
    chunks = dcf.stream("story", "slow many:300 boom")
    seen = [next(chunks)]
    assert closed(gateway, "story", "slow") == ["closed slow 300"]

    with pytest.raises(HandlerError):
        collect(chunks, seen)

    assert len(seen) == 300


def test_refusal_before_the_first_chunk_has_its_class(dcf: Client) -> None:
    with pytest.raises(InvalidInputError, match="expected a tag"):
        next(dcf.stream("story", ""))
    with pytest.raises(FunctionNotFoundError):
        next(dcf.stream("stroy", "x"))
    with pytest.raises(PayloadTooLargeError):
        next(dcf.stream("shape", b"x" * 2000))
    with pytest.raises(InvalidInputError, match="JSON"):
        dcf.stream("story", object())


def test_deadline_covers_the_whole_answer(dcf: Client, tmp_path: Path) -> None:
    chunks = dcf.stream("story", f"timed one wait:{tmp_path}/go", timeout_s=1.0)

    assert next(chunks).text == "one"
    with pytest.raises(DeadlineError):
        next(chunks)
    (tmp_path / "go").touch()


def leave_by_break(chunks: Any) -> None:
    for _ in chunks:
        break


def leave_by_close(chunks: Any) -> None:
    next(chunks)
    chunks.close()


def leave_by_error(chunks: Any) -> None:
    with contextlib.suppress(OutOfInk):
        for _ in chunks:
            raise OutOfInk


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_error])
def test_leaving_early_closes_the_handlers_generator(gateway: str, dcf: Client, leave: Callable[[Any], None]) -> None:
    leave(dcf.stream("story", f"{leave.__name__} flood:5000"))

    (line,) = closed(gateway, "story", leave.__name__)
    assert int(line.split()[-1]) < 5000


def test_client_that_is_closed_ends_the_answer_with_an_error(gateway: str) -> None:
    with Client(gateway) as client:
        chunks = client.stream("story", "shut many:100000")
        next(chunks)

    with pytest.raises(ClientGoneError):
        list(chunks)
    closed(gateway, "story", "shut")


def made(gateway: str, tag: str) -> int:
    with Client(gateway) as client:
        lines = [line.text for line in client.log("story") if line.text.startswith(f"made {tag} ")]
    return int(lines[-1].split()[-1]) if lines else 0


def test_slow_reader_holds_the_handler_back(gateway: str, dcf: Client) -> None:
    chunks = dcf.stream("story", "held flood:2000")
    next(chunks)
    ahead = -1
    deadline = time.monotonic() + LIMIT_S

    # It stands still where two looks in a row find the same; a handler that nothing holds ends at 2000.
    while (now := made(gateway, "held")) != ahead or not now:
        assert time.monotonic() < deadline
        ahead = now
        time.sleep(0.1)

    assert 0 < ahead < 1000  # of 64 KiB each
    assert sum(len(chunk.output) for chunk in chunks) == 1999 * 65536


# -- inputs while the answer comes --------------------------------------------


def test_inputs_are_taken_in_lockstep_with_the_answers(gateway: str, dcf: Client) -> None:
    answers: queue.Queue[str] = queue.Queue()
    events: list[str] = []

    def inputs() -> Iterator[Any]:
        for word in ("one", b"two", {"three": 3}):
            events.append(answers.get(timeout=LIMIT_S))
            yield word
        events.append(answers.get(timeout=LIMIT_S))

    seen = []
    for chunk in dcf.converse("talk", inputs(), metadata={"X-Tag": "step"}, timeout_s=LIMIT_S):
        seen.append(chunk)
        answers.put(chunk.text)

    assert texts(seen) == ["hello", "heard one", "heard two", 'heard {"three": 3}', "bye"]
    assert events == texts(seen)[:4]
    assert len({chunk.invocation_id for chunk in seen}) == 1
    assert closed(gateway, "talk", "step") == ["closed step 3"]


def test_handler_of_single_requests_is_called_for_each_input(dcf: Client) -> None:
    seen = list(dcf.converse("story", ["first a b", "second c"]))

    assert texts(seen) == ["a", "b", "c"]
    assert seen[0].invocation_id == seen[1].invocation_id != seen[2].invocation_id


def test_conversation_has_its_errors_where_they_happen(gateway: str, dcf: Client) -> None:
    seen: list[Chunk] = []

    with pytest.raises(HandlerError, match="boom after 2"):
        collect(dcf.converse("talk", itertools.chain(["a", "boom"], itertools.repeat("more"))), seen)

    assert texts(seen) == ["hello", "heard a"]
    with pytest.raises(FunctionNotFoundError):
        next(dcf.converse("tlak", itertools.repeat("more")))


def test_error_of_the_iterable_is_raised_as_itself_and_cancels(gateway: str, dcf: Client) -> None:
    error = OutOfInk()
    seen: list[Chunk] = []

    with pytest.raises(OutOfInk) as caught:
        collect(dcf.converse("talk", inputs_that_raise(error, seen), metadata={"X-Tag": "ink"}), seen)

    assert caught.value is error
    assert caught.value.__cause__ is None
    closed(gateway, "talk", "ink")


def test_input_that_is_no_json_ends_the_call(dcf: Client) -> None:
    with pytest.raises(InvalidInputError, match="JSON"):
        list(dcf.converse("talk", ["one", object()]))


@pytest.mark.parametrize("inputs", ["word", b"word", {"a": 1}, 7])
def test_one_input_is_no_iterable_of_inputs(inputs: Any) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidInputError, match="expected an iterable of"):
        client.converse("talk", inputs)


def test_handler_may_end_before_the_inputs_do(dcf: Client) -> None:
    inputs: queue.Queue[str | None] = queue.Queue()
    inputs.put("enough")

    # The thread of the call is inside `get` then: it ends when it is told to, which the guard of all tests watches.
    assert texts(dcf.converse("talk", iter(inputs.get, None))) == ["hello"]
    inputs.put(None)


def test_leaving_a_conversation_early_ends_both_directions(gateway: str, dcf: Client) -> None:
    taken = itertools.count()
    inputs = (f"{next(taken)} ".ljust(65536) for _ in itertools.count())

    chunks = dcf.converse("talk", inputs, metadata={"X-Tag": "leave"})
    assert texts(itertools.islice(chunks, 3))[0] == "hello"
    chunks.close()

    closed(gateway, "talk", "leave")
    assert next(taken) < 2000


# -- the same, async ----------------------------------------------------------


async def test_async_chunks_arrive_while_the_handler_still_runs(adcf: AsyncClient, tmp_path: Path) -> None:
    chunks = adcf.stream("story", f"arunning one wait:{tmp_path}/go two", timeout_s=LIMIT_S)

    first = await anext(chunks)
    (tmp_path / "go").touch()
    rest = [chunk async for chunk in chunks]

    assert (first.text, texts(rest)) == ("one", ["two"])
    assert {chunk.invocation_id for chunk in rest} == {first.invocation_id}


async def test_async_errors_come_where_they_happen(gateway: str, adcf: AsyncClient) -> None:
    seen: list[Chunk] = []

    with pytest.raises(HandlerError, match="boom of alate"):
        await acollect(adcf.stream("story", "alate a b c boom d"), seen)
    with pytest.raises(FunctionNotFoundError):
        await anext(adcf.stream("stroy", "x"))
    with pytest.raises(InvalidInputError, match="expected a tag"):
        await anext(adcf.stream("story", ""))

    assert texts(seen) == ["a", "b", "c"]


async def test_async_slow_reader_gets_every_chunk_before_the_error(gateway: str, adcf: AsyncClient) -> None:
    chunks = adcf.stream("story", "aslow many:300 boom")
    seen = [await anext(chunks)]
    await aclosed(gateway, "story", "aslow")

    with pytest.raises(HandlerError):
        await acollect(chunks, seen)

    assert len(seen) == 300


async def test_async_break_closes_the_handlers_generator(gateway: str, adcf: AsyncClient) -> None:
    async for _ in adcf.stream("story", "abreak flood:5000"):
        break

    (line,) = await aclosed(gateway, "story", "abreak")
    assert int(line.split()[-1]) < 5000


async def test_cancelled_reader_cancels_the_call(gateway: str, adcf: AsyncClient, tmp_path: Path) -> None:
    seen: list[str] = []

    async def read() -> None:
        async for chunk in adcf.stream("story", f"acancel one wait:{tmp_path}/go two three"):
            seen.append(chunk.text)

    reader = asyncio.create_task(read())
    await until(lambda: seen, within_s=LIMIT_S)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    (tmp_path / "go").touch()

    await aclosed(gateway, "story", "acancel")
    assert seen == ["one"]


async def test_async_client_that_is_closed_ends_the_answer_with_an_error(gateway: str) -> None:
    async with AsyncClient(gateway) as client:
        chunks = client.stream("story", "ashut many:100000")
        await anext(chunks)

    with pytest.raises(ClientGoneError):
        await acollect(chunks, [])
    await aclosed(gateway, "story", "ashut")


async def test_async_inputs_are_taken_in_lockstep_with_the_answers(gateway: str, adcf: AsyncClient) -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()
    events: list[str] = []

    async def inputs() -> AsyncIterator[Any]:
        for word in ("one", b"two"):
            events.append(await answers.get())
            yield word
        events.append(await answers.get())

    seen = []
    async for chunk in adcf.converse("talk", inputs(), metadata={"X-Tag": "astep"}, timeout_s=LIMIT_S):
        seen.append(chunk.text)
        answers.put_nowait(chunk.text)

    assert seen == ["hello", "heard one", "heard two", "bye"]
    assert events == seen[:3]


async def test_async_client_takes_a_sync_iterable_too(adcf: AsyncClient) -> None:
    assert [chunk.text async for chunk in adcf.converse("talk", ["one"])] == ["hello", "heard one", "bye"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_error_of_an_iterable_is_raised_by_the_async_client_too(
    gateway: str, adcf: AsyncClient, is_async: bool
) -> None:
    error = OutOfInk()
    seen: list[Chunk] = []

    async def ainputs() -> AsyncIterator[str]:
        for word in inputs_that_raise(error, seen):
            yield word

    inputs = ainputs() if is_async else inputs_that_raise(error, seen)
    with pytest.raises(OutOfInk) as caught:
        await acollect(adcf.converse("talk", inputs, metadata={"X-Tag": f"aink{is_async}"}), seen)

    assert caught.value is error
    await aclosed(gateway, "talk", f"aink{is_async}")


async def test_status_of_the_gateway_is_seen_whatever_is_being_sent(adcf: AsyncClient) -> None:
    # grpc.aio's own write replaces it for one call in five: grpc/grpc#36066.
    for _ in range(40):
        seen: list[Chunk] = []
        with pytest.raises(HandlerError, match="boom after 2"):
            await acollect(adcf.converse("talk", itertools.chain(["a", "boom"], itertools.repeat("more"))), seen)
        assert texts(seen) == ["hello", "heard a"]
        with pytest.raises(FunctionNotFoundError):
            await anext(adcf.converse("tlak", itertools.repeat("more")))


async def test_async_handler_may_end_before_the_inputs_do(adcf: AsyncClient) -> None:
    ended = False

    async def inputs() -> AsyncIterator[str]:
        nonlocal ended
        try:
            yield "enough"
            await asyncio.get_running_loop().create_future()
        finally:
            ended = True

    assert [chunk.text async for chunk in adcf.converse("talk", inputs())] == ["hello"]
    assert ended


async def test_leaving_an_async_conversation_early_ends_both_directions(gateway: str, adcf: AsyncClient) -> None:
    inputs = (f"{number} ".ljust(65536) for number in itertools.count())

    async with contextlib.aclosing(adcf.converse("talk", inputs, metadata={"X-Tag": "aleave"})) as chunks:
        async for chunk in chunks:
            if chunk.text.startswith("heard"):
                break

    await aclosed(gateway, "talk", "aleave")
    assert int(next(inputs)) < 2000
