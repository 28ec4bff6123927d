"""Several calls in one run of the handler: cut right, answered apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcf.rpc import frames
from dcf.rpc.frames import PIECE_BYTES
from dcf.rpc.v1_watcher_pb2 import WatchRequest
from tests.watcher.harness import Answer, GatewaySide, interpreters, run_watcher

pytestmark = pytest.mark.slow
VERSIONS = interpreters()

# What a request asks for is in its body, "<number> <verb>"; the answer says the number and the batch it was in.
HANDLER = """
import asyncio, json, os, time

def results(reqs):
    texts = [req.text.split(" ", 2) for req in reqs]
    print("batch", len(texts))
    numbers = [int(text[0]) for text in texts]
    verbs = [text[1] for text in texts]
    if "die" in verbs:
        os._exit(3)
    if "raise" in verbs:
        raise RuntimeError("all of %s" % numbers)
    answers = []
    for number, verb in zip(numbers, verbs):
        if verb == "fail":
            answers.append(ValueError("only %d" % number))
        elif verb in ("big", "huge"):
            answers.append(b"%d " % number + b"x" * (600000 if verb == "big" else 3000000))
        else:
            answers.append({"number": number, "batch": numbers})
    return answers[:-1] if "short" in verbs else answers

class Sync:
    def __call__(self, reqs):
        print("begun")
        until_free(reqs)
        return results(reqs)

class Async:
    async def __call__(self, reqs):
        print("begun")
        while any("hold" in req.text for req in reqs) and not os.path.exists("go"):
            await asyncio.sleep(0.01)
        return results(reqs)

def until_free(reqs):
    while any("hold" in req.text for req in reqs) and not os.path.exists("go"):
        time.sleep(0.01)
