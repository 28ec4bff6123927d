"""Make /opt/function: the environment that the handler runs in. Refuses a base that cannot work.

Runs in a stage FROM the base, with the packed interpreter of the watcher. Takes the
base's own Python where it fits (PYTHON_VERSION, or any from 3.6 on), so that the base's
packages stay in sight; else the one in /opt/python, which is emptied where it is not needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from dcf.build.stage.own_python import PIP, TARGET
from dcf.build.stage.pack import SYSTEM_SUFFIX, Facts, probe, refuse, say
from dcf.build.stage.pip import INSTALL, run

FUNCTION = Path("/opt/function")
REQUIREMENTS = Path("/.dcf/requirements")
OLDEST = (3, 6)
# Python 3.6 brings pip 18, which knows no manylinux2014: most of its last wheels are that.
_PIP_FOR_36 = "pip>=21.3,<22"
# The worker's own imports: a base may carry a Python without some of them (python3-minimal).
_NEEDS = "import asyncio, concurrent.futures, importlib.util, inspect, json, queue, socket, struct, threading, venv"
_LIKELY = ("/usr/local/bin", "/opt/conda/bin", "/usr/bin", "/usr/local/python/bin")


def main() -> None:
    """The whole stage."""
    wanted = tuple(int(part) for part in os.environ.get("PYTHON_VERSION", "").split(".") if part)
    facts = _base_python(wanted)
    if facts is not None:
        say(f"the handler runs on the base's Python {facts.text} ({facts.executable})")
        shutil.rmtree(TARGET / "lib", ignore_errors=True)
        shutil.rmtree(TARGET / "bin", ignore_errors=True)
    else:
        facts = _own_python(wanted)
    _check(facts)
    _make(facts)
    for leftover in (PIP, *TARGET.glob("lib/python3.*/ensurepip")):
        shutil.rmtree(leftover, ignore_errors=True)


def _base_python(wanted: tuple[int, ...]) -> Facts | None:
    """The base's best Python that fits; says which others there are."""
    names = ["python3", "python"]
    if len(wanted) > 1:
        names.insert(0, f"python{wanted[0]}.{wanted[1]}")
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), *_LIKELY])
    others = []
    for name in names:
        for folder in folders:
            path = Path(folder) / name
            if not path.is_file() or not os.access(path, os.X_OK) or path.is_relative_to("/opt/dcf"):
                continue
            facts = probe(str(path))
            if facts and facts.version >= OLDEST and facts.version[: len(wanted)] == wanted:
                return facts
            others.append(f"{facts.text if facts else 'one that does not start'} ({path})")
    if others:
        asked = ".".join(map(str, wanted)) or "3.6 or later"
        say(
            f"notice: this base has Python {', '.join(others)}, and {asked} is asked for (PYTHON_VERSION): "
            "the function gets a Python of its own, which does not see the base's packages"
        )
    return None


def _own_python(wanted: tuple[int, ...]) -> Facts:
    candidates = sorted((TARGET / "bin").glob("python3.*")) if (TARGET / "bin").is_dir() else []
    packed = [path for path in candidates if not path.name.endswith(SYSTEM_SUFFIX)]
    if not packed:
        asked = f"Python {'.'.join(map(str, wanted))}" if wanted else "Python 3.6 or later"
        refuse(
            f"this base has no {asked}, and none was packed for it (PACK_PYTHON=0): "
            "name a base that has it, or let BASE_IMAGE go"
        )
    executable = packed[0]
    on_base = executable.with_name(executable.name + SYSTEM_SUFFIX)
    # On the base's own C library wherever that is new enough: then all of the base's libraries fit.
    if _starts(str(on_base)):
        on_base.replace(executable)
        shutil.rmtree(TARGET / "lib/dcf-libc")
        kind = "on the base's C library"
    else:
        on_base.unlink()
        kind = "with a C library of its own, newer than the base's"
    facts = probe(str(executable))
    if facts is None:
        refuse(f"{executable} does not start on this base: is PYTHON_IMAGE of the same architecture?")
    if facts.version[: len(wanted)] != wanted:
        refuse(f"PYTHON_IMAGE has Python {facts.text}, and {'.'.join(map(str, wanted))} is asked for (PYTHON_VERSION)")
    say(f"the handler runs on Python {facts.text}, packed into the image {kind}")
    return facts


def _starts(python: str) -> bool:
    code = "import ssl, ctypes, zlib, math, json, socket"
    try:
        return subprocess.run([python, "-I", "-c", code], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _check(facts: Facts) -> None:
    done = subprocess.run([facts.executable, "-I", "-c", _NEEDS], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        refuse(
            f"the Python {facts.text} of this base cannot run a worker ({last}): its standard library is not whole; "
            "put python3 and python3-venv into build_packages, or take another base"
        )


def _make(facts: Facts) -> None:
    file = REQUIREMENTS / "requirements.txt"
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else []
    wanted = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    venv = [facts.executable, "-I", "-m", "venv", "--system-site-packages", "--without-pip", str(FUNCTION)]
    run("make the function's environment", venv)
    if not wanted:
        return
    python = str(FUNCTION / "bin/python3")
    pip = _pip(python, facts)
    if facts.version < (3, 7):
        run("bring pip up to date", [*pip, *INSTALL, "--upgrade", _PIP_FOR_36])
    run("install requirements.txt", [*pip, *INSTALL, "-r", str(file)], cwd=str(REQUIREMENTS))
    # Nothing is installed into a running replica; a pip that came with the environment is 10 MB.
    own = next(FUNCTION.glob("lib/python*/site-packages/pip"), None)
    if own and not any(re.match(r"\s*pip\b", line) for line in wanted):
        run("take pip out again", [python, "-I", "-m", "pip", "uninstall", "-q", "-y", "pip"])


def _pip(python: str, facts: Facts) -> list[str]:
    """What runs pip for the function's environment."""
    in_venv = [python, "-I", "-m", "pip"]
    made = subprocess.run([python, "-I", "-m", "ensurepip", "--default-pip"], capture_output=True, check=False)
    if made.returncode == 0 and _has_module(python, "pip"):
        return in_venv
    wheel = next(PIP.glob("pip-*.whl"), None)
    if wheel is None and not _has_module(python, "pip"):  # the base's own, seen through the environment
        refuse(
            f"the Python {facts.text} of this base has no pip, and requirements.txt wants packages: "
            f"put python{facts.minor}-venv (Debian, Ubuntu) into build_packages, or take another base"
        )
    return [python, f"{wheel}/pip"] if wheel else in_venv


def _has_module(python: str, name: str) -> bool:
    """Whether the interpreter finds a module."""
    done = subprocess.run([python, "-I", "-m", name, "--version"], capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    main()
