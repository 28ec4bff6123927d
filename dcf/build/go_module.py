"""The Go module `dcf`, which a function in Go imports: its files, and their copy beside the function.

A build links the module as this DCF has it. The copy, `.dcf/go` beside the
sources, is for the user's editor and `go test`, where go.mod points to it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dcf.build.lock import locked

COPY = ".dcf/go"
_IN_GO_MOD = re.compile(r"^\s*(?:replace\s+)?dcf(?:\s+v\S+)?\s+=>\s+(\S+)\s*$", re.MULTILINE)
_IGNORE = "# Written by DCF, which keeps it up to date.\n*\n"


def worker_module() -> Traversable:
    """The folder of the Go module `dcf`, which a function imports."""
    return files("dcf") / "watcher" / "worker" / "go"


def module_files() -> list[tuple[str, Traversable]]:
    """Its files by relative name, without its tests, sorted."""
    return sorted(_walk(worker_module(), ""))


@cache
def worker_digest() -> str:
    """Hex digits of the module's files."""
    total = hashlib.sha256()
    for name, file in module_files():
        content = file.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:12]


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            if entry.name not in {"testdata", "__pycache__"}:
                found += _walk(entry, f"{name}/")
        elif name == "go.mod" or (name.endswith(".go") and not name.endswith("_test.go")):
            found.append((name, entry))
    return found


def provide_module(folder: Path, source: Path) -> Path | None:
    """Have the copy in the function's `folder` up to date, if go.mod in `source` points to it.

    Returns:
        The copy's folder where it was made or renewed, else None: also where the folder cannot be written, for
        no build needs the copy.
    """
    target = folder / COPY
    if not _points_to(source, target):
        return None
    wanted = {name: file.read_bytes() for name, file in module_files()}
    try:
        if _there(target) == wanted:
            return None
        # Functions may share the folder, and be built at once.
        with locked(target.parent / ".lock", on_wait=lambda: None):
            if _there(target) == wanted:
                return None
            _renew(target, wanted)
    except OSError:
        return None
    return target


def _points_to(source: Path, target: Path) -> bool:
    """Whether go.mod takes dcf from there. Never below the sources: the copy is no part of the function."""
    if source in target.parents:
        return False
    try:
        text = (source / "go.mod").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    named = _IN_GO_MOD.search(text)
    return named is not None and (source / named[1]).resolve() == target.resolve()


def _there(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def _renew(target: Path, wanted: dict[str, bytes]) -> None:
    (target.parent / ".gitignore").write_text(_IGNORE, encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=target.parent) as unfinished:
        made = Path(unfinished) / "go"
        for name, content in wanted.items():
            file = made / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
