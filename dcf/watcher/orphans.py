"""Reap what the function's own processes leave behind, where we are a container's first process.

In:   our children, twice in a row; the workers' pids.
Out:  zombies that nobody else waits for are gone.
A worker that starts programs and dies leaves them to the first process, which
is this one; unreaped, they would fill the container's limit of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

SWEEP_S = 5.0
"""A zombie costs an entry in a table and nothing else."""


async def run_orphans(worker_pids: Callable[[], set[int]]) -> NoReturn:
    """Sweep for ever; idle where we are not the first process."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(SWEEP_S)
        if os.getpid() == 1:
            before = sweep(before, worker_pids())


def sweep(before: set[int], ours: set[int]) -> set[int]:
    """Reap orphans that were there at the sweep before, and have ended; the orphans that are there now.

    Args:
        before: what the last sweep returned: a child that has just been started is not yet known as ours.
        ours: children that somebody waits for.
    """
    orphans = _children() - ours
    for pid in orphans & before:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return orphans


def _children() -> set[int]:
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in file.read_text().split()}
    return found
