"""A handler in Go that misbehaves ends as promised, and its replica goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dcf.build.bundle import build_function
from dcf.build.project import load_project
from dcf.build.scaffold import init_function
from dcf.errors import BuildError
from dcf.watcher.function_log import MAX_FILE_BYTES
from tests.engine.commands import missing
from tests.watcher.harness import GatewaySide, Replica, eventually, run_watcher

pytestmark = pytest.mark.slow

HANDLER = Path(__file__).with_name("misbehaves.go")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("go")
    init_function("bad", "go", folder)
    (folder / "bad/src/handler.go").write_text(HANDLER.read_text())
    try:
        result = build_function(load_project(folder / "bad").function("bad"), folder / "bundles", on_output=print)
    except BuildError as error:
        if "is not on this machine" in str(error):
            missing(str(error))
        raise
    assert result.manifest is not None
    return result.manifest.command[0]


@asynccontextmanager
async def running(tmp_path: Path, binary: str, **spec: Any) -> AsyncIterator[tuple[Replica, GatewaySide]]:
    options = {"command": (binary,), "runtime": "go", "file": "handler.go", **spec}
    async with run_watcher(tmp_path, "package function", **options) as replica, replica.attach() as gateway:
        yield replica, gateway


async def test_a_panic_is_the_calls_error_and_its_stack_is_in_the_log(tmp_path: Path, binary: str) -> None:
    async with running(tmp_path, binary) as (replica, gateway):
        calls = [gateway.call(b"panic" if number % 2 else b"fine") for number in range(20)]
        answers = await asyncio.gather(*calls, gateway.call(b"exit"))

        failed = [answer for answer in answers[:20] if answer.code]
        assert {answer.code for answer in failed} == {"handler_error"}
        assert all("index out of range [7] with length 0" in answer.message for answer in failed)
        assert (len(failed), answers[20].code) == (10, "handler_error")
        lines = [line.text for line in await replica.until_logged("handler.go:")]
        assert any("invocation inv-2 failed" in line for line in lines)
        assert (await replica.until_state("ready", "busy")).worker_restarts == 0
        assert (await gateway.call(b"fine")).body == b"fine"


async def test_a_panic_in_a_goroutine_of_its_own_costs_the_worker_and_not_the_replica(
    tmp_path: Path, binary: str
) -> None:
    async with running(tmp_path, binary) as (replica, gateway):
        assert (await gateway.call(b"panic elsewhere")).code == "replica_lost"

        await replica.until_logged("panic: in a goroutine of its own")
        await eventually(lambda: gateway.states[-1]["capacity"], "another worker")
        assert (await gateway.call(b"fine")).body == b"fine"


async def test_goroutines_that_are_left_behind_end_with_their_call_or_hurt_nobody(tmp_path: Path, binary: str) -> None:
    async with running(tmp_path, binary) as (replica, gateway):
        before = json.loads((await gateway.call(b"count")).body)
        for kind, number in ((b"leak", 2000), (b"leak for ever", 500)):
            for _ in range(number // 50):
                answers = await asyncio.gather(*(gateway.call(kind) for _ in range(50)))
                assert {answer.body for answer in answers} == {kind}

        async def left() -> int:
            return int(json.loads((await gateway.call(b"count")).body)) - before

        # Those of `leak` wait for a context that has ended; those of the other kind are the user's own doing.
        async with asyncio.timeout(20):
            while await left() > 500 + 20:
                await asyncio.sleep(0.05)
        assert await left() >= 500 - 20
        assert (await replica.until_state("ready", "busy")).worker_restarts == 0


async def test_one_that_blocks_for_ever_costs_its_worker_after_the_grace_and_nobody_else(
    tmp_path: Path, binary: str
) -> None:
    async with running(tmp_path, binary, kill_after_s=0.5) as (replica, gateway):
        blocked = await gateway.open(b"block", deadline_ms=300)
        beside = await asyncio.gather(*(gateway.call(b"beside") for _ in range(50)))

        assert {answer.body for answer in beside} == {b"beside"}
        assert (await gateway.answer(blocked)).code in ("replica_lost", "deadline_exceeded")
        await replica.until_logged("(kill_after) past the deadline")
        await eventually(lambda: gateway.states[-1]["capacity"], "another worker")
        assert (await gateway.call(b"fine")).body == b"fine"


async def test_ten_megabytes_of_output_are_bounded_and_the_call_is_answered(tmp_path: Path, binary: str) -> None:
    async with running(tmp_path, binary) as (replica, gateway):
        answers = await asyncio.gather(gateway.call(b"print"), *(gateway.call(b"beside") for _ in range(50)))

        assert answers[0].body == b"print"
        assert {answer.body for answer in answers[1:]} == {b"beside"}
        await replica.until_logged("all is printed")
        files = list(tmp_path.glob("log*"))
        assert sum(file.stat().st_size for file in files) < 3 * MAX_FILE_BYTES
        assert (await replica.until_state("ready", "busy")).worker_restarts == 0