"""
KINDS = ("Sync", "Async")


async def open_all(gateway: GatewaySide, *bodies: str) -> list[int]:
    return [await gateway.open(body.encode()) for body in bodies]


def batch_of(answer: Answer) -> list[int]:
    return list(json.loads(answer.body)["batch"])


@contextlib.asynccontextmanager
async def holding(tmp_path: Path, kind: str, **spec: Any) -> AsyncIterator[tuple[Any, GatewaySide]]:
    """A replica whose first run of the handler waits for `go`."""
    async with run_watcher(tmp_path, HANDLER, name=kind, **spec) as replica, replica.attach() as gateway:
        held = await gateway.open(b"0 hold")
        await replica.until_logged("begun")
        yield replica, gateway
        (tmp_path / "src" / "go").touch()
        await gateway.answer(held)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_queued_is_a_batch_and_nothing_is_waited_for(tmp_path: Path, kind: str) -> None:
    async with holding(tmp_path, kind, batch_max_size=4) as (replica, gateway):
        ids = await open_all(gateway, *(f"{number} x" for number in range(1, 7)))
        async for report in replica.stub.Watch(WatchRequest(), timeout=30):
            if report.in_flight + report.waiting == 7:
                break
        (tmp_path / "src" / "go").touch()
        batches = [batch_of(await gateway.answer(call_id)) for call_id in ids]

    assert batches == [[1, 2, 3, 4]] * 4 + [[5, 6]] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["3.6", "3.13"])
async def test_a_batch_that_is_not_full_waits_for_more(tmp_path: Path, kind: str, version: str) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")
    async with (
        run_watcher(
            tmp_path, HANDLER, name=kind, python=VERSIONS[version], batch_max_size=3, batch_max_wait_s=20.0
        ) as replica,
        replica.attach() as gateway,
    ):
        ids = []
        for number in range(3):  # one by one: each is there before the next is sent
            ids.append(await gateway.open(f"{number} x".encode()))
            await asyncio.sleep(0.02)
        answers = [await gateway.answer(call_id) for call_id in ids]

    assert [batch_of(answer) for answer in answers] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_the_wait_for_more_ends(tmp_path: Path, kind: str) -> None:
    async with (
        run_watcher(tmp_path, HANDLER, name=kind, batch_max_size=8, batch_max_wait_s=0.1) as replica,
        replica.attach() as gateway,
    ):
        assert batch_of(await gateway.call(b"7 x")) == [7]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exception_in_the_place_of_an_item_fails_that_item_alone(tmp_path: Path, kind: str) -> None:
    async with (
        run_watcher(tmp_path, HANDLER, name=kind, batch_max_size=3, batch_max_wait_s=20.0) as replica,
        replica.attach() as gateway,
    ):
        ids = await open_all(gateway, "1 x", "2 fail", "3 big")
        good, failed, big = [await gateway.answer(call_id) for call_id in ids]
        assert batch_of(good) == [1, 2, 3]
        assert (failed.code, failed.message) == ("handler_error", "ValueError: only 2")
        assert big.body == b"3 " + b"x" * 600000

        ids = await open_all(gateway, "1 x", "2 raise", "3 x")
        for call_id in ids:
            answer = await gateway.answer(call_id)
            assert (answer.code, answer.message) == ("handler_error", "RuntimeError: all of [1, 2, 3]")

        ids = await open_all(gateway, "1 x", "2 short", "3 x")
        for call_id in ids:
            assert "returned 2 results for a batch of 3 requests" in (await gateway.answer(call_id)).message


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_item_is_left_out(tmp_path: Path, kind: str) -> None:
    async with (
        run_watcher(tmp_path, HANDLER, name=kind, batch_max_size=3, batch_max_wait_s=20.0) as replica,
        replica.attach() as gateway,
    ):
        first, gone = await open_all(gateway, "1 x", "2 x")
        await gateway.cancel(gone)
        assert (await gateway.answer(gone)).code == "client_gone"
        others = await open_all(gateway, "3 x", "4 x")

        for call_id in (first, *others):
            assert batch_of(await gateway.answer(call_id)) == [1, 3, 4]


async def test_a_reader_that_takes_nothing_keeps_no_batch_from_its_work(tmp_path: Path) -> None:
    async with (
        run_watcher(tmp_path, HANDLER, name="Sync", batch_max_size=2) as replica,
        replica.attach() as slow,
        replica.attach() as quick,
    ):
        slow.credit_answers = False
        stuck = [await slow.open(f"{number} huge".encode()) for number in range(2)]
        await replica.until_logged("batch")
        for number in range(2, 20):
            assert batch_of(await quick.call(f"{number} x".encode()))[-1] == number
        assert not any(slow.has_answer(call_id) for call_id in stuck)


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        ("def Handler(req):\n    yield 1", "a handler that streams cannot be batched"),
        ("class Handler:\n    def stream(self, requests):\n        pass", "a handler that streams cannot be batched"),
    ],
)
async def test_a_batched_handler_that_streams_is_refused_at_start(tmp_path: Path, handler: str, cause: str) -> None:
    async with run_watcher(tmp_path, handler, batch_max_size=2) as replica:
        assert await replica.exit_status() == 1

    assert any(cause in text for _, text in replica.log_file())


VERBS = st.sampled_from(["x"] * 8 + ["fail", "big", "raise", "short", "cancel"])
CALLS = st.lists(st.tuples(VERBS, st.integers(0, 3)), min_size=1, max_size=40)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Sync", {"batch_max_size": 4}),
        ("Sync", {"batch_max_size": 3, "batch_max_wait_s": 0.005, "concurrency": 4, "workers": 2}),
        ("Async", {"batch_max_size": 5, "batch_max_wait_s": 0.002}),
        ("Async", {"batch_max_size": 2, "concurrency": 3, "workers": 2}),
    ],
)
def test_every_answer_belongs_to_its_question(tmp_path: Path, kind: str, spec: dict[str, Any]) -> None:
    deaths = 0

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(calls=CALLS, dies=st.sampled_from([False] * 5 + [True]))
    def play(calls: list[tuple[str, int]], dies: bool) -> None:
        nonlocal deaths
        deaths += dies
        loop.run_until_complete(round_of(calls, dies=dies and deaths <= 3))

    async def round_of(calls: list[tuple[str, int]], *, dies: bool) -> None:
        async with replica.attach() as gateway, replica.attach() as other:
            opened = []
            for number, (verb, pause) in enumerate(calls):
                side = (gateway, other)[number % 2]
                text = "die" if dies and number == len(calls) // 2 and verb != "cancel" else verb
                call_id = await side.open(f"{number} {text}".encode())
                if verb == "cancel":
                    await side.cancel(call_id)
                opened.append((number, text, side, call_id))
                if pause == 3:
                    await asyncio.sleep(0.001)
            for number, verb, side, call_id in opened:
                check(number, verb, await side.answer(call_id), dies=dies)

    async def start() -> Any:
        return await running.__aenter__()

    loop = asyncio.new_event_loop()
    running = run_watcher(tmp_path, HANDLER, name=kind, **spec)
    try:
        replica = loop.run_until_complete(start())
        play()
    finally:
        loop.run_until_complete(running.__aexit__(None, None, None))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def check(number: int, verb: str, answer: Answer, *, dies: bool) -> None:
    """The answer is this question's own, or says why there is none."""
    if answer.kind == frames.REFUSED:  # no handler has seen it
        return
    if answer.code == "client_gone":
        assert verb == "cancel"
    elif answer.code == "replica_lost":
        assert dies
    elif answer.code == "handler_error":
        own = answer.message == f"ValueError: only {number}"
        shared = answer.message.startswith("RuntimeError: all of [") and str(number) in answer.message
        short = "results for a batch of" in answer.message
        assert own if verb == "fail" and not (shared or short) else shared or short, (verb, answer.message)
    elif verb == "big":
        assert answer.body == b"%d " % number + b"x" * 600000
    else:
        told = json.loads(answer.body)
        assert told["number"] == number
        assert number in told["batch"]


assert PIECE_BYTES < 600000  # "big" is an answer of several frames
