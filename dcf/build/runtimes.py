"""The languages a function may be written in, from templates/runtimes.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from ruamel.yaml import YAML


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One of them: a line of `dcf runtime list`."""

    name: str
    title: str
    """The language as its people write it: `Node.js`."""
    description: str
    handler_file: str
    """What `handler.file` is where the user leaves it empty."""
    versions: str
    """Of the language, that DCF supports: for people."""
    default_version: str = ""
    """What a new function asks for where this machine has none; python has always the one that runs dcf."""
    batches: bool = True
    """A handler may take several requests at once."""
    build_args: Mapping[str, str]
    """Build arguments it knows, with their meaning."""


def template_folder() -> Traversable:
    """The templates as the package carries them."""
    return files("dcf.templates")


@cache
def list_runtimes() -> Mapping[str, Runtime]:
    """All of them by name."""
    data = YAML(typ="safe").load(template_folder().joinpath("runtimes.yaml").read_text(encoding="utf-8"))
    return {name: Runtime(name=name, **facts) for name, facts in data.items()}
