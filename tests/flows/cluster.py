"""A real cluster for a test: `dcf up`, and everything else through the `dcf` command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DCF = [sys.executable, "-m", "dcf"]


def until(condition: Callable[[], Any], *, limit_s: float = 20.0, what: str = "") -> Any:
    """Wait for something true; fail with `what` after `limit_s`."""
    end = time.monotonic() + limit_s
    while True:
        if result := condition():
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s:g} s: {what or condition}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Cluster:
    """Folders, a port, and the commands of a user."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.work = root / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DCF_")},
            "DCF_STATE": str(self.state),
            "DCF_BUNDLES": str(root / "bundles"),
            "DCF_CONFIG": str(root / "config.yaml"),
        }

    def run(
        self, *args: str, stdin: str | bytes = b"", check: bool = True, cwd: Path | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """`dcf ARGS...` in the work folder."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*DCF, *args], input=data, capture_output=True, cwd=cwd or self.work, env=self.environ, timeout=timeout_s
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(args)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}\n{self.logs()}"
            )
        return result

    def up(self, *args: str) -> None:
        self.run("up", "--detach", "--listen", self.address, *args)

    def down(self) -> None:
        self.run("down", timeout_s=120)

    def json(self, *args: str, timeout_s: float = 60.0) -> Any:
        return json.loads(self.run(*args, "--output", "json", timeout_s=timeout_s).stdout)

    def function(self, name: str) -> dict[str, Any]:
        """Its row of `dcf function list`."""
        rows = [row for row in self.json("function", "list") if row["name"] == name]
        return rows[0] if rows else {}

    def make(self, name: str, handler: str, **config: object) -> Path:
        """A function's folder: what `init` writes, with another handler and more keys in its config."""
        folder = self.work / name
        if not folder.exists():
            self.run("function", "init", name, "--runtime", "python", "--gateway", self.address)
        (folder / "src" / "handler.py").write_text(handler)
        if config:
            lines = (folder / "config.yaml").read_text().splitlines()
            at = next(i for i, line in enumerate(lines) if line.startswith(f"  {name}:"))
            gone = [*config, *(["replicas"] if "scaling" in config else [])]
            keep = [line for line in lines if not any(line.startswith(f"    {key}:") for key in gone)]
            new = [f"    {key}: {json.dumps(value)}" for key, value in config.items()]
            (folder / "config.yaml").write_text("\n".join([*keep[: at + 1], *new, *keep[at + 1 :]]) + "\n")
        return folder

    def deploy(self, name: str, handler: str, **config: object) -> None:
        self.make(name, handler, **config)
        self.run("function", "build", "-f", f"{name}/config.yaml")
        self.run("function", "deploy", "-f", f"{name}/config.yaml")

    def processes(self) -> dict[str, int]:
        """Pids by name: redis, scheduler, gateway-0, ..."""
        data = json.loads((self.state / "processes.json").read_text())
        return {name: entry["pid"] for name, entry in data.items()}

    def replicas(self, function: str) -> dict[str, int]:
        """Pids of the watchers by replica name."""
        found = {}
        for path in (self.state / "replicas").glob(f"{function}-g*/replica.json"):
            found[path.parent.name] = json.loads(path.read_text())["pid"]
        return {name: pid for name, pid in found.items() if alive(pid)}

    def logs(self) -> str:
        """The last lines of every process, for a failure's message."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in (self.state / "logs").glob("*")
        )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
