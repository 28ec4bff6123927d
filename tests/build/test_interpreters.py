from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcf.build import interpreters
from dcf.build.interpreters import find_interpreter, list_interpreters
from dcf.errors import BuildError
from tests.conftest import wait_until


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nothing is remembered of a search before, and nothing of this one after."""
    interpreters.find_interpreter.cache_clear()
    interpreters._probe.cache_clear()
    yield
    interpreters.find_interpreter.cache_clear()
    interpreters._probe.cache_clear()


def put_program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_own_version_is_the_own_interpreter_and_not_a_virtual_environments() -> None:
    found = find_interpreter("")

    assert found.version == sys.version_info[:3]
    assert not Path(found.path).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix


def test_what_is_found_really_runs_and_is_of_that_version() -> None:
    for found in list_interpreters():
        said = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.strip() == f"Python {found.version_text}"


def test_every_version_that_is_there_is_found_by_its_three_forms() -> None:
    newest = list_interpreters()[0]
    major, minor, micro = newest.version

    assert find_interpreter(f"{major}").version[0] == 3
    assert find_interpreter(f"{major}.{minor}").version[:2] == (major, minor)
    assert find_interpreter(f"{major}.{minor}.{micro}").version == newest.version


def test_each_is_listed_once_newest_first_and_none_before_3_6() -> None:
    found = list_interpreters()

    assert [one.path for one in found] == list(dict.fromkeys(one.path for one in found))
    assert [one.version for one in found] == sorted((one.version for one in found), reverse=True)
    assert all(one.version >= (3, 6, 0) for one in found)


def test_a_missing_version_is_refused_with_what_is_there() -> None:
    own = ".".join(str(part) for part in sys.version_info[:3])

    with pytest.raises(BuildError) as caught:
        find_interpreter("3.99")

    assert "Python 3.99 is not on this machine; there: " in str(caught.value)
    assert own in str(caught.value)


def test_a_name_that_only_prints_an_error_is_no_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    put_program(tmp_path / "shims", "python3.98", "echo 'python3.98: command not found' >&2; exit 127")
    put_program(tmp_path / "lies", "python3.97", "echo '[1, 2]'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'lies'}:{os.environ['PATH']}")

    for wanted in ("3.98", "3.97"):
        with pytest.raises(BuildError, match=f"Python {wanted} is not on this machine"):
            find_interpreter(wanted)


@pytest.mark.slow
def test_a_candidate_that_never_ends_is_given_up_on_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    put_program(tmp_path / "bin", "python3.96", f"echo $$ > {tmp_path}/pid; sleep 1000 & wait")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(interpreters, "PROBE_TIMEOUT_S", 0.5)
    begun = time.monotonic()

    with pytest.raises(BuildError, match=r"Python 3\.96 is not on this machine"):
        find_interpreter("3.96")

    assert time.monotonic() - begun < 30
    # What was killed is there until init has reaped it.
    wait_until(lambda: not _group_exists(int((tmp_path / "pid").read_text())), what="the end of the whole group")


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_search_that_was_made_is_remembered() -> None:
    find_interpreter("")
    begun = time.monotonic()

    for _ in range(100):
        find_interpreter("")

    assert time.monotonic() - begun < 0.1
