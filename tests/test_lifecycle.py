"""Nesting is the shutdown order, and the cause of an end comes out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcf.errors import LoopExitedError
from dcf.lifecycle import TaskSet, open_task_set, running, unpack_group, until_signalled


async def forever(log: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        log.append(f"{name} ended")


async def failing() -> None:
    await asyncio.sleep(0)
    raise ValueError("the cause")


async def returning() -> None:
    await asyncio.sleep(0)


async def test_loops_have_stopped_when_the_block_ends() -> None:
    log: list[str] = []

    async with running(one=forever(log, "one"), two=forever(log, "two")):
        await asyncio.sleep(0)
    log.append("store closed")

    assert log == ["one ended", "two ended", "store closed"]


@pytest.mark.parametrize(("loop", "cause"), [(failing, ValueError), (returning, LoopExitedError)])
async def test_loop_that_ends_ends_the_block_with_its_cause(loop: object, cause: type[Exception]) -> None:
    log: list[str] = []

    with pytest.raises(ExceptionGroup) as caught:
        async with running(bad=loop(), good=forever(log, "good")):  # type: ignore[operator]
            await asyncio.Event().wait()

    assert isinstance(unpack_group(caught.value), cause)
    assert log == ["good ended"]


async def test_failing_body_and_outer_cancel_stop_the_loops() -> None:
    log: list[str] = []

    async def failing_body() -> None:
        async with running(one=forever(log, "one")):
            await asyncio.sleep(0)
            raise KeyError("body")

    with pytest.raises(ExceptionGroup) as caught:
        await failing_body()
    assert isinstance(unpack_group(caught.value), KeyError)

    async def body() -> None:
        async with running(two=forever(log, "two")):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert log == ["one ended", "two ended"]


async def test_task_set_keeps_siblings_apart_and_tells_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BaseException] = []
    log: list[str] = []

    async with open_task_set() as tasks:
        tasks.on_failure = told.append
        tasks.start("good", forever(log, "good"))
        tasks.start("bad", failing())
        await tasks.join("bad")
        await asyncio.sleep(0)
        assert "good" in tasks
        assert "bad" not in tasks
        with pytest.raises(ValueError, match="is running"):
            tasks.start("good", forever(log, "again"))
        tasks.start("short", returning())
        await tasks.stop("short")
        await tasks.stop("unknown")
        await tasks.join("good", limit_s=0.001)
        tasks.cancel("good")
        await tasks.join("good")
        assert log == ["good ended"]
        tasks.start("good", forever(log, "good"))
        await asyncio.sleep(0)

    assert log == ["good ended", "good ended"]
    assert [type(error) for error in told] == [ValueError]
    assert "a task failed" in caplog.text


async def test_task_set_that_is_empty_stops_at_once() -> None:
    await TaskSet().stop_all()


SIGNALLED = """
import asyncio
from signal import SIGINT, SIGTERM
from dcf.lifecycle import until_signalled

async def main():
    task = asyncio.ensure_future(until_signalled(SIGINT, SIGTERM))
    await asyncio.sleep(0)
    print("ready", flush=True)
    print((await task).name, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_sigterm_does_nothing_and_second_sigint_ends(first: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{first.name}\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0


async def test_waiting_for_a_signal_can_be_given_up() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    task = asyncio.ensure_future(until_signalled(signal.SIGUSR1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert signal.getsignal(signal.SIGUSR1) == before


CHILD = (
    "import time; from dcf.lifecycle import die_with_parent; die_with_parent(); print('on', flush=True); time.sleep(60)"
)
PARENT = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {CHILD!r}]); print(p.pid, flush=True); time.sleep(60)"  # noqa: E501


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal to orphans is Linux's")
def test_child_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        child = int((said - {"on"}).pop())
        parent.kill()
        end = time.monotonic() + 20
        while _runs(child):
            assert time.monotonic() < end
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
