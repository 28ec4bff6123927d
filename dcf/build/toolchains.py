"""Find the Go toolchain and the Node.js of this machine, by running what is there.

In:   a version: "" (any that DCF supports), "1.22" or "20.11.1".
Out:  Toolchain: a program that was started and said its version itself.
Pythons, of which a machine has many, have a room of their own: interpreters.py.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dcf.build.interpreters import own_version
from dcf.build.runtimes import list_runtimes
from dcf.build.steps import read_output
from dcf.errors import BuildError

PROBE_TIMEOUT_S = 10.0  # a start takes 10 to 50 ms; ten seconds is a machine in trouble
OLDEST_GO = (1, 19)  # Debian 12's
OLDEST_NODE = (18,)  # Debian 12's; the first with a stable fetch and web streams
_VERSION = re.compile(r"(?:go|v)(\d+(?:\.\d+){0,2})(?:\S* (\w+)/(\w+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A program that answered."""

    path: str
    """Absolute."""
    version: tuple[int, ...]
    system: tuple[str, str] = ("", "")
    """Of Go: what it runs on, `linux` and `amd64`."""

    @property
    def version_text(self) -> str:
        """`1.26.8`."""
        return ".".join(str(part) for part in self.version)


def find_go(wanted: str = "") -> Toolchain:
    """The first Go of at least that version: a newer one builds what was written for an older.

    Raises:
        BuildError: there is none; lists what is there.
    """
    least = max(OLDEST_GO, _parts(wanted))
    found = list_go()
    for one in found:
        if one.version >= least:
            return one
    text = ".".join(str(part) for part in least)
    raise BuildError(
        f"Go {text} or later is not on this machine; there: {_listed(found)}. Install it (https://go.dev/dl; Debian, "
        "Ubuntu: apt-get install golang-go), name another GO_VERSION in build_args, or build an image "
        "(--backend docker), which needs no Go here"
    )


def find_node(wanted: str = "") -> Toolchain:
    """The first Node.js of that version: "20" is any 20.x.

    Raises:
        BuildError: there is none; lists what is there.
    """
    parts = _parts(wanted)
    found = list_node()
    for one in found:
        if one.version >= OLDEST_NODE and one.version[: len(parts)] == parts:
            return one
    raise BuildError(
        f"Node.js {wanted or '18 or later'} is not on this machine; there: {_listed(found)}. Install it "
        "(https://nodejs.org; nvm install; Debian, Ubuntu: apt-get install nodejs), or name another NODE_VERSION "
        "in build_args"
    )


def version_here(runtime: str) -> str:
    """Which version of a runtime a build on this machine takes where nobody asks for one; "" for none that will do."""
    if runtime == "python":
        return platform.python_version()
    found, oldest = (list_go(), OLDEST_GO) if runtime == "go" else (list_node(), OLDEST_NODE)
    return next((one.version_text for one in found if one.version >= oldest), "")


def default_version(runtime: str) -> str:
    """What a new function in Go or Node.js asks for, `1.26` or `20`: what this machine has, else the default."""
    if not (here := version_here(runtime)):
        return list_runtimes()[runtime].default_version
    return ".".join(here.split(".")[: 2 if runtime == "go" else 1])


def template_versions(runtime: str) -> dict[str, str]:
    """The versions that stand as `$python_version` and the like in the files of a template."""
    versions = {"python_version": own_version()}  # the watcher is Python in every image
    if runtime != "python":
        versions[f"{runtime}_version"] = default_version(runtime)
    return versions


def list_go() -> list[Toolchain]:
    """All that answer, the one on PATH first."""
    home = Path.home()
    elsewhere = ["/usr/local/go/bin", *_newest(home.glob("sdk/go*/bin")), *_newest(Path("/usr/lib").glob("go-*/bin"))]
    # Without this a go.mod that happens to lie around would have another Go fetched from the network.
    return _ask("go", elsewhere, lambda path: ["env", "GOTOOLCHAIN=local", path, "version"])


def list_node() -> list[Toolchain]:
    """All that answer, the one on PATH first."""
    nvm = Path(os.environ.get("NVM_DIR") or Path.home() / ".nvm")
    elsewhere = ["/usr/local/bin", "/usr/bin", *_newest(nvm.glob("versions/node/*/bin"))]
    return _ask("node", elsewhere, lambda path: [path, "--version"])


def _ask(name: str, elsewhere: Iterable[str], command: Callable[[str], list[str]]) -> list[Toolchain]:
    on_path = shutil.which(name)
    paths = [on_path] if on_path else []
    paths += [path for folder in elsewhere if (path := shutil.which(name, path=folder))]
    seen: dict[str, str] = {}
    for path in paths:
        seen.setdefault(os.path.realpath(path), os.path.abspath(path))
    found = (_probe(path, tuple(command(path))) for path in seen.values())
    return [one for one in found if one is not None]


@cache
def _probe(path: str, command: tuple[str, ...]) -> Toolchain | None:
    match = _VERSION.search(read_output(command, timeout_s=PROBE_TIMEOUT_S) or "")
    if match is None:
        return None
    return Toolchain(path=path, version=_parts(match[1]), system=(match[2] or "", match[3] or ""))


def _newest(folders: Iterable[Path]) -> Iterator[str]:
    def version(folder: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", folder.parent.name))

    return (str(folder) for folder in sorted(folders, key=version, reverse=True))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _listed(found: Iterable[Toolchain]) -> str:
    return ", ".join(f"{one.version_text} ({one.path})" for one in found) or "none"
