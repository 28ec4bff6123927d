"""The suite notices what a worker does wrong: it fails for each mutant, and passes for the worker itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker_conformance.conftest import option
from tests.worker_conformance.kinds import HANDLERS, WORKERS
from tests.worker_conformance.mutants import MUTANTS, Mutant

WORKER = WORKERS / "worker.py"
SUITE = Path(__file__).parent
ROOT = SUITE.parents[1]
SOURCES = sorted({mutant.source for mutant in MUTANTS})
WITHIN_S = 60.0
FAILED = 1
"""pytest's status where tests failed; 2 and more: it could not run them."""
SHORT_PATIENCE_S, PATIENCE_S = 2.0, 15.0
"""How long the tests wait for what a mutant may never do, and for what the worker does."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def about_the_suite(request: pytest.FixtureRequest) -> None:
    if option(request.config, "worker"):
        pytest.skip("it is about the suite and not about the worker that the options name")


def run_tests(worker: Path, source: str, *tests: str, patience_s: float) -> subprocess.CompletedProcess[str]:
    """Some of the suite's tests on one worker, up to the first failure."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DCF_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line",
         # Plugins that are not needed: more than half of the time of a start.
         "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist",
         "--worker", f"{sys.executable} {worker}", "--worker-source", str(HANDLERS / source),
         "--worker-file", "handler.py", *(str(SUITE / test) for test in tests)],
        cwd=ROOT, env=kept | {"DCF_CONFORMANCE_PATIENCE_S": str(patience_s)}, capture_output=True, text=True,
        timeout=WITHIN_S, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_suite_fails_for_a_worker_that_is_wrong_in_one_thing(mutant: Mutant, tmp_path: Path) -> None:
    text = WORKER.read_text()
    assert text.count(mutant.old) == 1, "worker.py has changed: write this mutant anew"
    mutated = tmp_path / "worker.py"
    mutated.write_text(text.replace(mutant.old, mutant.new))

    done = run_tests(mutated, mutant.source, mutant.killed_by, patience_s=SHORT_PATIENCE_S)

    assert done.returncode == FAILED, done.stdout + done.stderr
    assert f"FAILED tests/worker_conformance/{mutant.killed_by}" in done.stdout, done.stdout


@pytest.mark.parametrize("source", SOURCES)
def test_tests_that_fail_for_the_mutants_pass_for_the_worker_itself(source: str, tmp_path: Path) -> None:
    same = tmp_path / "worker.py"
    same.write_text(WORKER.read_text())
    tests = sorted({mutant.killed_by for mutant in MUTANTS if mutant.source == source})

    done = run_tests(same, source, *tests, patience_s=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
