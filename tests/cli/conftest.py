"""The real command in processes of its own, against a real cluster on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Shell:
    """Runs `dcf` in one folder with settings that touch nothing of the user's."""

    folder: Path
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DCF_")}
        return (
            kept
            | {
                "DCF_STATE": str(self.folder / "state"),
                "DCF_BUNDLES": str(self.folder / "bundles"),
                "DCF_CONFIG": str(self.folder / "user" / "config.yaml"),
                "COLUMNS": "200",
                # What is built for no gateway depends on the machine otherwise.
                "DOCKER_HOST": "unix:///nowhere/docker.sock",
            }
            | self.more
        )

    def start(self, *args: str, cwd: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dcf", *args],
            cwd=cwd or self.folder,
            env=self.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def dcf(
        self,
        *args: str,
        stdin: bytes = b"",
        cwd: Path | None = None,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "dcf", *args],
            cwd=cwd or self.folder,
            env=self.environ | dict(env or {}),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
        )

    def ok(self, *args: str, stdin: bytes = b"", cwd: Path | None = None, timeout_s: float = 60) -> str:
        """Run what must succeed; its stdout."""
        done = self.dcf(*args, stdin=stdin, cwd=cwd, timeout_s=timeout_s)
        assert done.returncode == 0, f"dcf {args}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def fails(self, *args: str, stdin: bytes = b"", code: int = 1, cwd: Path | None = None) -> str:
        """Run what must fail; its stderr, which is ours and no traceback."""
        done = self.dcf(*args, stdin=stdin, cwd=cwd)
        error = done.stderr.decode()
        assert done.returncode == code, f"dcf {args}: {done.returncode}\n{done.stdout.decode()}\n{error}"
        assert "dcf: " in error
        assert 'File "' not in error or "handler.py" in error, error
        return error


def make_function(shell: Shell, name: str, handler: str, **keys: str) -> Path:
    """A built function in its own folder; `keys` are added to its config."""
    shell.ok("function", "init", name)
    folder = shell.folder / name
    (folder / "src" / "handler.py").write_text(handler)
    config = folder / "config.yaml"
    lines = config.read_text()
    for key, value in keys.items():
        lines = "\n".join(line for line in lines.splitlines() if not line.startswith(f"    {key}:"))
        lines = lines.replace("    runtime: python", f"    runtime: python\n    {key}: {value}") + "\n"
    config.write_text(lines)
    shell.ok("function", "build", "-f", str(config))
    return config


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A cluster that runs for the tests of one module."""
    shell = Shell(tmp_path_factory.mktemp("c"))
    address = f"127.0.0.1:{free_port()}"
    shell.ok("up", "--detach", "--listen", address)
    shell.more["ADDRESS"] = address
    try:
        yield shell
    finally:
        shell.ok("down")
