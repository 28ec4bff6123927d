"""What a build is given: the function's files, and DCF's own below .dcf/.

In:   FunctionConfig and its Dockerfile.
Out:  BuildContext: its digest, its tar, or a folder for `docker buildx build`.
All is readable for everybody in it, whatever the modes on the user's machine: a
replica runs as nobody in particular. Links are followed, as in a bundle.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from docker.utils.build import PatternMatcher

from dcf.build.dockerfile import DOCKERFILE, Dockerfile
from dcf.build.go_module import module_files
from dcf.build.project import FunctionConfig
from dcf.build.sources import Skip, scan
from dcf.build.venvs import REQUIREMENTS, names_files, read_requirements
from dcf.errors import BuildError

IGNORE_FILE = ".dockerignore"
OURS = ".dcf"
# What dcf.watcher imports, and what those import; in the versions that this dcf runs with.
WATCHER_PACKAGES = ("grpcio", "hpack", "protobuf", "typing_extensions", "uvloop")
# Beside the modules of the package itself; the stages of a build run with the same interpreter.
_WATCHER_ROOMS = ("domain", "rpc", "watcher", "build/stage")
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFile:
    """One file of it."""

    name: str
    """Below the context, with slashes."""
    content: bytes | Path
    """A path is read when it is needed: models are large."""
    executable: bool = False

    def open(self) -> BufferedIOBase:
        """Its content. Raises BuildError where it cannot be read."""
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        try:
            return self.content.open("rb")
        except OSError as error:
            raise BuildError(f"{self.content}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """Files and empty folders, sorted, each name once."""

    files: tuple[ContextFile, ...]
    folders: tuple[str, ...]
    source: str
    """Of the handler's folder, below the context."""

    def digest(self) -> str:
        """Hex digits of names, contents and executable bits."""
        total = hashlib.sha256()
        for folder in self.folders:
            total.update(f"folder\0{folder}\0".encode())
        for file in self.files:
            with file.open() as content:
                digest = hashlib.file_digest(content, "sha256").digest()
            total.update(f"file\0{file.name}\0{'x' if file.executable else '-'}".encode() + digest)
        return total.hexdigest()

    def write_tar(self, target: IO[bytes], dockerfile: str, certificates: bytes | None) -> None:
        """As the engine takes it, uncompressed. Raises BuildError."""
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for folder in self.folders:
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for file in self._all(dockerfile, certificates):
                entry = tarfile.TarInfo(file.name)
                entry.mode = 0o755 if file.executable else 0o644
                with file.open() as content:
                    entry.size = content.seek(0, io.SEEK_END)
                    content.seek(0)
                    try:
                        tar.addfile(entry, content)
                    except OSError as error:  # shorter than a moment ago
                        raise BuildError(f"{file.name} changed while it was read: build again ({error})") from error

    def write_folder(self, target: Path, dockerfile: str, certificates: bytes | None) -> None:
        """The same as files, in a folder that is made."""
        target.mkdir(parents=True)
        for folder in self.folders:
            (target / folder).mkdir(parents=True, exist_ok=True)
        for file in self._all(dockerfile, certificates):
            path = target / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open() as content, path.open("wb") as out:
                shutil.copyfileobj(content, out, _CHUNK_BYTES)
            path.chmod(0o755 if file.executable else 0o644)

    def _all(self, dockerfile: str, certificates: bytes | None) -> Iterator[ContextFile]:
        yield from self.files
        yield ContextFile(name=DOCKERFILE, content=dockerfile.encode())
        if certificates is not None:
            yield ContextFile(name=f"{OURS}/ca/ca.pem", content=certificates)


