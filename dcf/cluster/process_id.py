"""Who a process is: its pid and its kernel start time, never the pid alone.

A pid that was written to a file may belong to somebody else by now; a process
is signalled only where both agree.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
"""Between two looks at processes that are no children of ours: nothing tells of their end."""

KILL_WAIT_S = 5.0
"""After SIGKILL the kernel needs a moment; a process in uninterruptible sleep needs longer and is let be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process, of all that ever ran on this machine."""

    pid: int
    started: str
    """`<boot id>:<clock ticks since boot>`; "" where the kernel does not say: such a process is never signalled."""


def identify(pid: int) -> ProcessId | None:
    """The process that has `pid` now; None where there is none, or it has ended and waits for its parent."""
    try:
        # The name in parentheses may hold blanks and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if Path("/proc/self").exists() else ProcessId(pid=pid, started="")
    return None if fields[0] in {"Z", "X"} else ProcessId(pid=pid, started=f"{boot}:{fields[19]}")


def is_alive(process: ProcessId) -> bool:
    """Whether that very process still runs."""
    return process.started != "" and identify(process.pid) == process


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal the process if it still runs; whether it did."""
    if not is_alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(processes: Collection[ProcessId], wait_s: float) -> bool:
    """Wait until all have ended, at most `wait_s`; whether they have."""
    deadline = time.monotonic() + wait_s
    while any(is_alive(process) for process in processes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(processes: Collection[ProcessId], *, wait_s: float, terminate: bool = True) -> None:
    """End those that still run: SIGTERM (unless they have had theirs), `wait_s`, SIGKILL."""
    if terminate:
        for process in processes:
            send(process, signal.SIGTERM)
    if not wait_gone(processes, wait_s):
        for process in processes:
            send(process, signal.SIGKILL)
        wait_gone(processes, KILL_WAIT_S)
