"""What the build of a bundle asks of a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dcf.build.sources import Tree
from dcf.build.steps import OnOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files of the function, as they were found."""

    tree: Tree
    digest: str
    """Hex digits of all of it."""


class Recipe(Protocol):
    """One function's. Making it looks at the machine and changes nothing; `prepare` and `assemble` make things."""

    acting_args: frozenset[str]
    """The build arguments that act in a bundle; the others act in image builds."""

    @property
    def version(self) -> str:
        """Of the language, for people: `3.6.15`."""

    @property
    def digest_parts(self) -> tuple[str, ...]:
        """What goes into the bundle beside the sources and their digest."""

    def command(self, folder: Path) -> tuple[str, ...]:
        """What starts the worker of the bundle that lies in `folder`; for an interpreter, that alone."""

    @property
    def is_prepared(self) -> bool:
        """Whether what the bundle shares with others is there whole."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What may act otherwise than it seems, for people."""

    def check(self, on_output: OnOutput) -> None:
        """Refuse early what cannot work. Raises BuildError with file and line."""

    def prepare(self, on_output: OnOutput) -> None:
        """Make what the bundle shares with others. Raises BuildError."""

    def assemble(self, target: Path, lock: int, on_output: OnOutput) -> None:
        """Add to the unfinished bundle in `target`, which has the sources, what is its own.

        Args:
            lock: of the build, for programs to inherit.

        Raises:
            BuildError: a program failed.
        """
