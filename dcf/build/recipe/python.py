"""Python: an interpreter of the machine, and a virtual environment with requirements.txt."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from dcf.build.interpreters import find_interpreter
from dcf.build.project import FunctionConfig
from dcf.build.recipe.contract import Sources
from dcf.build.steps import OnOutput
from dcf.build.syntax import check_syntax
from dcf.build.venvs import VenvPlan, ensure_venv, plan_venv


class PythonRecipe:
    """See contract.py."""

    acting_args = frozenset({"PYTHON_VERSION"})

    def __init__(self, config: FunctionConfig, bundles: Path, sources: Sources) -> None:
        self._config = config
        self._bundles = bundles
        self._sources = sources
        self._interpreter = find_interpreter(config.build_args.get("PYTHON_VERSION", ""))

    @cached_property
    def _venv(self) -> VenvPlan:
        return plan_venv(self._bundles, self._interpreter, self._config.source, lambda: self._sources.digest)

    @property
    def version(self) -> str:
        """Of the interpreter."""
        return self._interpreter.version_text

    @property
    def digest_parts(self) -> tuple[str, ...]:
        """The environment's own digest: interpreter and requirements."""
        return (self._venv.digest,)

    def command(self, folder: Path) -> tuple[str, ...]:
        """The environment's Python, wherever the bundle is."""
        return (self._venv.python,)

    @property
    def is_prepared(self) -> bool:
        """Whether the environment is there."""
        return self._venv.is_complete

    @property
    def notices(self) -> tuple[str, ...]:
        """Of editable packages."""
        if any(line.startswith(("-e", "--editable")) for line in self._venv.requirements):
            return (f"{self._venv.file} installs an editable package: changes of its files reach the function unbuilt",)
        return ()

    def check(self, on_output: OnOutput) -> None:
        """Have the interpreter that will run the handler read it."""
        on_output(f"==> check {self._config.handler_file} with Python {self.version}")
        check_syntax(self._config.source / self._config.handler_file, self._interpreter)

    def prepare(self, on_output: OnOutput) -> None:
        """Make the environment."""
        ensure_venv(self._venv, on_output=on_output)

    def assemble(self, target: Path, lock: int, on_output: OnOutput) -> None:
        """Sources are all that is the bundle's own."""