def collect_context(config: FunctionConfig, dockerfile: Dockerfile) -> BuildContext:
    """The context of a build: of the function's folder all where the Dockerfile is the user's, else the sources.

    Raises:
        BuildError: a link to nowhere, a file that is none, a .dockerignore that cannot be read.
    """
    folder = dockerfile.folder
    skip = _read_ignored(folder, config.config_file)
    inside = config.source != folder
    source = config.source.name if inside else f"{OURS}/src"
    found: dict[str, ContextFile] = {}
    folders: set[str] = set()

    def add(root: Path, prefix: str, tree_skip: Skip) -> None:
        tree = scan(root, tree_skip)
        for name in tree.folders:
            folders.add(f"{prefix}{name}")
        for name in tree.files:
            found[f"{prefix}{name}"] = _file(f"{prefix}{name}", root / name)

    if dockerfile.file is not None:
        add(folder, "", lambda name: name == OURS or skip(name))
    if not inside:
        add(folder, f"{source}/", skip)
    elif dockerfile.file is None:
        add(config.source, f"{source}/", lambda name: skip(f"{source}/{name}"))
    folders.add(source)
    if f"{source}/{config.handler_file}" not in found:
        raise BuildError(
            f"{folder / IGNORE_FILE} leaves out {config.handler_file}, the file of the handler: "
            "take it out of the patterns there"
        )
    needed = _modules_of_go(config, found, source) if config.runtime == "go" else _requirements(config, source, found)
    for file in (*_watcher_files(), *needed):
        found[file.name] = file
    found[f"{OURS}/ca/README"] = ContextFile(name=f"{OURS}/ca/README", content=b"Certificates for pip: ca.pem.\n")
    return BuildContext(
        files=tuple(found[name] for name in sorted(found)), folders=tuple(sorted(folders)), source=source
    )


def _read_ignored(folder: Path, config_file: Path) -> Skip:
    file = folder / IGNORE_FILE
    patterns: list[str] = []
    # They count by themselves (the Dockerfile), or not at all: another replica count is no other image.
    never = {folder / DOCKERFILE, folder / IGNORE_FILE, config_file.absolute()}
    if file.is_file():
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BuildError(f"{file}: cannot be read: {error}") from error
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    matcher = PatternMatcher(patterns)
    has_exceptions = any(pattern.startswith("!") for pattern in patterns)

    def skip(name: str) -> bool:
        if folder / name in never:
            return True
        # A folder that is left out may hold exceptions: it is looked into, and its files are asked for one by one.
        if has_exceptions and (folder / name).is_dir():
            return False
        return bool(matcher.matches(name))  # type: ignore[arg-type]

    return skip


def _file(name: str, path: Path) -> ContextFile:
    return ContextFile(name=name, content=path, executable=bool(path.stat().st_mode & 0o100))


def _requirements(config: FunctionConfig, source: str, found: dict[str, ContextFile]) -> Iterator[ContextFile]:
    """requirements.txt by itself, so that a change of the handler installs nothing anew; or with what it names."""
    file = config.source / REQUIREMENTS
    target = f"{OURS}/requirements"
    yield ContextFile(name=f"{target}/{REQUIREMENTS}", content=file.read_bytes() if file.is_file() else b"")
    if names_files(read_requirements(file)):
        for one in list(found.values()):
            if one.name.startswith(f"{source}/"):
                name = one.name.removeprefix(f"{source}/")
                yield ContextFile(name=f"{target}/{name}", content=one.content, executable=one.executable)


def _modules_of_go(config: FunctionConfig, found: dict[str, ContextFile], source: str) -> Iterator[ContextFile]:
    """The worker module; and what says which other modules there are, so that a change of the handler fetches none."""
    for name, content in module_files():
        yield ContextFile(name=f"{OURS}/go/{name}", content=content.read_bytes())
    yield ContextFile(name=f"{OURS}/modules/README", content=b"go.mod and go.sum of the function.\n")
    for name in ("go.mod", "go.sum"):
        if file := found.get(f"{source}/{name}"):
            yield ContextFile(name=f"{OURS}/modules/{name}", content=file.content)


def _watcher_files() -> Iterator[ContextFile]:
    root = files("dcf")
    target = f"{OURS}/watcher"
    yield from _modules(root, f"{target}/dcf", deep=False)
    yield from _modules(root / "build", f"{target}/dcf/build", deep=False, only="__init__.py")
    for room in _WATCHER_ROOMS:
        yield from _modules(root / room, f"{target}/dcf/{room}", deep=True)
    pins = "".join(f"{name}=={version(name)}\n" for name in WATCHER_PACKAGES)
    yield ContextFile(name=f"{target}/{REQUIREMENTS}", content=pins.encode())


def _modules(folder: Traversable, target: str, *, deep: bool, only: str = "") -> Iterator[ContextFile]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if deep and entry.name != "__pycache__":
                yield from _modules(entry, f"{target}/{entry.name}", deep=True)
        elif entry.name.endswith(".py") and entry.name == (only or entry.name):
            yield ContextFile(name=f"{target}/{entry.name}", content=entry.read_bytes())
