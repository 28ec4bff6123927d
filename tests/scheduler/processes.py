"""Real schedulers and real watchers for tests, in a folder of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from dcf.domain.bundle import BundleManifest, manifest_to_json
from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName, bundle_reference
from dcf.domain.status import FunctionStatus
from dcf.store.redis_store import RedisStore

T = TypeVar("T")

ECHO = """
    def handler(req):
        return req.input
"""
RAISES = """
    print("loading the model")

    class Handler:
        def __init__(self):
            raise ValueError("no weights")

        def __call__(self, req):
            return b""
"""
NEVER_LOADS = """
    import time

    print("loading for ever", flush=True)
    time.sleep(3600)
"""


async def until(look: Callable[[], Coroutine[Any, Any, T | None] | T | None], within_s: float = 30.0) -> T:
    """The first true answer of `look`; fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = look()
        seen = await answer if isinstance(answer, Coroutine) else answer
        if seen:
            return seen
        assert time.monotonic() < deadline, f"it did not come true within {within_s} s"
        await asyncio.sleep(0.02)


def make_bundle(bundles: Path, name: str, source: str, *, digest: str = "0123456789ab", handler: str = "") -> str:
    """A bundle as `dcf function build` leaves it; its reference."""
    folder = bundles / name / digest
    (folder / "src").mkdir(parents=True)
    text = textwrap.dedent(source)
    (folder / "src" / "handler.py").write_text(text)
    manifest = BundleManifest(
        function=name,
        digest=digest,
        runtime="python",
        command=(sys.executable,),
        version="3",
        handler_file="handler.py",
        handler_name=handler or ("Handler" if "class Handler" in text else "handler"),
    )
    (folder / "bundle.json").write_text(manifest_to_json(manifest))
    return bundle_reference(name, digest)


def make_spec(name: str, image: str, **fields: Any) -> FunctionSpec:
    return FunctionSpec(name=FunctionName(name), image=image, **{"uid": f"uid-{name}", **fields})


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that still live."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Cluster:
    """One state folder with the schedulers that run on it."""

    def __init__(self, folder: Path, store: RedisStore, store_url: str) -> None:
        self.state = folder / "state"
        self.bundles = folder / "bundles"
        self.store = store
        self._store_url = store_url
        self._schedulers: list[subprocess.Popen[bytes]] = []

    def environ(self, scheduler_id: str = "local-0") -> dict[str, str]:
        plain = {key: text for key, text in os.environ.items() if not key.startswith("DCF_")}
        return {
            **plain,
            "DCF_STORE_URL": self._store_url,
            "DCF_SCHEDULER_ID": scheduler_id,
            "DCF_STATE": str(self.state),
            "DCF_BUNDLES": str(self.bundles),
            "DCF_TICK_S": "0.2",
            "DCF_LEASE_TTL_S": "1.5",
        }

    def start_scheduler(self, scheduler_id: str = "local-0") -> subprocess.Popen[bytes]:
        self.state.mkdir(exist_ok=True)
        with (self.state / f"{scheduler_id}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dcf.scheduler"], env=self.environ(scheduler_id), stderr=output
            )
        self._schedulers.append(process)
        return process

    def log(self, scheduler_id: str = "local-0") -> str:
        return (self.state / f"{scheduler_id}.log").read_text()

    async def deploy(self, spec: FunctionSpec) -> FunctionSpec:
        assert await self.store.write_spec(spec, expected_revision=spec.revision - 1)
        return spec

    async def status(self, name: str) -> FunctionStatus | None:
        return (await self.store.read_statuses()).get(name)

    async def status_when(
        self, name: str, right: Callable[[FunctionStatus], object], within_s: float = 30.0
    ) -> FunctionStatus:
        async def look() -> FunctionStatus | None:
            status = await self.status(name)
            return status if status is not None and right(status) else None

        return await until(look, within_s)

    def pids(self, function: str) -> dict[str, int]:
        """Replica -> pid of its watcher, by the records."""
        records = [json.loads(path.read_text()) for path in sorted(self.state.glob("replicas/*/replica.json"))]
        return {one["name"]: one["pid"] for one in records if one["function"] == function and is_alive(one["pid"])}

    def folders(self) -> list[str]:
        """Of replicas, dead or alive, but for the kept ones of failed replicas."""
        return [path.name for path in self.state.glob("replicas/*") if not path.name.startswith(".")]

    def close(self) -> None:
        """Nothing of it is left; fails where something is that should not be."""
        pids = [json.loads(path.read_text())["pid"] for path in self.state.glob("replicas/*/replica.json")]
        for process in self._schedulers:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._schedulers:
            process.wait(10)
        for path in sorted(self.state.glob("*.log")):
            print(f"--- {path.name}\n{path.read_text()}")  # shown where the test fails
        done = subprocess.run(
            [sys.executable, "-m", "dcf.scheduler", "--stop-replicas"], env=self.environ(), check=False, timeout=30
        )
        assert done.returncode == 0
        assert not [pid for pid in pids if is_alive(pid)]
        assert not list(self.state.glob("replicas/*/replica.json"))
