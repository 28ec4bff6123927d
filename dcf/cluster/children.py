"""Child processes: started, heard when ready, reaped; orphans reaped too.

The cluster process is the adopter of all its descendants: a replica whose
scheduler died ends as its child. So it waits for any child at all, with one
wait loop on SIGCHLD, and starts its own without asyncio's help, whose waiting
would meet this one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from dcf.cluster.process_id import KILL_WAIT_S, ProcessId, identify
from dcf.cluster.programs import Program
from dcf.lifecycle import adopt_orphans

HURRY_S = 3.0
"""What is left of any wait once the user asked for the second time."""

LOG_BYTES = 16 * 1024 * 1024
"""A log over this is put aside (one old one is kept) when its process starts."""

TAIL_BYTES = 16 * 1024


class Child:
    """One started process. Touched only by the event loop of the cluster process."""

    def __init__(self, program: Program, popen: subprocess.Popen[bytes], log: Path, log_start: int) -> None:
        loop = asyncio.get_running_loop()
        self.name = program.name
        self.process = identify(popen.pid) or ProcessId(pid=popen.pid, started="")
        self.exited: asyncio.Future[int] = loop.create_future()
        self.said_ready: asyncio.Future[bool] = loop.create_future()
        """False: it closed the descriptor without a word."""
        self._popen = popen
        self._log, self._log_start = log, log_start

    def on_exit(self, status: int) -> None:
        """Take what waitpid said."""
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        self.exited.set_result(self._popen.returncode)

    def send(self, number: signal.Signals) -> None:
        """Signal it; it is our child, so its pid is its own until it is reaped."""
        if not self.exited.done():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it with whatever it has in its session."""
        if not self.exited.done():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def how_it_ended(self) -> str:
        """Such as "exit status 1" or "SIGKILL"."""
        status = self.exited.result()
        if status >= 0:
            return f"exit status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def last_lines(self, number: int = 10) -> list[str]:
        """What it wrote last, oldest first."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - TAIL_BYTES))
                text = file.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-number:]


class Children:
    """All child processes. Touched only by the event loop of the cluster process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[int, Child] = {}

    def spawn(self, program: Program) -> Child:
        """Start it, its output to `logs/<name>.log`. Raises OSError."""
        log = self._folder / "logs" / f"{program.name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        try:
            with log.open("ab") as output:
                tells = program.probe is None
                popen = subprocess.Popen(
                    program.command,
                    env={**program.environ, **({"DCF_READY_FD": str(writable)} if tells else {})},
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(*program.keep_fds, *((writable,) if tells else ())),
                    # Ctrl-C at the terminal is for us alone: we stop them in order.
                    start_new_session=True,
                )
                child = Child(program, popen, log, output.tell())
        except BaseException:
            os.close(readable)
            raise
        finally:
            os.close(writable)
        self._running[popen.pid] = child
        _hear_ready(child, readable)
        return child

    def on_child_ended(self) -> None:
        """Reap everyone who has ended, ours and adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if child := self._running.pop(pid, None):
                child.on_exit(status)

    async def end(self, children: Sequence[Child], *, wait_s: float, hurry: asyncio.Future[None]) -> None:
        """SIGTERM to all at once, `wait_s` for all together (less once `hurry` is done), SIGKILL."""
        for child in children:
            child.send(signal.SIGTERM)
        await self.wait(children, wait_s=wait_s, hurry=hurry)
        await self._kill(children)

    async def wait(self, children: Sequence[Child], *, wait_s: float, hurry: asyncio.Future[None]) -> bool:
        """Wait for the ends of all, at most `wait_s`, and HURRY_S from `hurry` on; whether all have ended."""
        now = asyncio.get_running_loop().time
        deadline, hurried = now() + wait_s, False
        while running := {child.exited for child in children if not child.exited.done()}:
            if hurry.done() and not hurried:
                deadline, hurried = min(deadline, now() + HURRY_S), True
            if now() >= deadline:
                return False
            waited: set[asyncio.Future[Any]] = {*running} if hurried else {*running, hurry}
            await asyncio.wait(waited, timeout=deadline - now(), return_when=asyncio.FIRST_COMPLETED)
        return True

    async def end_all(self) -> None:
        """Kill whoever is left: nothing outlives the block that `open_children` opened."""
        await self._kill(list(self._running.values()))

    async def _kill(self, children: Sequence[Child]) -> None:
        for child in children:
            child.kill()
        if running := {child.exited for child in children if not child.exited.done()}:
            await asyncio.wait(running, timeout=KILL_WAIT_S)


@asynccontextmanager
async def open_children(folder: Path) -> AsyncIterator[Children]:
    """The children of this process, their logs below `folder`; none is left at the end of the block."""
    loop = asyncio.get_running_loop()
    children = Children(folder)
    adopt_orphans()
    loop.add_signal_handler(signal.SIGCHLD, children.on_child_ended)
    try:
        yield children
    finally:
        await children.end_all()
        loop.remove_signal_handler(signal.SIGCHLD)


def _hear_ready(child: Child, readable: int) -> None:
    loop = asyncio.get_running_loop()

    def close(_: object = None) -> None:
        if not child.said_ready.done():
            child.said_ready.set_result(False)
        loop.remove_reader(readable)
        os.close(readable)

    def on_readable() -> None:
        if not child.said_ready.done():
            child.said_ready.set_result(os.read(readable, 16) != b"")
        loop.remove_reader(readable)

    loop.add_reader(readable, on_readable)
    child.exited.add_done_callback(close)
