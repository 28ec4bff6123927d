"""Which workers the suite runs on, and what each of them must be able to do.

In:   the options of conftest.py.
Out:  one Kind for each worker under test.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.commands import missing

HANDLERS = Path(__file__).parent / "handlers"
WORKERS = Path(__file__).parents[2] / "dcf" / "watcher" / "worker"

BIDIRECTIONAL = "bidirectional"
BATCH = "batch"
CONTENT_KINDS = "content kinds in streams"
GENERATORS = "streams as the answer to one input"
TRACEBACKS = "tracebacks"
LENGTH = "`length` of an answer in several frames"
OWN_WINDOW = "a window of streams of input that does not grow"
LOADS_FILES = "a handler file that is loaded at the start"
OTHER_HANDLERS = "the handlers Plain and StreamOnly"

EVERYTHING = frozenset(
    {BIDIRECTIONAL, BATCH, CONTENT_KINDS, GENERATORS, TRACEBACKS, LENGTH, OWN_WINDOW, LOADS_FILES, OTHER_HANDLERS}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One worker under test, with the handler of known behaviour in its language."""

    name: str
    command: tuple[str, ...]
    """Without the two descriptors."""
    source: Path
    file: str
    handler: str = "Handler"
    can: frozenset[str] | None
    """What it must be able to do; None: not ours, and what it says in STATE decides."""
    slots: int = 4
    """That HELLO gives where the test does not say."""
    reads_while_it_runs: bool = True
    """False where one thread reads the data socket and runs the handler."""

    @property
    def ours(self) -> bool:
        return self.can is not None

    def needs(self, ability: str, *, has: bool) -> None:
        """Skip the test where a worker cannot do this and need not.

        Args:
            ability: one of those above.
            has: what the worker has said or shown.

        Raises:
            AssertionError: it is ours, and has not what it must have, or has what nobody knows of.
        """
        if self.can is not None:
            assert has == (ability in self.can), f"{self.name}: {ability}: {has}"
        if not has:
            pytest.skip(f"{self.name} has not: {ability}")


def kind_of(name: str, folder: Path) -> Kind:
    """One of ours. Skips, or fails in CI, where its toolchain is missing."""
    if name.startswith("python"):
        folder = HANDLERS / ("python_async" if name == "python-async" else "python")
        command = (sys.executable, str(WORKERS / "worker.py"))
        if name == "python-plain":
            return Kind(
                name=name, command=command, source=folder, file="handler.py", handler="Plain",
                can=EVERYTHING - {BIDIRECTIONAL}, slots=1, reads_while_it_runs=False,
            )  # fmt: skip
        return Kind(name=name, command=command, source=folder, file="handler.py", can=EVERYTHING)
    if name == "node":
        node = shutil.which("node") or missing("node is not there: install Node.js 18 or later")
        worker = WORKERS / "worker.mjs"
        return Kind(name=name, command=(node, str(worker)), source=HANDLERS / "node", file="handler.js", can=EVERYTHING)
    assert name == "go"
    return Kind(
        name=name, command=(str(go_worker(folder)),), source=HANDLERS / "go", file="",
        can=frozenset({BIDIRECTIONAL, LENGTH, OWN_WINDOW}),
    )  # fmt: skip


OURS = ("python", "python-async", "python-plain", "go", "node")


@functools.cache
def go_worker(folder: Path) -> Path:
    """The worker with handlers/go compiled in; one process of a run builds it, the others wait."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        missing("go is not there: install Go, or put it into /usr/local/go")
    built = folder / "go-worker"
    with (folder / "go-worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            done = subprocess.run(
                [go, "run", "./compile", "-source", str(HANDLERS / "go"), "-file", "handler.go", "-handler", "Handler",
                 "-out", str(built)],
                cwd=WORKERS / "go", capture_output=True, text=True, timeout=110, check=False,
                env=os.environ | {"PATH": f"{Path(go).parent}:{os.environ.get('PATH', '')}"},
            )  # fmt: skip
            assert done.returncode == 0, f"the Go worker does not compile: {done.stdout}{done.stderr}"
    return built
