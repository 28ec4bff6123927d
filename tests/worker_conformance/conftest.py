"""One worker for each test: ours in turn, or the one that the options name.

`--worker COMMAND --worker-source FOLDER [--worker-file FILE] [--worker-inline yes]`, or the variables DCF_WORKER,
DCF_WORKER_SOURCE, DCF_WORKER_FILE and DCF_WORKER_INLINE: README.md says how.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SESSION_PIDS
from tests.worker_conformance import kinds
from tests.worker_conformance.inputs import command, hello_of
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.wire import Wire

OPTIONS = {
    "worker": "the command of the worker to test, without its two descriptors",
    "worker_source": "the folder with the handler under test, which is the worker's working folder",
    "worker_file": "the handler's file in it; nothing where the handler is compiled into the worker",
    "worker_inline": "`yes`: with one slot it reads no data socket while a handler runs",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only a run of this folder by its path has them; the variables work everywhere."""
    for name, what in OPTIONS.items():
        parser.addoption("--" + name.replace("_", "-"), dest=name, default=None, help=what)


def option(config: pytest.Config, name: str) -> str:
    return config.getoption(name, default=None) or os.environ.get("DCF_" + name.upper(), "")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `kind` once for each worker."""
    if "kind" in metafunc.fixturenames:
        names = ("foreign",) if option(metafunc.config, "worker") else kinds.OURS
        metafunc.parametrize("kind", names, indirect=True, scope="module")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same in all its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, run_folder: Path) -> Kind:
    if request.param != "foreign":
        return kinds.kind_of(request.param, run_folder)
    source = option(request.config, "worker_source")
    assert source, "--worker needs --worker-source, the folder of its handler under test"
    argv = tuple(shlex.split(option(request.config, "worker")))
    inline = option(request.config, "worker_inline") == "yes"
    return Kind(
        name=argv[0], command=argv, source=Path(source).resolve(), file=option(request.config, "worker_file"), can=None,
        slots=1 if inline else 4, reads_while_it_runs=not inline,
    )  # fmt: skip


Start = Callable[..., Wire]


class Starter:
    """Starts workers of one kind, and sees to their end."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self.wires: list[Wire] = []

    def __call__(
        self, *, environ: dict[str, str] | None = None, hello: bool = True, ready: bool = True, handler: str = "",
        **more: Any,
    ) -> Wire:  # fmt: skip
        """Start one.

        Args:
            environ: added to our own environment.
            hello: send HELLO; `more` are keys of it.
            ready: wait for its STATE.
            handler: another one than `Handler`.
        """
        kind = self._kind
        # What a handler prints shall have to be flushed at the end.
        left_out = ("DCF_", "CONFORMANCE_", "PYTHONUNBUFFERED")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        keys = {"slots": kind.slots} | more
        said = hello_of(source=kind.source, file=kind.file, handler=handler or kind.handler, **keys)
        wire = Wire(
            kind.command, source=kind.source, hello=said if hello else None, environ=kept | (environ or {}),
            folder=self._folder / f"worker-{len(self.wires)}",
        )  # fmt: skip
        self.wires.append(wire)
        if ready and hello:
            wire.until_ready()
        return wire

    def close(self) -> None:
        """End all of them, and look at each once more.

        Raises:
            AssertionError: one does not end, or was wrong to the last.
        """
        failures = []
        for wire in self.wires:
            try:
                wire.close()
            except AssertionError as failure:
                failures.append(str(failure))
        assert not failures, failures


@pytest.fixture
def start(kind: Kind, tmp_path: Path) -> Iterator[Start]:
    """Start a worker: `start(slots=2, environ={...}, hello=False)`, as `Starter` says; ended after the test."""
    starter = Starter(kind, tmp_path)
    yield starter
    starter.close()


@pytest.fixture
def own_worker(start: Start) -> Wire:
    """One with the slots of its kind, ready, for a test that leaves it in no state for another."""
    return start()


@pytest.fixture(scope="module")
def shared(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(kind, tmp_path_factory.mktemp("shared"))
    yield starter
    starter.close()


@pytest.fixture
def worker(shared: Starter) -> Iterator[Wire]:
    """One with the slots of its kind, ready; the next test of the module gets it too, if it is as good as new."""
    wire = shared.wires[-1] if shared.wires else None
    if wire is None or wire.data_ended or wire.closed:
        wire = shared()
        SESSION_PIDS.add(wire.process.pid)
    yield wire
    try:
        wire.forget()
    except BaseException:
        wire.close()
        raise


class Holds:
    """Calls that run until the test lets them go, and what they have written down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "log"
        self.log.touch()

    def hold(self, name: str, do: str = "hold", **more: Any) -> bytes:
        """The command for a call that writes "started NAME", waits for `release(NAME)`, and writes "ended NAME"."""
        return command(do, name=name, log=str(self.log), until=str(self._folder / f"go-{name}"), **more)

    def release(self, name: str) -> None:
        (self._folder / f"go-{name}").touch()

    def lines(self) -> list[str]:
        """Whole lines only."""
        return [line.strip() for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def started(self) -> list[str]:
        return [line.removeprefix("started ") for line in self.lines() if line.startswith("started ")]

    def until_started(self, wire: Wire, *names: str) -> None:
        wire.until(lambda: set(names) <= set(self.started()), f"the start of {', '.join(names)}")


@pytest.fixture
def holds(tmp_path: Path) -> Holds:
    return Holds(tmp_path)
