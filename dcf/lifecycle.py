"""Start, run and stop: the only place that makes tasks.

Nesting is the shutdown order: what is opened first closes last. A loop that
returns is a bug; an expected failure is retried inside the loop, any other
ends the process, and whoever supervises it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from dcf.errors import LoopExitedError

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(**loops: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run `loops` for the life of the block; cancel and await them on the way out."""

    async def eternal(name: str, loop: Coroutine[Any, Any, object]) -> NoReturn:
        await loop
        raise LoopExitedError(f"{name} returned; a loop ends by cancellation or by an error")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(eternal(name, loop), name=name) for name, loop in loops.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


class TaskSet:
    """Named tasks that come and go while their owner lives. Touched only by its event loop.

    For work whose number is not known at start, such as one connection a
    replica. A task that fails is logged and told to `on_failure`; it never
    takes its siblings down.
    """

    def __init__(self) -> None:
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run `work`; a running task of the same name must not exist."""
        if name in self._tasks:
            work.close()
            raise ValueError(f"a task named {name} is running")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()):
            log.error("a task failed", extra={"task": task.get_name()}, exc_info=error)
            self.on_failure(error)

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def cancel(self, name: str) -> None:
        """Cancel one task; its end is not awaited."""
        if task := self._tasks.get(name):
            task.cancel()

    async def stop(self, name: str) -> None:
        """Cancel one task and wait for its end."""
        if task := self._tasks.get(name):
            task.cancel()
            await asyncio.wait([task])

    async def join(self, name: str, *, limit_s: float | None = None) -> None:
        """Wait for one task's end, at most `limit_s`."""
        if task := self._tasks.get(name):
            await asyncio.wait([task], timeout=limit_s)

    async def stop_all(self) -> None:
        """Cancel all and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@asynccontextmanager
async def open_task_set() -> AsyncIterator[TaskSet]:
    """A TaskSet that is empty again when the block ends."""
    tasks = TaskSet()
    try:
        yield tasks
    finally:
        await tasks.stop_all()


async def until_signalled(*signals: signal.Signals) -> signal.Signals:
    """Wait for one of `signals`.

    Afterwards a second SIGINT ends the process, as a user who presses Ctrl-C twice wants it. A second
    SIGTERM does nothing: whoever stops us may ask again (a new scheduler does), and an orderly stop
    must lose no call by that; who is out of patience sends SIGKILL.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if not arrived.done():
            arrived.set_result(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await arrived
    finally:
        for number in signals:
            if number is not signal.SIGTERM or not arrived.done():
                loop.remove_signal_handler(number)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for `number` when the parent dies, so that no process is left behind.

    Linux only; elsewhere nothing happens, and the supervisor's orderly stop is all there is.
    """
    if sys.platform == "linux":
        _prctl(1, int(number))  # PR_SET_PDEATHSIG


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies (Linux), so that they are reaped."""
    if sys.platform == "linux":
        _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def unpack_group(error: BaseException) -> BaseException:
    """The first real cause inside nested ExceptionGroups: what a user is told."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
