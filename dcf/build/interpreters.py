"""Find the Python that a function asks for, by running what is there.

In:   a version: "3", "3.6" or "3.11.7".
Out:  Interpreter: one that was started and said its version itself. A file's name
      proves nothing: pyenv puts a `python3.6` on PATH that only prints an error.
What was found is remembered for the life of the process.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from dcf.build.steps import read_output
from dcf.errors import BuildError

OLDEST = (3, 6)
PROBE_TIMEOUT_S = 10.0  # a start takes 20 to 200 ms; ten seconds is a machine in trouble
MAX_CANDIDATES = 200
_NAME = re.compile(r"python(3(\.\d+)?)?")
_PARALLEL = 8

# Speaks every Python, 2.7 included. -I keeps the user's own site out of it.
_PROBE = """
import json, os, sys
base = getattr(sys, "base_prefix", sys.prefix)
exe = sys.executable
if base != sys.prefix:
    name = "python%d.%d" % sys.version_info[:2]
    exe = getattr(sys, "_base_executable", "") or exe
    if os.path.exists(os.path.join(base, "bin", name)):
        exe = os.path.join(base, "bin", name)
parts = []
for name in ("venv", "ensurepip"):
    try:
        __import__(name)
        parts.append(name)
    except ImportError:
        pass
final = sys.version_info[3] == "final"
print(json.dumps([os.path.realpath(exe), list(sys.version_info[:3]), final, parts]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python on this machine that answered."""

    path: str
    """Absolute, links resolved; never one of a virtual environment."""
    version: tuple[int, int, int]
    final: bool = True
    """False: an alpha, beta or candidate."""
    has_venv: bool = True
    has_pip: bool = True
    """It can put pip into a virtual environment (ensurepip; Debian ships it apart)."""

    @property
    def version_text(self) -> str:
        """`3.6.15`."""
        return ".".join(str(part) for part in self.version)


def own_version() -> str:
    """Major and minor of the interpreter that runs dcf: `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@cache
def find_interpreter(wanted: str) -> Interpreter:
    """The best interpreter of a version.

    The one that runs dcf where it fits; else the newest that fits, finished
    releases and those with pip before others.

    Args:
        wanted: "3", "3.6" or "3.11.7"; "" is the version of the interpreter that runs dcf.

    Raises:
        BuildError: none fits; lists what is there.
    """
    parts = tuple(int(part) for part in (wanted or own_version()).split("."))
    # The likely ones first: an answer without starting all that a machine has.
    everything = list(islice(_candidates(), MAX_CANDIDATES))
    likely = [path for path in everything if _likely(path, wanted or own_version())]
    for stage in ([_own_base()], likely, everything):
        fitting = [found for found in _probe_all(stage) if found.version[: len(parts)] == parts]
        if good := [found for found in fitting if found.has_venv and found.has_pip]:
            return max(good, key=_rank)
        if fitting and stage is everything:
            return max(fitting, key=_rank)
    raise BuildError(f"Python {wanted} is not on this machine; {_what_is_there(_probe_all(everything))}")


def list_interpreters() -> list[Interpreter]:
    """All of 3.6 and later that answer, newest first, each once."""
    return _probe_all(list(islice(_candidates(), MAX_CANDIDATES)))


def _rank(found: Interpreter) -> tuple[bool, bool, bool, tuple[int, int, int]]:
    return (found.final, found.has_venv, found.has_pip, found.version)


def _what_is_there(found: list[Interpreter]) -> str:
    there = ", ".join(f"{one.version_text} ({one.path})" for one in found) or "none"
    return (
        f"there: {there}. Install it (pyenv install, uv python install or your system's packages), "
        "or name another one in build_args, PYTHON_VERSION"
    )


def _probe_all(paths: list[str]) -> list[Interpreter]:
    with ThreadPoolExecutor(max_workers=_PARALLEL, thread_name_prefix="dcf-interpreters") as pool:
        answers = pool.map(_probe, paths)
        found = {one.path: one for one in answers if one is not None and one.version >= (*OLDEST, 0)}
    return sorted(found.values(), key=lambda one: one.version, reverse=True)


@cache
def _probe(path: str) -> Interpreter | None:
    answer = read_output([path, "-I", "-c", _PROBE], timeout_s=PROBE_TIMEOUT_S)
    try:
        real, version, final, parts = json.loads(answer or "")
        major, minor, micro = version
        return Interpreter(
            path=str(real),
            version=(int(major), int(minor), int(micro)),
            final=bool(final),
            has_venv="venv" in parts,
            has_pip="ensurepip" in parts,
        )
    except (ValueError, TypeError):  # no Python, or one that is broken
        return None


def _likely(path: str, wanted: str) -> bool:
    minor = ".".join(wanted.split(".")[:2])
    exact = re.compile(rf"(?<![\d.]){re.escape(minor)}(?![\d])")
    return "/shims/" not in path and exact.search(path) is not None


def _own_base() -> str:
    return getattr(sys, "_base_executable", "") or sys.executable


def _candidates() -> Iterator[str]:
    """Paths that may be Pythons, each file once, the likeliest homes first."""
    seen: set[str] = set()
    for folder in _folders():
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if _NAME.fullmatch(entry.name))
        except OSError:
            continue
        for name in names:
            path = str(folder / name)
            real = os.path.realpath(path)
            # A shim's file is the same for all names, and its name is what it acts on.
            identity = path if "/shims" in path else real
            if identity not in seen and os.access(path, os.X_OK):
                seen.add(identity)
                yield path


def _folders() -> Iterable[Path]:
    home = Path.home()
    yield Path(_own_base()).parent
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"
    pyenv = os.environ.get("PYENV_ROOT") or home / ".pyenv"
    yield from sorted(Path(pyenv).glob("versions/*/bin"))
    yield from sorted(Path(uv).glob("*/bin"))
    for part in os.environ.get("PATH", "").split(os.pathsep):
        if part:
            yield Path(part)
    yield from (Path("/usr/local/bin"), Path("/usr/bin"))
    yield from sorted(Path("/opt").glob("*/bin"))
    yield from sorted(Path("/opt").glob("*/*/bin"))
