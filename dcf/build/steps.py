"""Run the programs of a build: interpreters, pip, go; nothing that outlives us.

A program runs in a process group of its own, which is killed when its time
is over or when we are interrupted: no pip writes on behind a build that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from dcf.errors import BuildError

OnOutput = Callable[[str], None]
"""Is given each line of a build's output, without its line end."""

_LAST_LINES = 20  # enough for pip's reason, which stands at its end
# They bend which packages an interpreter sees, or where pip puts them.
_FOREIGN = frozenset(
    {
        "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "PYTHONINSPECT",
        "PYTHONSAFEPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT",
        "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV",
    }
)  # fmt: skip


def clean_environment() -> dict[str, str]:
    """This process's variables, without those that would let its own Python shine through."""
    environ = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    if not environ.keys() & {"LANG", "LC_ALL", "LC_CTYPE"}:
        environ["LANG"] = "C.UTF-8"  # Python 3.6 falls back to ASCII, and dies of the first other letter
    return environ | {
        "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }


def run_step(
    step: str,
    command: Sequence[str],
    *,
    on_output: OnOutput,
    folder: Path | None = None,
    keep_open: Collection[int] = (),
    environ: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run one step and hand its lines to `on_output` as they come.

    Args:
        step: what it does, for people: "install the requirements".
        folder: where it runs; None for here.
        keep_open: descriptors that the program inherits, such as a lock's.
        environ: variables beside this process's own.

    Raises:
        BuildError: it could not start, or ended with another status than 0; with its last lines.
    """
    on_output(f"==> {step}: {' '.join(command)}")
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with _started(step, command, folder, keep_open, environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip("\r\n"))
            on_output(last[-1])
        status = process.wait()
    if status != 0:
        end = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise BuildError("\n".join([f"could not {step}: {command[0]} {end}", *last]))


def read_output(command: Sequence[str], *, timeout_s: float) -> str | None:
    """What a short program prints; None where it cannot start, fails or takes too long."""
    try:
        with _started("", command, None, (), quiet=True) as process:
            text, _ = process.communicate(timeout=timeout_s)
    except (BuildError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return text if process.returncode == 0 else None


@contextmanager
def _started(
    step: str,
    command: Sequence[str],
    folder: Path | None,
    keep_open: Collection[int],
    environ: Mapping[str, str] = MappingProxyType({}),
    *,
    quiet: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
            env=clean_environment() | dict(environ),
            cwd=folder,
            pass_fds=tuple(keep_open),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, ValueError) as error:
        raise BuildError(f"could not {step}: {command[0]}: {error}") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
