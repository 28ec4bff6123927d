"""Keep the programs of a cluster running: start, watch, start again, stop.

Each program has a keeper, a loop that starts it, waits until it is ready,
waits for its end, and starts it again after a back-off. A program that never
got ready ends the cluster after FIRST_STARTS tries; one that once was ready
is started again for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from dcf.cluster.children import Child, Children
from dcf.cluster.process_id import ProcessId
from dcf.cluster.programs import Program
from dcf.cluster.state import StateFolder
from dcf.errors import DcfError
from dcf.lifecycle import TaskSet

log = logging.getLogger(__name__)

FIRST_STARTS = 3
"""Failures in a row that end the cluster at its start: one may be bad luck, three are a cause."""

HEALTHY_S = 10.0
"""After that long in readiness a death counts as the first again."""

PROBE_S = 0.03
"""Between two questions whether a program is ready that does not say so itself."""


def restart_delay_s(deaths: int) -> float:
    """Seconds before the start that follows `deaths` deaths in a row, >= 1 of them: 0.2, 0.4 ... 10."""
    return min(0.2 * 2.0 ** min(deaths - 1, 10), 10.0)


class Supervisor:
    """What is kept running. Touched only by the event loop of the cluster process.

    Args:
        hurry: done once the user asked for the end a second time.
    """

    def __init__(self, folder: StateFolder, children: Children, tasks: TaskSet, hurry: asyncio.Future[None]) -> None:
        self._folder = folder
        self._children = children
        self._tasks = tasks
        self._hurry = hurry
        self._running: dict[str, Child] = {}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Has the error of a keeper that failed: a bug, which ends the cluster."""

    async def start(self, programs: Sequence[Program], *, stop: asyncio.Future[None]) -> bool:
        """Start all at once and keep them running; True when all are ready, False when `stop` came first.

        Raises:
            DcfError: one of them failed FIRST_STARTS times in a row; its last lines are the cause.
        """
        readies: list[asyncio.Future[None]] = []
        for program in programs:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            readies.append(ready)
            self._tasks.start(program.name, self._keep(program, ready))
        for ready in readies:
            await wait_first(ready, stop, self.broken)
            if stop.done():
                return False
            if self.broken.done():
                self.broken.result()
            ready.result()
        return True

    async def stop(self, programs: Sequence[Program], *, wait_s: float) -> None:
        """End them, in order, in at most `wait_s` (and a moment more for SIGKILL)."""
        for program in programs:
            await self._tasks.stop(program.name)
        children = [child for program in programs if (child := self._running.get(program.name))]
        await self._children.end(children, wait_s=wait_s, hurry=self._hurry)
        for child in children:
            self._forget(child)

    async def run_once(self, program: Program, *, wait_s: float) -> None:
        """Run a program to its end, at most `wait_s`; a failure is logged, for what follows must happen anyway."""
        try:
            child = self._children.spawn(program)
        except OSError as error:
            log.error("a process could not be started", extra={"program": program.name, "reason": error})
            return
        if not await self._children.wait([child], wait_s=wait_s, hurry=self._hurry):
            await self._children.end([child], wait_s=1.0, hurry=self._hurry)
        if child.exited.result() != 0:
            facts = {"program": program.name, "reason": child.how_it_ended(), "log_tail": child.last_lines(3)}
            log.error("a process failed", extra=facts)

    async def _keep(self, program: Program, ready: asyncio.Future[None]) -> None:
        try:
            await self._keep_running(program, ready)
        except Exception as error:
            if not self.broken.done():
                self.broken.set_exception(error)

    async def _keep_running(self, program: Program, ready: asyncio.Future[None]) -> None:
        clock = asyncio.get_running_loop().time
        deaths = 0
        while True:
            lines: list[str] = []
            try:
                child = self._children.spawn(program)
            except OSError as error:
                failure = f"it cannot be started: {error}"
            else:
                self._remember(child)
                failure = await self._until_ready(program, child)
                if not failure:
                    log.info("a process is ready", extra={"program": program.name, "pid": child.process.pid})
                    if not ready.done():
                        ready.set_result(None)
                    ready_at = clock()
                    await asyncio.wait({child.exited})
                    deaths = 0 if clock() - ready_at >= HEALTHY_S else deaths
                    failure = child.how_it_ended()
                self._forget(child)
                lines = child.last_lines()
            deaths += 1
            if not ready.done() and deaths >= FIRST_STARTS:
                ready.set_exception(DcfError(_explain(program, lines, failure, self._folder)))
                return
            delay_s = restart_delay_s(deaths)
            facts = {"program": program.name, "reason": failure, "again_in_s": delay_s}
            log.warning("a process died and is started again", extra=facts)
            log.info("its last lines", extra={"program": program.name, "log_tail": lines[-5:]})
            await asyncio.sleep(delay_s)

    def _remember(self, child: Child) -> None:
        self._running[child.name] = child
        self._record(child.name, child.process)

    def _forget(self, child: Child) -> None:
        if self._running.get(child.name) is child:
            del self._running[child.name]
            self._record(child.name, None)

    def _record(self, name: str, process: ProcessId | None) -> None:
        try:
            self._folder.record(name, process)
        except OSError as error:  # a full disk must not end what runs
            log.error("what runs could not be written down", extra={"program": name, "reason": error})

    async def _until_ready(self, program: Program, child: Child) -> str:
        """Wait until it is ready: "", or else why it is not; it has ended then."""
        try:
            async with asyncio.timeout(program.start_timeout_s):
                if program.probe is None:
                    await wait_first(child.said_ready, child.exited)
                    if child.said_ready.done() and child.said_ready.result():
                        return ""
                    await asyncio.wait({child.exited})
                else:
                    while not child.exited.done():
                        if await program.probe():
                            return ""
                        await asyncio.wait({child.exited}, timeout=PROBE_S)
        except TimeoutError:
            child.kill()
            await asyncio.wait({child.exited})
            return f"it was not ready within {program.start_timeout_s:g} s"
        return child.how_it_ended()


async def wait_first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done; none is cancelled with the waiter."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _explain(program: Program, lines: Sequence[str], failure: str, folder: StateFolder) -> str:
    for line in lines:
        log.error("a process does not start", extra={"program": program.name, "line": line})
    told = [line for line in lines if line.startswith("dcf: ")] or lines
    cause = f": {told[-1].removeprefix('dcf: ')}" if told else ""
    return f"{program.name} does not start ({failure}){cause} (its log: {folder.path / 'logs' / program.name}.log)"
