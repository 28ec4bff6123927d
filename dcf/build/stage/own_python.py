"""Make /opt/python: a Python for a base that has none that fits.

Runs in the stage FROM ${PYTHON_IMAGE}, with the packed interpreter of the watcher.
PACK_PYTHON=0 leaves the folder empty: the base is known to have its Python.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dcf.build.stage.pack import pack, probe, refuse, say
from dcf.build.stage.watcher import PATCHELF

TARGET = Path("/opt/python")
PIP = TARGET / "pip"


def main() -> None:
    """The whole stage."""
    TARGET.mkdir(parents=True, exist_ok=True)
    if os.environ.get("PACK_PYTHON") == "0":
        return
    found = [facts for name in ("python3", "python") if (path := shutil.which(name)) and (facts := probe(path))]
    if not found:
        refuse("PYTHON_IMAGE has no Python 3: name one such as python:3.11-slim")
    facts = found[0]
    pack(facts, TARGET, PATCHELF, on_base=True)
    if Path(facts.include).is_dir():  # for packages without a wheel; the compiler comes with build_packages
        shutil.copytree(facts.include, TARGET / "include" / Path(facts.include).name, dirs_exist_ok=True)
    PIP.mkdir(exist_ok=True)
    for wheel in facts.pip_wheels:
        shutil.copyfile(wheel, PIP / Path(wheel).name)
    say(f"packed Python {facts.text} for a base without it")


if __name__ == "__main__":
    main()
