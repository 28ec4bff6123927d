"""What is known of the cluster on this machine: its state folder.

lock            held (flock) while a cluster has the folder; says who has it
cluster.json    there while a cluster is ready: what the CLI asks
processes.json  what was started, by pid and start time, so that the leftovers
                of a killed cluster are found
logs/  redis/  replicas/  sockets/

The CLI uses `read_cluster`, `stop_cluster` and the default folders.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcf.cluster.process_id import ProcessId, end, is_alive, send, wait_gone
from dcf.cluster.programs import name_of, stop_replicas_program
from dcf.errors import ConfigError, DcfError

LEFTOVER_WAIT_S = 10.0
"""Gateways and scheduler end by themselves when their supervisor is killed; they drain, but nobody waits a minute."""

REPLICAS_WAIT_S = 100.0
"""A replica finishes its calls: the default timeout, kill_after and a margin."""

StopOutcome = Literal["stopped", "cleaned", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """cluster.json."""

    pid: int
    started: str
    """With `pid` the identity of the supervisor, see ProcessId."""
    started_at: float
    address: str
    """host:port at which this machine reaches the gateway."""
    version: str
    backend: str
    gateway_processes: int
    store_url: str
    bundles: str
    cluster: str = ""
    """Its name on a Docker engine; "" where an earlier release wrote the file."""
    alive: bool = dataclasses.field(default=False, compare=False)
    """Whether the supervisor runs now; not in the file."""

    @property
    def process(self) -> ProcessId:
        """The supervisor."""
        return ProcessId(pid=self.pid, started=self.started)


def default_state(environ: Mapping[str, str]) -> Path:
    """$DCF_STATE, else ~/.dcf/state; absolute."""
    return _folder(environ, "DCF_STATE", "state")


def default_bundles(environ: Mapping[str, str]) -> Path:
    """$DCF_BUNDLES, else ~/.dcf/bundles; absolute."""
    return _folder(environ, "DCF_BUNDLES", "bundles")


def _folder(environ: Mapping[str, str], name: str, leaf: str) -> Path:
    if chosen := environ.get(name):
        return Path(chosen).expanduser().absolute()
    return Path(environ.get("HOME") or Path.home()) / ".dcf" / leaf


def read_cluster(state: Path) -> ClusterFacts | None:
    """The cluster that says it is ready in `state`; `alive` is False where it was killed. None: there is none."""
    return _read_facts(state / "cluster.json")


def stop_cluster(state: Path, timeout_s: float, environ: Mapping[str, str] | None = None) -> StopOutcome:
    """Stop the cluster of `state` in order, or clean up what a killed one left.

    Args:
        timeout_s: how long a running cluster may take; it finishes its calls first.
        environ: for the program that stops leftover replicas; default: this process's own.

    Raises:
        DcfError: it still runs after `timeout_s`.
    """
    facts = _read_facts(state / "lock")
    if facts and send(facts.process, signal.SIGTERM):
        if not wait_gone([facts.process], timeout_s):
            raise DcfError(f"the cluster (pid {facts.pid}) is still stopping after {timeout_s:g} s: it finishes calls")
        return "stopped"
    if not (state / "lock").exists():
        return "nothing"
    with hold_state(state) as folder:
        return "cleaned" if folder.clean(dict(os.environ if environ is None else environ)) else "nothing"


@contextmanager
def hold_state(path: Path) -> Iterator[StateFolder]:
    """The folder, made where it is missing, for this process alone.

    Raises:
        ConfigError: another cluster has it, or it cannot be written.
    """
    try:
        for folder in (path, path / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the state folder {path} cannot be written ({error.strerror}): "
            "choose another with --state DIR or DCF_STATE"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(_who_has(path)) from None
        former = _read_facts(path / "lock")
        os.truncate(lock, 0)
        yield StateFolder(path, lock, former)
    finally:
        os.close(lock)


class StateFolder:
    """The state folder of this process. Touched only by the process that holds its lock."""

    def __init__(self, path: Path, lock: int, former: ClusterFacts | None) -> None:
        self.path = path
        self._lock = lock
        self._former = former
        self._running: dict[str, ProcessId] = {}

    def announce(self, facts: ClusterFacts) -> None:
        """Say who has the lock."""
        text = _facts_text(facts).encode()
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, text, 0)

    def write_ready(self, facts: ClusterFacts) -> None:
        """Write cluster.json."""
        _write(self.path / "cluster.json", _facts_text(facts))

    def record(self, name: str, process: ProcessId | None) -> None:
        """Remember that `process` runs under `name`; None: no longer."""
        if process:
            self._running[name] = process
        else:
            self._running.pop(name, None)
        records = {name: dataclasses.asdict(process) for name, process in self._running.items()}
        _write(self.path / "processes.json", json.dumps(records, indent=2) + "\n")

    def close(self) -> None:
        """After an orderly stop nothing says that there is a cluster."""
        for name in ("cluster.json", "processes.json"):
            (self.path / name).unlink(missing_ok=True)
        os.truncate(self._lock, 0)

    def was_other(self, backend: str, cluster: str) -> bool:
        """Whether the killed cluster that had the folder ran its replicas where this one will not look for them."""
        former = self._former
        return former is not None and (former.backend, former.cluster or cluster) != (backend, cluster)

    def end_leftovers(self) -> list[str]:
        """End what a killed cluster left but its replicas, Redis last; the names of what ran."""
        records = _read_records(self.path / "processes.json")
        running = [name for name, process in records.items() if is_alive(process)]
        # Their parent's death was their SIGTERM; a second one would cut their calls short.
        end([process for name, process in records.items() if name != "redis"], wait_s=LEFTOVER_WAIT_S, terminate=False)
        end([process for name, process in records.items() if name == "redis"], wait_s=LEFTOVER_WAIT_S)
        (self.path / "processes.json").unlink(missing_ok=True)
        (self.path / "cluster.json").unlink(missing_ok=True)
        return running

    def clean(self, environ: Mapping[str, str]) -> bool:
        """End all leftovers, replicas too; whether there were any. Raises DcfError where that failed."""
        facts = self._former
        found = (self.path / "cluster.json").exists()
        found = bool(self.end_leftovers()) or found
        backend = facts.backend if facts else "process"
        # What runs on an engine, only the engine knows.
        if backend == "docker" or any((self.path / "replicas").glob("*/replica.json")):
            found = True
            bundles = Path(facts.bundles) if facts else default_bundles(environ)
            program = stop_replicas_program(
                state=self.path,
                bundles=bundles,
                store_url=facts.store_url if facts else "unix:///",
                backend=backend,
                cluster=facts.cluster if facts and facts.cluster else name_of(str(self.path)),
                environ=environ,
            )
            try:
                done = subprocess.run(
                    program.command,
                    env=dict(program.environ),
                    cwd=self.path,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=REPLICAS_WAIT_S,
                )
            except subprocess.TimeoutExpired:
                raise DcfError(f"the replicas in {self.path} did not stop within {REPLICAS_WAIT_S:g} s") from None
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise DcfError(f"the replicas in {self.path} could not be stopped: {lines[-1].removeprefix('dcf: ')}")
        self.close()
        return found


def _who_has(path: Path) -> str:
    facts = _read_facts(path / "lock")
    who = f" (pid {facts.pid}, {facts.address})" if facts else ""
    return (
        f"a cluster with the state folder {path} is running already{who}: stop it with `dcf down --state {path}`, "
        "or choose another folder with --state"
    )


def _facts_text(facts: ClusterFacts) -> str:
    data = dataclasses.asdict(facts)
    del data["alive"]
    return json.dumps(data, indent=2) + "\n"


def _read_facts(path: Path) -> ClusterFacts | None:
    data = _read_json(path)
    names = {field.name for field in dataclasses.fields(ClusterFacts)} - {"alive"}
    try:
        facts = ClusterFacts(**{key: value for key, value in data.items() if key in names})
    except TypeError:
        return None
    return dataclasses.replace(facts, alive=is_alive(facts.process))


def _read_records(path: Path) -> dict[str, ProcessId]:
    records: dict[str, ProcessId] = {}
    for name, data in _read_json(path).items():
        with suppress(TypeError):
            records[name] = ProcessId(**data)
    return records


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(path: Path, text: str) -> None:
    # A reader finds the old file or the new one, never half of one.
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
