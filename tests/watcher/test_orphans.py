"""A container's first process reaps what others leave to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dcf.watcher.orphans import sweep
from tests.conftest import child_pids, wait_until


def ended_child() -> int:
    """A process of ours that has ended and that nobody has waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    return pid


def test_an_orphan_is_reaped_at_the_second_sweep() -> None:
    pid = ended_child()

    first = sweep(set(), set())
    assert pid in first
    assert pid in child_pids()
    sweep(first, set())

    assert pid not in child_pids()


def test_a_child_that_somebody_waits_for_is_left_to_him() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")

    sweep(sweep(set(), {process.pid}), {process.pid})

    assert process.wait() == 3
