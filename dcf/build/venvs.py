"""The virtual environments of bundles: one for each interpreter and set of requirements.

In:   an interpreter and requirements.txt.
Out:  `<bundles>/venvs/<digest>/`, shared by all functions that want the same.
A virtual environment cannot be moved (its paths are written into it), so it is
made in its place, under a lock; only a marker, written last, makes it trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcf.build.interpreters import Interpreter
from dcf.build.lock import locked
from dcf.build.steps import OnOutput, run_step
from dcf.errors import BuildError

VENVS = "venvs"
REQUIREMENTS = "requirements.txt"
_MARKER = "dcf-complete.json"
_FORMAT = "1"
# A line that takes in another file: then all sources count, not the line alone.
_LOCAL = re.compile(r"-[rcef]|--(requirement|constraint|editable|find-links)|\.{1,2}/|/|[^:]*\.(whl|tar\.gz|zip)\b")
# Python 3.6 brings pip 18, which knows no manylinux2014: most of its last wheels are that.
_PIP_FOR_36 = "pip>=21.3,<22"


@dataclass(frozen=True, slots=True, kw_only=True)
class VenvPlan:
    """Which environment a function needs. Pure but for having read requirements.txt."""

    folder: Path
    digest: str
    interpreter: Interpreter
    requirements: tuple[str, ...]
    """The lines that say something."""
    file: Path

    @property
    def python(self) -> str:
        """What runs the function's code."""
        return str(self.folder / "bin" / "python")

    @property
    def is_complete(self) -> bool:
        """Whether it was finished, and its interpreter is still there."""
        return (self.folder / _MARKER).is_file() and os.access(self.python, os.X_OK)


def plan_venv(bundles: Path, interpreter: Interpreter, source: Path, sources_digest: Callable[[], str]) -> VenvPlan:
    """Say which environment `source` needs.

    Args:
        sources_digest: of the whole source folder; asked only where requirements.txt names files in it.
    """
    file = source / REQUIREMENTS
    lines = read_requirements(file)
    parts = [_FORMAT, interpreter.path, interpreter.version_text, *lines]
    if names_files(lines):
        parts.append(sources_digest())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return VenvPlan(
        folder=bundles / VENVS / digest, digest=digest, interpreter=interpreter, requirements=lines, file=file
    )


def read_requirements(file: Path) -> tuple[str, ...]:
    """The lines that say something; none where there is no file. Raises BuildError."""
    if not file.is_file():
        return ()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BuildError(f"{file}: not a text in UTF-8: {error.reason} at byte {error.start}") from error
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return tuple(line for line in bare if line)


def names_files(lines: tuple[str, ...]) -> bool:
    """Whether requirements take in files beside them, so that all sources count, not the lines alone."""
    return any(_LOCAL.match(line) or "file:" in line for line in lines)


def ensure_venv(plan: VenvPlan, *, on_output: OnOutput) -> bool:
    """Make the environment unless it is there. Returns whether it was made now. Raises BuildError."""
    if plan.is_complete:
        return False
    interpreter = plan.interpreter
    if not interpreter.has_venv or (plan.requirements and not interpreter.has_pip):
        raise BuildError(
            f"{interpreter.path} cannot make a virtual environment with pip: install its venv package "
            f"(Debian: python{interpreter.version[0]}.{interpreter.version[1]}-venv), or name another PYTHON_VERSION"
        )

    def on_wait() -> None:
        on_output("==> waiting for another build that makes the same virtual environment")

    with locked(plan.folder.with_suffix(".lock"), on_wait=on_wait) as lock:
        if plan.is_complete:
            return False
        if plan.folder.exists():  # an interrupted build's
            shutil.rmtree(plan.folder)
        try:
            _make(plan, lock, on_output)
        except BaseException:
            shutil.rmtree(plan.folder, ignore_errors=True)
            raise
    return True


def _make(plan: VenvPlan, lock: int, on_output: OnOutput) -> None:
    create = [plan.interpreter.path, "-I", "-m", "venv"]
    if not plan.requirements:
        create.append("--without-pip")
    run_step(
        "make the virtual environment",
        [*create, str(plan.folder)],
        on_output=on_output,
        folder=Path("/"),
        keep_open=[lock],
    )
    if plan.requirements:
        # -I: a file of the user's that is called like a module of Python must not come between.
        pip = [plan.python, "-I", "-u", "-m", "pip", "install", "--progress-bar", "off"]
        if plan.interpreter.version < (3, 7):
            try:
                run_step(
                    "bring pip up to date", [*pip, "--upgrade", _PIP_FOR_36], on_output=on_output, keep_open=[lock]
                )
            except BuildError:  # no index within reach; what is asked for may lie on this machine
                on_output("==> going on with the pip that is there")
        run_step(
            f"install {plan.file}",
            [*pip, "-r", str(plan.file)],
            on_output=on_output,
            folder=plan.file.parent,
            keep_open=[lock],
        )
    facts = {"python": plan.interpreter.version_text, "requirements": plan.requirements}
    unfinished = plan.folder / f"{_MARKER}.tmp"
    unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(plan.folder / _MARKER)
