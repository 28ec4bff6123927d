"""Node.js: a node of the machine, and what package.json asks for, installed by npm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from dcf.build.project import FunctionConfig
from dcf.build.recipe.contract import Sources
from dcf.build.shared import ensure_shared
from dcf.build.steps import OnOutput, run_step
from dcf.build.toolchains import find_node
from dcf.build.venvs import VENVS
from dcf.errors import BuildError

PACKAGE = "package.json"
LOCK = "package-lock.json"
NPMRC = ".npmrc"
"""Where a registry of one's own, and its password, are named."""
MODULES = "node_modules"
_FORMAT = "1"
_DEPENDENCIES = ("dependencies", "optionalDependencies")
_WORDS = frozenset({"name", "version", "description", "author", "license", "main", "type", "private", "scripts"})
"""Keys of package.json that install nothing."""


class NodeRecipe:
    """See contract.py."""

    acting_args = frozenset({"NODE_VERSION"})

    def __init__(self, config: FunctionConfig, bundles: Path, sources: Sources) -> None:
        self._config = config
        self._bundles = bundles
        self._node = find_node(config.build_args.get("NODE_VERSION", ""))
        there = {name for name in (PACKAGE, LOCK, NPMRC) if name in sources.tree.files}
        self._package = read_package(config.source / PACKAGE) if PACKAGE in there else {}
        self._packages = any(self._package.get(key) for key in _DEPENDENCIES)
        self._files = {name: (config.source / name).read_bytes() for name in there - {PACKAGE}}
        self.notices: tuple[str, ...] = ()
        if self._packages and LOCK not in there:
            self.notices = (f"there is no {LOCK}: which versions are installed is npm's choice of the day",)

    @property
    def version(self) -> str:
        """Of node."""
        return self._node.version_text

    @cached_property
    def digest_parts(self) -> tuple[str, ...]:
        """Node, and what is installed for it."""
        if not self._packages:
            return (self._node.path, self.version)
        wanted = json.dumps({key: value for key, value in self._package.items() if key not in _WORDS}, sort_keys=True)
        files = (hashlib.sha256(self._files.get(name, b"")).hexdigest() for name in (LOCK, NPMRC))
        return (_FORMAT, self._node.path, self.version, wanted, *files)

    @property
    def _shared(self) -> Path:
        digest = hashlib.sha256("\0".join(self.digest_parts).encode()).hexdigest()[:12]
        return self._bundles / VENVS / digest

    def command(self, folder: Path) -> tuple[str, ...]:
        """The machine's node."""
        return (self._node.path,)

    @property
    def is_prepared(self) -> bool:
        """Whether node is there, and its packages."""
        return os.access(self._node.path, os.X_OK) and (not self._packages or self._shared.is_dir())

    def check(self, on_output: OnOutput) -> None:
        """Have node read the handler."""
        file = self._config.source / self._config.handler_file
        step = f"check {self._config.handler_file} with Node.js {self.version}"
        run_step(step, [self._node.path, "--check", str(file)], on_output=on_output)

    def prepare(self, on_output: OnOutput) -> None:
        """Install the packages."""
        if self._packages:
            ensure_shared(
                self._shared,
                f"the packages of {PACKAGE}",
                lambda at, lock: self._install(at, lock, on_output),
                on_output=on_output,
            )

    def assemble(self, target: Path, lock: int, on_output: OnOutput) -> None:
        """Put the packages where node looks for them: beside the sources, one folder up."""
        if self._packages:
            (target / MODULES).symlink_to(self._shared / MODULES)

    def _install(self, target: Path, lock: int, on_output: OnOutput) -> None:
        # The npm that belongs to this node, where it has one.
        npm = shutil.which("npm", path=os.path.dirname(self._node.path)) or shutil.which("npm")
        if npm is None:
            raise BuildError(
                f"{self._config.source / PACKAGE} names packages, and npm is not on this machine: install it "
                "(Debian, Ubuntu: apt-get install npm; elsewhere it comes with Node.js)"
            )
        for name, content in self._files.items():
            (target / name).write_bytes(content)
        # Its own scripts are about the sources, which are not here.
        package = {key: value for key, value in self._package.items() if key != "scripts"}
        (target / PACKAGE).write_text(json.dumps(package), encoding="utf-8")
        verb = ["ci"] if LOCK in self._files else ["install", "--no-package-lock"]
        path = os.pathsep.join([os.path.dirname(self._node.path), os.environ.get("PATH", "")])
        run_step(
            f"install the packages of {self._config.source / PACKAGE}",
            [npm, *verb, "--omit=dev", "--no-audit", "--no-fund", "--no-progress"],
            on_output=on_output,
            folder=target,
            keep_open=[lock],
            environ={"PATH": path, "NO_UPDATE_NOTIFIER": "1"},
        )
        (target / NPMRC).unlink(missing_ok=True)  # it may hold a password
        (target / MODULES).mkdir(exist_ok=True)


def read_package(file: Path) -> dict[str, Any]:
    """package.json.

    Raises:
        BuildError: it is no JSON object, its dependencies are none, or it names a package by a path.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise BuildError(f"{file}: expected a JSON object")
    for key in _DEPENDENCIES:
        group = data.get(key) or {}
        if not isinstance(group, dict):
            raise BuildError(f"{file}: {key}: expected an object of names and versions")
        for name, version in group.items():
            if str(version).startswith(("file:", "link:", ".", "/", "~/")):
                raise BuildError(
                    f"{file}: {name} is a path ({version}): packages are installed apart from the sources; "
                    "publish it, or put its files into them"
                )
    return data
