"""Many clients at once on a function at zero: what they were answered, and by whom."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from tests.flows.cluster import Cluster, until

ELASTIC = {"min": 0, "max": 8, "idle": "5s", "initial": 0}
"""`deploy` starts none of it."""

HANDLER = """
import os, socket, time

REPLICA = f"{socket.gethostname()}/{os.getppid()}"

def Handler(req):
    time.sleep(0.1)
    return f"{REPLICA} {req.text}"
"""
"""Says which replica it is, and what it was sent."""


@dataclass
class Burst:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    replicas: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers to another call than that which was made, and what was no 200."""


async def play(url: str, *, clients: int, for_s: float) -> Burst:
    """Each client makes one call after the other until `for_s` is over, and waits for the last one."""
    seen = Burst()
    end = time.monotonic() + for_s

    async def client(session: aiohttp.ClientSession, name: int) -> None:
        number = 0
        while time.monotonic() < end:
            body = f"{name}-{number}"
            number += 1
            async with session.post(url, data=body.encode()) as response:
                text = await response.text()
            seen.statuses[response.status] += 1
            replica, _, echoed = text.partition(" ")
            if response.status == 200 and echoed == body:
                seen.replicas[replica] += 1
            else:
                seen.wrong.append(f"{body}: {response.status} {text}")

    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for name in range(clients):
            group.create_task(client(session, name))
    return seen


def check_that_all_served_and_sleep(cluster: Cluster, name: str, seen: Burst) -> None:
    """What holds of every backend after `play` on a function of `ELASTIC` and concurrency 1; waits until it sleeps."""
    assert seen.wrong == []
    assert set(seen.statuses) == {200}
    assert len(seen.replicas) == 8
    until(lambda: cluster.function(name)["replicas"] == 0, limit_s=60, what="zero replicas wanted")
    total = seen.statuses[200]
    until(lambda: cluster.function(name)["invocationCount"] == total, what=f"a count of {total}")
    reason = "asleep: the next call starts a replica"
    until(lambda: cluster.function(name)["reason"] == reason, limit_s=60, what="asleep")
    facts = cluster.json("function", "describe", name)
    reasons = [one["reason"] for one in facts["decisions"]]
    assert any(reason.startswith("from zero to ") for reason in reasons), reasons
    assert any("max is 8" in reason for reason in reasons), reasons
    assert reasons[-1] == "down from 8 to 0: no call for 5s (idle, min: 0)"
    assert 0.0 < facts["coldStart"]["watcherS"] <= facts["coldStart"]["loadedS"], facts["coldStart"]
