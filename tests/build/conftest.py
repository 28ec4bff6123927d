"""A function folder, and writing its file in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dcf.build.project import FunctionConfig, load_project

ECHO = "class Handler:\n    def __call__(self, req):\n        return req.input\n"
WriteConfig = Callable[[str], Path]
LoadEcho = Callable[..., FunctionConfig]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function's folder with a handler and no config.yaml yet."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/handler.py").write_text(ECHO)
    return tmp_path


@pytest.fixture
def echo(folder: Path) -> LoadEcho:
    """Writes config.yaml with these further lines of the function `echo`, and loads it."""

    def load(*lines: str, requirements: str = "") -> FunctionConfig:
        text = "\n".join(["functions:", "  echo:", "    runtime: python", *(f"    {line}" for line in lines)])
        (folder / "config.yaml").write_text(text + "\n")
        (folder / "src/requirements.txt").write_text(requirements)
        return load_project(folder).function("echo")

    return load
