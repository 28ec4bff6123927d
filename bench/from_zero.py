"""How long a call waits where no replica runs, and how long a burst waits for all of them.

`python bench/from_zero.py [--backend process|docker|swarm] [--rounds 5]`, on an idle machine; with docker an engine
must answer and have the base images; with swarm on a manager whose cluster runs (`dcf up --backend swarm`).
Prints medians, and of one call what part is what. Each round begins when the function sleeps and nothing of it is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp

DCF = [sys.executable, "-m", "dcf"]
NAME = "zero"
REPLICAS = 8
CLIENTS = 40
SCALING = {"min": 0, "max": REPLICAS, "idle": "3s", "initial": 0}
HANDLER = """
import os, socket, time

REPLICA = f"{socket.gethostname()}/{os.getppid()}"

def Handler(req):
    time.sleep(float(req.text))
    return REPLICA
"""
BURST_CALL_S = 0.1
LIMIT_S = 60.0
REST_S = 2.0
"""After the last sign of it: an engine still tidies up."""
MUST_S = {"process": 1.5, "docker": 2.5, "swarm": 4.0}
AIM_S = {"process": 0.5, "docker": 1.2, "swarm": 2.0}


class Bench:
    """A cluster, and one function in a folder."""

    def __init__(self, folder: Path, gateway: str, environ: dict[str, str], *, containers: bool) -> None:
        self.folder = folder
        self.gateway = gateway
        self.environ = environ
        self.containers = containers
        self.config = folder / NAME / "config.yaml"

    def dcf(self, *args: str) -> str:
        done = subprocess.run([*DCF, *args], cwd=self.folder, env=self.environ, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"dcf {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def make(self, backend: str, registry: str) -> None:
        self.dcf("function", "init", NAME, "--runtime", "python", "--gateway", self.gateway)
        (self.folder / NAME / "src" / "handler.py").write_text(HANDLER)
        given = {"scaling": json.dumps(SCALING), "concurrency": "1", "docker_registry": registry}
        lines = self.config.read_text().splitlines()
        lines = [line for line in lines if line.strip().partition(":")[0] not in ({*given, "replicas"})]
        at = next(number for number, line in enumerate(lines) if line.startswith(f"  {NAME}:"))
        lines[at + 1 : at + 1] = [f"    {key}: {value}" for key, value in given.items() if value]
        self.config.write_text("\n".join(lines) + "\n")
        self.dcf("function", "build", "-f", str(self.config), "--backend", backend)
        self.dcf("function", "deploy", "-f", str(self.config))

    def describe(self) -> dict[str, Any]:
        return dict(json.loads(self.dcf("function", "describe", NAME, "--output", "json")))

    def wait_until_asleep(self) -> None:
        """Until no replica is wanted, known or running."""
        end = time.monotonic() + LIMIT_S
        while True:
            facts = self.describe()
            if not (facts["replicas"] or facts["replicaStates"] or self.running()):
                break
            if time.monotonic() > end:
                raise SystemExit(f"{NAME} did not fall asleep within {LIMIT_S:g} s: {facts['reason']}")
            time.sleep(0.2)
        time.sleep(REST_S)

    def running(self) -> list[str]:
        """Its containers on this engine; a process that is known no more has ended."""
        if not self.containers:
            return []
        command = ["docker", "ps", "-q", "--filter", f"label=dcf.function={NAME}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    async def ask(self, session: aiohttp.ClientSession, handler_s: float) -> str:
        """One call; which replica has answered it."""
        url = f"http://{self.gateway}/function/{NAME}"
        async with session.post(url, data=str(handler_s).encode()) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise SystemExit(f"a call was answered with {answer.status}: {text}")
            return text

    async def one_call(self) -> tuple[float, float]:
        """When it was made, unix seconds, and how long its answer took."""
        async with open_session() as session:
            at, begun_s = time.time(), time.monotonic()
            await self.ask(session, 0.0)
            return at, time.monotonic() - begun_s

    async def burst(self) -> list[float]:
        """Seconds from the first call until each of the replicas has answered one."""
        first_s: dict[str, float] = {}
        begun_s = time.monotonic()

        async def client(session: aiohttp.ClientSession) -> None:
            while len(first_s) < REPLICAS:
                replica = await self.ask(session, BURST_CALL_S)
                first_s.setdefault(replica, time.monotonic() - begun_s)

        try:
            async with asyncio.timeout(LIMIT_S), open_session() as session, asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(client(session))
        except TimeoutError:
            raise SystemExit(f"only {len(first_s)} of {REPLICAS} replicas answered within {LIMIT_S:g} s") from None
        return list(first_s.values())


def open_session() -> aiohttp.ClientSession:
    """For many connections at once."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def parts_of(call_at: float, took_s: float, facts: dict[str, Any]) -> dict[str, float]:
    """What each part of one call's wait took; clocks of two machines would differ, so it is run on the gateway's."""
    decided_at = [one["at"] for one in facts["decisions"] if one["before"] == 0 and one["replicas"]][-1]
    cold = facts["coldStart"]
    since_s = decided_at - call_at
    return {
        "call to decision": since_s,
        "decision to container": cold["containerS"],
        "container to watcher": cold["watcherS"] - cold["containerS"],
        "watcher to loaded": cold["loadedS"] - cold["watcherS"],
        "loaded to answer": took_s - since_s - cold["loadedS"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("process", "docker", "swarm"), default="process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gateway", help="of a cluster that runs; without it `dcf up` makes one (not for swarm)")
    parser.add_argument("--registry", default="", help="docker_registry of the function, for a Swarm of many")
    options = parser.parse_args()
    if options.backend == "swarm" and not options.gateway:
        parser.error("--backend swarm needs --gateway: start the cluster with `dcf up --backend swarm`")
    with tempfile.TemporaryDirectory(prefix="dcf-zero-", dir="/tmp") as name:
        folder = Path(name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DCF_") or key == "DCF_TOKEN"}
        environ = kept | {
            "DCF_STATE": str(folder / "state"),
            "DCF_BUNDLES": str(folder / "bundles"),
            "DCF_CONFIG": str(folder / "config.yaml"),
            "DCF_CLUSTER": "dcf-bench",
        }
        containers = options.backend != "process"
        bench = Bench(folder, options.gateway or "127.0.0.1:32299", environ, containers=containers)
        if options.gateway:
            measure(bench, options)
            return
        bench.dcf("up", "--detach", "--listen", bench.gateway, "--backend", options.backend)
        try:
            measure(bench, options)
        finally:
            bench.dcf("down")


def measure(bench: Bench, options: argparse.Namespace) -> None:
    bench.make(options.backend, options.registry)
    try:
        calls, firsts, alls = [], [], []
        parts: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            bench.wait_until_asleep()
            call_at, took_s = asyncio.run(bench.one_call())
            calls.append(took_s)
            for part, seconds in parts_of(call_at, took_s, bench.describe()).items():
                parts[part].append(seconds)
            bench.wait_until_asleep()
            reached_s = asyncio.run(bench.burst())
            firsts.append(min(reached_s))
            alls.append(max(reached_s))
    finally:
        bench.dcf("function", "delete", NAME)
    must_s, aim_s = MUST_S[options.backend], AIM_S[options.backend]
    show(f"one call at zero to its answer (must {must_s:g} s, aim {aim_s:g} s)", calls)
    for part, seconds in parts.items():
        show(f"  {part}", seconds)
    show(f"a burst of {CLIENTS} clients at zero to its first answer", firsts)
    show(f"  until {REPLICAS} replicas have answered", alls)


def show(what: str, seconds: list[float]) -> None:
    rounds = ", ".join(f"{one:.2f}" for one in seconds)
    print(f"{what}: median {statistics.median(seconds):.2f} s ({rounds})")


if __name__ == "__main__":
    main()
