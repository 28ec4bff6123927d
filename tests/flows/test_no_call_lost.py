"""What is killed costs the calls that were in it, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.flows.cluster import Cluster, children, until

CALLS = 5000
CONCURRENCY = 50

HANDLER = """
import time

class Handler:
    def __call__(self, req):
        time.sleep(0.002)
        return b"{version}:" + req.input
"""


@dataclass
class Seen:
    """What the clients saw."""

    started: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[tuple[float, float, str]] = field(default_factory=list)
    """Start, end and code of each call that got no answer of the function."""
    wrong: list[str] = field(default_factory=list)


async def call_all(url: str, seen: Seen, breakages: dict[int, Callable[[], None]]) -> None:
    """CALLS calls by CONCURRENCY clients; each breakage happens before the call of its number."""
    numbers = iter(range(CALLS))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if number in breakages:
                await asyncio.get_running_loop().run_in_executor(None, breakages[number])
            body = f"call-{number}"
            seen.started += 1
            began = time.monotonic()
            try:
                async with session.post(url, data=body.encode()) as response:
                    text = await response.text()
                    seen.statuses[response.status] += 1
                    if response.status != 200:
                        seen.lost.append((began, time.monotonic(), text))
                    elif text not in (f"v1:{body}", f"v2:{body}"):
                        seen.wrong.append(text)
            except aiohttp.ClientError as error:
                seen.wrong.append(f"call {number}: {error!r}")

    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(CONCURRENCY):
            group.create_task(client(session))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_5000_calls_while_everything_breaks_once(cluster: Cluster) -> None:
    cluster.up("--processes", "2")
    cluster.deploy("echo", HANDLER.replace("{version}", "v1"), replicas=2)
    killed_at: list[float] = []
    new_version = cluster.make("echo", HANDLER.replace("{version}", "v2"), replicas=2)
    cluster.run("function", "build", "-f", str(new_version / "config.yaml"))

    def kill(pid: int) -> None:
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    def kill_worker() -> None:
        watcher = min(cluster.replicas("echo").values())
        kill(children(watcher)[0])

    def kill_watcher() -> None:
        kill(max(cluster.replicas("echo").values()))

    def kill_scheduler() -> None:
        os.kill(cluster.processes()["scheduler"], signal.SIGKILL)

    def deploy() -> None:
        cluster.run("function", "deploy", "-f", "echo/config.yaml", "--no-wait")

    def stop_gateway() -> None:
        os.kill(cluster.processes()["gateway-0"], signal.SIGTERM)

    seen = Seen()
    old_gateway = cluster.processes()["gateway-0"]
    await call_all(
        f"{cluster.url}/function/echo",
        seen,
        {500: kill_worker, 1300: kill_watcher, 2100: kill_scheduler, 2700: deploy, 3800: stop_gateway},
    )

    assert seen.wrong == []
    assert seen.started == CALLS == sum(seen.statuses.values())
    assert set(seen.statuses) <= {200, 502}, seen.lost
    in_flight_at_a_kill = [any(began <= moment <= ended for moment in killed_at) for began, ended, _ in seen.lost]
    assert all(in_flight_at_a_kill), seen.lost
    assert len(killed_at) == 2
    assert all('"code": "replica_lost"' in text for _, _, text in seen.lost)
    until(
        lambda: cluster.function("echo")["invocationCount"] == seen.statuses[200],
        what=f"the count to be {seen.statuses[200]}, it is {cluster.function('echo')['invocationCount']}",
    )
    until(lambda: cluster.processes()["gateway-0"] != old_gateway, what="the stopped gateway process to be replaced")
    until(lambda: cluster.run("function", "invoke", "echo", stdin="x").stdout == "v2:x", what="the new version")
    until(lambda: cluster.function("echo")["availableReplicas"] == 2, what="two replicas again")


@pytest.mark.slow
def test_a_killed_cluster_comes_back_with_functions_and_counts(cluster: Cluster) -> None:
    cluster.up()
    cluster.deploy("echo", HANDLER.replace("{version}", "v1"), replicas=1, timeout="7s")
    for _ in range(20):
        with urllib.request.urlopen(f"{cluster.url}/function/echo", data=b"x", timeout=30) as response:
            assert response.read() == b"v1:x"
    until(lambda: cluster.function("echo")["invocationCount"] == 20, what="20 invocations")
    victims = [*cluster.processes().values(), cluster.json("status")["pid"], *cluster.replicas("echo").values()]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cluster.up()

    row = until(
        lambda: (row := cluster.function("echo")) and row["availableReplicas"] == 1 and row, what="a replica again"
    )
    assert row["invocationCount"] == 20
    assert cluster.json("function", "describe", "echo")["spec"]["timeout"] == "7s"
    assert cluster.run("function", "invoke", "echo", stdin="x").stdout == "v1:x"
