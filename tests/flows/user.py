"""Whoever follows an example's README: types its commands, looks at what came of them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest

from dcf.build.bundle import resolve_bundle
from tests.flows.cluster import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
IGNORED = shutil.ignore_patterns("__pycache__", "*.avi", "*.wav", "weights.npz", "scene.png")
"""What whoever followed the README in the example's own folder has made."""
INSTALL_S = 300.0
"""For a command of a README: the longest installs OpenCV, 60 MB."""


class User:
    """Types the commands of an example's README, in a copy of its folder, in an environment of their own."""

    def __init__(self, cluster: Cluster, example: str) -> None:
        self.cluster = cluster
        self.folder = cluster.work / example
        shutil.copytree(EXAMPLES / example, self.folder, ignore=IGNORED)
        self.environ = {**cluster.environ, "DCF_GATEWAY": cluster.address, "PATH": os.environ["PATH"]}
        self.add_to_path(Path(sys.executable).parent)  # `dcf`, and a `python` that can import it

    def add_to_path(self, folder: Path) -> None:
        self.environ["PATH"] = f"{folder}{os.pathsep}{self.environ['PATH']}"

    def make_environment(self) -> None:
        """What "the virtual environment where DCF is installed" is for this user: pip installs into it alone."""
        venv = self.folder.parent / "client-venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=INSTALL_S)
        ours = sysconfig.get_path("purelib")
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        link = f"import site; site.addsitedir({ours!r})\n"  # with its .pth files: DCF itself may be one
        (venv / "lib" / python / "site-packages" / "dcf-is-installed.pth").write_text(link)
        self.add_to_path(venv / "bin")

    def follow_readme(self) -> None:
        """Run its first block of commands as they stand there, but for the address; `said` is all they print."""
        block = re.search(r"^```\n(.*?)^```$", (self.folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert block is not None
        self.said = "".join(self.type(line).stdout for line in block[1].splitlines())

    def type(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", "-c", line.replace("127.0.0.1:32222", self.cluster.address)],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=INSTALL_S,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"$ {line}\n{done.stdout}\n{done.stderr}\n{self.cluster.logs()}")
        return done

    def load(self, name: str) -> ModuleType:
        """A script of the example, for the numbers in it. It must not need what pytest does not have."""
        spec = importlib.util.spec_from_file_location(name, self.folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def function_python(self, function: str) -> str:
        """The interpreter that the build made for a function."""
        image = self.cluster.function(function)["image"]
        manifest, _ = resolve_bundle(Path(self.environ["DCF_BUNDLES"]), image)
        return str(manifest.command[0])

    def call(self, function: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of one call over HTTP."""
        request = urllib.request.Request(f"{self.cluster.url}/function/{function}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers["Content-Type"], reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def assert_invalid(self, function: str, body: bytes, text: str) -> None:
        status, _, answer = self.call(function, body)
        error = json.loads(answer)["error"]
        assert (status, error["code"]) == (400, "invalid_input"), error
        assert text in error["message"], error


def run_python(python: str, code: str, *args: str) -> str:
    done = subprocess.run([python, "-c", code, *args], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout
