"""Which Dockerfile a function is built with: the user's own, else the runtime's.

In:   FunctionConfig. Out: Dockerfile: its text, and the folder that its COPY lines see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from dcf.build.project import FunctionConfig
from dcf.build.runtimes import template_folder
from dcf.build.toolchains import template_versions
from dcf.errors import BuildError

DOCKERFILE = "Dockerfile"
# Written by `dcf function init` before there were image builds; nobody can have used it.
_BEFORE_IMAGES = "# Image builds come with a later release of DCF"
_ARG = re.compile(r"^\s*ARG\s+(\w+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """What is built."""

    text: str
    file: Path | None
    """None: the user has none, and the runtime's is taken."""
    folder: Path
    """The function's own: the context, with its .dockerignore."""
    notices: tuple[str, ...] = ()

    @property
    def arguments(self) -> frozenset[str]:
        """What it declares with ARG."""
        return frozenset(_ARG.findall(self.text))


def find_dockerfile(config: FunctionConfig) -> Dockerfile:
    """The Dockerfile beside the sources' folder, where `dcf function init` writes it.

    Raises:
        BuildError: it cannot be read, or it is none of DCF's.
    """
    folder = function_folder(config)
    file = folder / DOCKERFILE
    if not file.is_file():
        return Dockerfile(text=_template(config), file=None, folder=folder)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{file}: cannot be read: {error}") from error
    if text.startswith(_BEFORE_IMAGES):
        return Dockerfile(
            text=_template(config),
            file=None,
            folder=folder,
            notices=(f"{file} is from before there were image builds, and not used: remove it, or take a new one",),
        )
    if ".dcf/" not in text:
        raise BuildError(
            f"{file}: this makes no image of a function: it takes nothing of .dcf/, so there is no watcher in it. "
            "`dcf function init` writes one that does; put your own lines into that"
        )
    return Dockerfile(text=text, file=file, folder=folder)


def function_folder(config: FunctionConfig) -> Path:
    """The folder that holds the sources' folder; the sources themselves where config.yaml lies in them."""
    beside_config = config.config_file.absolute().parent.resolve() == config.source
    return config.source if beside_config else config.source.parent


def _template(config: FunctionConfig) -> str:
    file = template_folder() / config.runtime / DOCKERFILE
    return Template(file.read_text(encoding="utf-8")).safe_substitute(template_versions(config.runtime))
