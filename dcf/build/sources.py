"""The files of a function: which they are, what they amount to, and a copy of them.

In:   the folder of the handler.
Out:  a Tree, its digest (names, contents, executable bits), its copy in a bundle.
Links are followed: a bundle stands on its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcf.errors import BuildError

# What tools leave behind; none of it is part of a function, and it changes by itself.
LEFT_OUT = frozenset(
    {
        "__pycache__", ".git", ".hg", ".svn", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache",
        ".ipynb_checkpoints", ".DS_Store", "node_modules", ".dcf",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files and folders below a folder, as sorted relative paths."""

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]


Skip = Callable[[str], bool]
"""Whether a path, relative to the root, is passed over; a folder with all below it."""


def scan(root: Path, skip: Skip = lambda _: False) -> Tree:
    """Raises BuildError for a link that leads nowhere or in a circle, and for what is no file."""
    files: list[str] = []
    folders: list[str] = []
    _scan(root, "", (os.path.realpath(root),), skip, files, folders)
    return Tree(root=root, files=tuple(sorted(files)), folders=tuple(sorted(folders)))


def _scan(root: Path, below: str, above: tuple[str, ...], skip: Skip, files: list[str], folders: list[str]) -> None:
    with os.scandir(root / below) as entries:
        found = list(entries)
    for entry in found:
        if entry.name in LEFT_OUT or entry.name.endswith(".pyc"):
            continue
        relative = os.path.join(below, entry.name)
        if skip(relative):
            continue
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            raise BuildError(f"{entry.path}: cannot be read: {error.strerror}; is it a link to nowhere?") from error
        if stat.S_ISDIR(mode):
            real = os.path.realpath(entry.path)
            if real in above:
                raise BuildError(f"{entry.path}: this link leads to a folder that it is in itself")
            folders.append(relative)
            _scan(root, relative, (*above, real), skip, files, folders)
        elif stat.S_ISREG(mode):
            files.append(relative)
        else:
            raise BuildError(f"{entry.path}: neither a file nor a folder: it cannot travel with the function")


def digest_tree(tree: Tree) -> str:
    """Hex digits of names, contents and executable bits; times and owners do not count."""
    total = hashlib.sha256()
    for folder in tree.folders:
        total.update(b"folder\0" + os.fsencode(folder) + b"\0")
    for name in tree.files:
        with open(tree.root / name, "rb") as file:
            executable = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(b"file\0" + os.fsencode(name) + b"\0" + (b"x" if executable else b"-") + content)
    return total.hexdigest()


def copy_tree(tree: Tree, target: Path) -> None:
    """Copy it to `target`, which must not exist."""
    target.mkdir()
    for folder in tree.folders:
        (target / folder).mkdir()
    for name in tree.files:
        shutil.copyfile(tree.root / name, target / name)
        shutil.copymode(tree.root / name, target / name)
        # The owner may read and replace it, whatever the original allowed.
        os.chmod(target / name, os.stat(target / name).st_mode | stat.S_IRUSR | stat.S_IWUSR)
