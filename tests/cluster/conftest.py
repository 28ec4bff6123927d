"""Clusters in processes of their own, ended whatever a test did to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcf.cluster.process_id import ProcessId, end
from dcf.cluster.state import read_cluster
from tests.conftest import wait_until

STAND_IN = Path(__file__).parent / "stand_in.py"


class Up:
    """One `dcf up` of the stand-in kind, or of the real one."""

    def __init__(self, state: Path, command: list[str], **more: str) -> None:
        self.state = state
        self.events_file = state.parent / "events"
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("DCF_")} | {
            "DCF_STATE": str(state),
            "DCF_BUNDLES": str(state.parent / "bundles"),
            "DCF_LISTEN": "127.0.0.1:0",
            "STAND_IN_EVENTS": str(self.events_file),
            **more,
        }
        self.process = subprocess.Popen(
            command,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._known: dict[str, ProcessId] = {}

    def until_ready(self) -> Up:
        def ready() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            facts = read_cluster(self.state)
            return facts is not None and facts.alive and facts.pid == self.process.pid

        wait_until(ready, within_s=30, what="a ready cluster")
        self._remember()
        return self

    @property
    def address(self) -> tuple[str, int]:
        facts = read_cluster(self.state)
        assert facts
        host, _, port = facts.address.rpartition(":")
        return host, int(port)

    def ask(self) -> list[str]:
        """Which gateway answers: its name, pid and DCF_* names."""
        with socket.create_connection(self.address, timeout=10) as connection:
            return connection.makefile().read().split()

    def pids(self) -> dict[str, int]:
        try:
            records = json.loads((self.state / "processes.json").read_text())
        except OSError:
            return {}
        self._known |= {f"{name} {data['pid']}": ProcessId(**data) for name, data in records.items()}
        return {name: data["pid"] for name, data in records.items()}

    def _remember(self) -> None:
        self.pids()

    def events(self) -> list[str]:
        return self.events_file.read_text().splitlines() if self.events_file.exists() else []

    def stopped_in_order(self) -> list[str]:
        return [line for line in self.events() if line.endswith("stopped") or line.startswith("stop-replicas")]

    def stop(self, *, within_s: float = 30) -> tuple[int, str, str]:
        """SIGTERM; status, stdout and stderr."""
        self.process.terminate()
        return self.finish(within_s=within_s)

    def finish(self, *, within_s: float = 30) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=within_s)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self._remember()
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def close(self) -> None:
        self.pids()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        end(list(self._known.values()), wait_s=0.0)


@pytest.fixture
def up(short_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts clusters; the keyword arguments are variables."""
    ups: list[Up] = []

    def start(*, state: Path | None = None, real: bool = False, **more: str) -> Up:
        command = [sys.executable, "-m", "dcf.cluster"] if real else [sys.executable, str(STAND_IN), "cluster"]
        ups.append(Up(state or short_path / "state", command, **more))
        return ups[-1]

    yield start
    for one in ups:
        one.close()
