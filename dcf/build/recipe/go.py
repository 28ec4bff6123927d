"""Go: one binary of the user's package and DCF's worker module, made by the machine's toolchain."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from importlib.resources import as_file
from pathlib import Path

from dcf.build.dockerfile import function_folder
from dcf.build.go_module import provide_module, worker_digest, worker_module
from dcf.build.project import FunctionConfig
from dcf.build.recipe.contract import Sources
from dcf.build.shared import ensure_shared
from dcf.build.steps import OnOutput, run_step
from dcf.build.toolchains import find_go
from dcf.build.venvs import VENVS
from dcf.domain.bundle import SOURCE

BINARY = "bin/function"
"""In the bundle."""
_TOOL = "compile"
_ENVIRONMENT = ("CGO_ENABLED",)
"""Build arguments that are variables of the go command."""


class GoRecipe:
    """See contract.py."""

    acting_args = frozenset({"GO_VERSION", *_ENVIRONMENT})

    def __init__(self, config: FunctionConfig, bundles: Path, sources: Sources) -> None:
        self._config = config
        self._toolchain = find_go(config.build_args.get("GO_VERSION", ""))
        parts = (self._toolchain.path, self.version, worker_digest())
        self._tools = bundles / VENVS / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        self.notices: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Of the toolchain."""
        return self._toolchain.version_text

    @cached_property
    def _environ(self) -> dict[str, str]:
        args = self._config.build_args
        given = {name: args[name] for name in _ENVIRONMENT if args.get(name)}
        # A toolchain that is fetched behind the user's back is not the one that the build says.
        return {"GOTOOLCHAIN": "local"} | given

    @property
    def digest_parts(self) -> tuple[str, ...]:
        """The toolchain, its settings, and the worker that is linked in: a new DCF builds anew."""
        settings = [f"{name}={value}" for name, value in sorted(self._environ.items())]
        return (self._toolchain.path, self.version, worker_digest(), *settings)

    def command(self, folder: Path) -> tuple[str, ...]:
        """The binary is the worker."""
        return (str(folder / BINARY),)

    @property
    def is_prepared(self) -> bool:
        """It shares nothing that a bundle needs once it is there."""
        return True

    def check(self, on_output: OnOutput) -> None:
        """The compiler looks at all of it."""

    def prepare(self, on_output: OnOutput) -> None:
        """Make the program that compiles functions; with `go run` each build would link it anew."""
        provide_module(function_folder(self._config), self._config.source)
        with as_file(worker_module()) as module:
            ensure_shared(
                self._tools,
                "the same tool",
                lambda at: run_step(
                    f"make DCF's compile tool with Go {self.version}",
                    [self._toolchain.path, "build", "-buildvcs=false", "-o", str(at / _TOOL), "./compile"],
                    on_output=on_output,
                    folder=module,
                    environ={"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0"},
                ),
                on_output=on_output,
            )

    def assemble(self, target: Path, on_output: OnOutput) -> None:
        """Compile the copy. What the compiler has to say names the files that it was made of."""
        config = self._config
        binary = target / BINARY
        binary.parent.mkdir()
        path = os.pathsep.join([os.path.dirname(self._toolchain.path), os.environ.get("PATH", "")])
        with as_file(worker_module()) as module:
            run_step(
                f"compile {config.handler_file} with Go {self.version}",
                [
                    str(self._tools / _TOOL), "-source", str(target / SOURCE), "-show", os.path.relpath(config.source),
                    "-file", config.handler_file, "-handler", config.handler_name, "-out", str(binary),
                ],
                on_output=on_output,
                folder=module,
                environ=self._environ | {"PATH": path},
            )  # fmt: skip
