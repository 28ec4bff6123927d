"""The file that a container's health check reads, and the check itself, as an image has it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import dcf.watcher.health_probe
from dcf.watcher.state_file import write_state
from tests.conftest import until
from tests.watcher.harness import run_watcher

PROBE = Path(dcf.watcher.health_probe.__file__)


def probe(path: Path | str) -> tuple[int, str]:
    """Exit status and words of the check."""
    command = [sys.executable, "-I", "-S", str(PROBE)]
    done = subprocess.run(command, env={"DCF_STATE_FILE": str(path)}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("state", "code"), [("ready", 0), ("busy", 0), ("draining", 0), ("starting", 1), ("failed", 1)]
)
def test_a_replica_is_well_when_it_serves_or_drains(tmp_path: Path, state: str, code: int) -> None:
    write_state(tmp_path / "state", state, now=time.monotonic())

    assert probe(tmp_path / "state") == (code, "" if code == 0 else f"the replica is {state}")


def test_a_watcher_that_says_nothing_any_more_is_not_well(tmp_path: Path) -> None:
    write_state(tmp_path / "state", "ready", now=time.monotonic() - 60)

    assert probe(tmp_path / "state") == (1, "the watcher has said nothing for 60 s")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "torn").write_text('{"sta')

    assert probe("")[1].startswith("DCF_STATE_FILE is not set")
    assert probe(tmp_path / "none") == (1, "the watcher has written no state yet (No such file or directory)")
    assert probe(tmp_path / "torn")[0] == 1


async def test_a_watcher_writes_the_file_from_its_start_to_its_end(short_path: Path) -> None:
    state = short_path / "state"

    async with run_watcher(short_path, "def Handler(req):\n    return b''\n", watcher={"DCF_STATE_FILE": str(state)}):
        await until(lambda: probe(state) == (0, ""), what="a healthy replica")
        before = state.stat().st_mtime_ns
        await until(lambda: state.stat().st_mtime_ns > before, what="a newer file")

    assert not list(short_path.glob("state.new"))
