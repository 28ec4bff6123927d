"""Go: one binary of the user's package and DCF's worker module, made by the machine's toolchain."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from importlib.resources import as_file
from pathlib import Path

from dcf.build.go_module import worker_digest, worker_module
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
_REACHES = frozenset(
    {
        "GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH", "GOENV",
        "GOPATH", "GOMODCACHE", "GOCACHE", "GOTMPDIR",
    }
)  # fmt: skip
"""Variables of the user's that act in a build. Others, such as a GOARCH of his shell, would make another binary."""


class GoRecipe:
    """See contract.py."""

    acting_args = frozenset({"GO_VERSION", "CGO_ENABLED"})

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
        """The go command's variables: how it reaches modules is the user's, what it makes is the config's."""
        others = {name: "" for name in os.environ if name.startswith("GO") and name not in _REACHES}
        args = self._config.build_args
        return others | {
            "HOME": str(Path.home()),  # a service has none, and go wants a place for its cache
            # With a value: an empty one is that of `go env -w`.
            "GOFLAGS": "-buildvcs=false",
            "GOOS": self._toolchain.system[0],
            "GOARCH": self._toolchain.system[1],
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": args.get("CGO_ENABLED") or "0",
        }

    @property
    def digest_parts(self) -> tuple[str, ...]:
        """The toolchain, its settings, and the worker that is linked in: a new DCF builds anew."""
        return (self._toolchain.path, self.version, worker_digest(), self._environ["CGO_ENABLED"])

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
        with as_file(worker_module()) as module:
            ensure_shared(
                self._tools,
                "the same tool",
                lambda at, lock: run_step(
                    f"make DCF's compile tool with Go {self.version}",
                    [self._toolchain.path, "build", "-o", str(at / _TOOL), "./compile"],
                    on_output=on_output,
                    folder=module,
                    keep_open=[lock],
                    environ=self._environ | {"CGO_ENABLED": "0", "TMPDIR": str(at.parent)},
                ),
                on_output=on_output,
            )

    def assemble(self, target: Path, lock: int, on_output: OnOutput) -> None:
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
                keep_open=[lock],
                # As above: what it leaves behind when it is killed goes with the unfinished folder.
                environ=self._environ | {"PATH": path, "TMPDIR": str(target.parent)},
            )  # fmt: skip
