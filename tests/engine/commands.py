"""Run a command of the system, and say what it said where it fails."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

FOLDER = Path(f"/var/tmp/dcf-engine-tests-{os.geteuid()}")
"""Everything that one run makes lies here: /var/tmp is a disk (images are large), and socket paths stay short. A user
has one, so that nobody meets a lock of somebody else's."""

IN_CI = os.environ.get("CI", "").lower() == "true"


def missing(what: str) -> NoReturn:
    """Skip on a laptop, fail in CI: `what` says what is not there and how to get it."""
    if IN_CI:
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def run(*command: str, check: bool = True, stdin: str | None = None, within_s: float = 60.0) -> str:
    """Run `command` and return its standard output.

    Raises:
        RuntimeError: it ended with an error and `check` is set; the message has what it wrote.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=within_s, check=False)
    if check and done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip() or done.stdout}")
    return done.stdout


def wait_for(condition: Callable[[], object], *, within_s: float, what: str, said: Callable[[], str] = str) -> None:
    """Poll until `condition` holds.

    Raises:
        RuntimeError: it did not within `within_s`; the message ends with what `said` returns (a log's end).
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {within_s} s {said()}".strip())
        time.sleep(0.02)


def end_of(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message; empty where there is none."""
    try:
        return "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
