"""What one turn of the scheduler costs, with many functions.

`python bench/scheduler_cost.py [--functions 100 250 500 1000] [--replicas 3] [--turns 15]` prints CPU per turn: of this
process, which is the control loop with a real Redis, and of Redis. The backend is one of this file, at the contract's
edge: all replicas are there, and their Watch streams are not opened. Each function is elastic and has calls in flight,
so that each turn reads a report on it, decides, and writes nothing where nothing changes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.load import FunctionLoad
from dcf.domain.names import FunctionName
from dcf.domain.scaling import ScalingPolicy
from dcf.domain.status import NodeStatus
from dcf.lifecycle import open_task_set
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaExit, ReplicaPlan
from dcf.scheduler.control_loop import ControlLoop
from dcf.scheduler.watcher_watch import Report, WatcherWatch
from dcf.sockets import why_refused
from dcf.store.embedded import find_redis_server, redis_command
from dcf.store.redis_store import RedisStore, open_store, socket_url

TICK_S = 1.0
MUST_S = 0.1
"""CPU of a turn with 1 000 functions."""


class Replicas:
    """A ReplicaBackend in which whatever is started runs for ever."""

    def __init__(self) -> None:
        self._there: dict[str, ObservedReplica] = {}

    def fill(self, spec: FunctionSpec, number: int) -> None:
        for ordinal in range(number):
            plan = ReplicaPlan(spec=spec, ordinal=ordinal)
            self._there[plan.name] = ObservedReplica(
                name=plan.name,
                function=spec.name,
                uid=spec.uid,
                generation=spec.generation,
                digest=replica_digest(spec),
                ordinal=ordinal,
                address=f"unix:/nowhere/{plan.name}",
                started_at=time.time() - 3600.0,
                grace_s=plan.grace_s,
                stopping=False,
                adopted=True,
            )

    async def observe(self) -> list[ObservedReplica]:
        return list(self._there.values())

    async def take_exits(self) -> list[ReplicaExit]:
        return []

    async def nodes(self) -> list[NodeStatus]:
        return [NodeStatus(name="box", ready=True, cpus=64.0, memory_bytes=2**38)]

    async def start(self, plan: ReplicaPlan) -> ObservedReplica:
        raise SystemExit(f"{plan.name} was to be started: the load of this benchmark asks for what is there")

    async def stop(self, name: str, *, grace_s: float) -> None:
        raise SystemExit(f"{name} was to be stopped: the load of this benchmark asks for what is there")


class Reports(WatcherWatch):
    """All replicas said a moment ago that they are ready."""

    def follow(self, replicas: object) -> None:
        pass

    def report(self, address: str) -> Report:
        now = time.monotonic()
        return Report(state="ready", in_flight=1, heard_at=now, first_heard_at=now - 3600.0, ready_since=now - 3600.0)


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """A private Redis, as a cluster has it; its URL."""
    path = folder / "redis.sock"
    process = subprocess.Popen(redis_command(find_redis_server(), folder, path), stdout=subprocess.DEVNULL)
    try:
        while why_refused(str(path)) is not None:
            time.sleep(0.01)
        yield socket_url(str(path))
    finally:
        process.terminate()
        process.wait()


async def measure(store: RedisStore, number: int, replicas: int, turns: int) -> tuple[float, float]:
    """Means of this process's CPU in a turn, and of the time that it takes, in seconds."""
    backend = Replicas()
    loads: dict[str, FunctionLoad] = {}
    for index in range(number):
        spec = FunctionSpec(
            name=FunctionName(f"f{index}"),
            image="bundle:f@0123456789ab",
            uid=f"uid-{index}",
            environment={"MODEL": "resnet", "LOG_LEVEL": "info"},
            labels={"team": "vision"},
            replicas=replicas,
            scaling=ScalingPolicy(min_replicas=replicas, max_replicas=2 * replicas),
        )
        await store.write_spec(spec, expected_revision=0)
        backend.fill(spec, replicas)
        loads[spec.name] = FunctionLoad(uid=spec.uid, busy_s=1000.0, arrivals=10_000, in_flight=1, slots=1, per_s=10.0)
    fence = await store.acquire_lease("bench", ttl_s=600.0)
    assert fence is not None
    async with open_task_set() as tasks:
        watches = Reports(tasks, lambda: None)
        loop = ControlLoop(store, cast("ReplicaBackend", backend), watches, fence)
        return await play(loop, store, loads, turns)


async def play(loop: ControlLoop, store: RedisStore, loads: dict[str, FunctionLoad], turns: int) -> tuple[float, float]:
    cpu, wall = [], []
    began_s = time.monotonic()
    for turn in range(turns + 3):
        # 1.5 calls at a time, 15 in a second: what three replicas are right for.
        busy_s = 1000.0 + 1.5 * (time.monotonic() - began_s)
        for name, load in loads.items():
            loads[name] = replace(load, busy_s=busy_s, arrivals=round(10 * busy_s))
        await store.write_load("gateway-0", loads, urgent=False)
        began_cpu, began = time.process_time(), time.perf_counter()
        await loop.turn()
        if turn >= 3:  # the first ones write what there is to write
            cpu.append(time.process_time() - began_cpu)
            wall.append(time.perf_counter() - began)
        await asyncio.sleep(TICK_S)  # as a scheduler does: every few seconds each status is written again
    return statistics.mean(cpu), statistics.mean(wall)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, nargs="+", default=[100, 250, 500, 1000])
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| functions | replicas | CPU of a turn | of it for each function | time of a turn |")
    print("|---:|---:|---:|---:|---:|")
    last = 0.0
    for number in options.functions:
        with tempfile.TemporaryDirectory(prefix="dcf-b-", dir="/tmp") as name, running_redis(Path(name)) as url:
            async with open_store(url) as store:
                last, wall = await measure(store, number, options.replicas, options.turns)
        each = last / number * 1e6
        print(f"| {number} | {number * options.replicas} | {last * 1e3:.0f} ms | {each:.0f} µs | {wall * 1e3:.0f} ms |")
    print(f"must: {MUST_S * 1e3:.0f} ms of CPU with 1 000 functions")


if __name__ == "__main__":
    asyncio.run(main())
