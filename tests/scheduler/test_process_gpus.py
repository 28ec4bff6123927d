"""Replicas that are processes have their GPUs for themselves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dcf.domain.function import FunctionSpec
from dcf.errors import CapacityError
from dcf.scheduler.backends.contract import ReplicaPlan
from dcf.scheduler.backends.process import ProcessBackend, open_process_backend
from tests.gpus import A, B, path_without_nvidia, stub_nvidia_smi
from tests.scheduler.processes import make_bundle, make_spec, until

pytestmark = pytest.mark.slow
PRINTS_ITS_DEVICES = """
    import os

    print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)

    def handler(req):
        return b""
"""


class Machine:
    """Its folders, and what its `nvidia-smi` lists."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environ = {**os.environ, "PATH": stub_nvidia_smi(folder / "bin", A, B)}

    @asynccontextmanager
    async def open(self, gpus: str = "", **environ: str) -> AsyncIterator[ProcessBackend]:
        async with open_process_backend(
            state=self._folder / "state",
            bundles=self._folder / "bundles",
            gpus=gpus,
            environ=self.environ | environ,
            on_change=lambda: None,
        ) as backend:
            yield backend

    def spec(self, name: str, gpus: int = 1) -> FunctionSpec:
        image = make_bundle(self._folder / "bundles", name, PRINTS_ITS_DEVICES)
        return make_spec(name, image, limits={"gpu": str(gpus)} if gpus else {})

    def pid(self, name: str) -> int:
        return int(json.loads((self._folder / f"state/replicas/{name}/replica.json").read_text())["pid"])


@pytest.fixture
def machine(short_path: Path) -> Machine:
    return Machine(short_path)


def plan(spec: FunctionSpec, ordinal: int = 0) -> ReplicaPlan:
    return ReplicaPlan(spec=spec, ordinal=ordinal)


async def until_seen(backend: ProcessBackend, plan: ReplicaPlan, devices: str) -> None:
    async def look() -> bool:
        return f"sees {devices}" in await backend.log_tail(plan.name)

    await until(look)


async def until_gone(backend: ProcessBackend, plan: ReplicaPlan) -> None:
    async def look() -> bool:
        return plan.name not in [one.name for one in await backend.observe()]

    await until(look)


async def test_each_replica_has_a_gpu_of_its_own_and_the_third_waits(machine: Machine) -> None:
    one, two = machine.spec("a"), machine.spec("b")
    async with machine.open() as backend:
        first, second = await backend.start(plan(one)), await backend.start(plan(two))
        with pytest.raises(CapacityError) as full:
            await backend.start(plan(one, 1))
        [node] = await backend.nodes()

        assert (first.gpus, second.gpus) == ((A,), (B,))
        assert str(full.value) == "no GPU free: 2 of 2 are held by a-g1-0, b-g1-0"
        assert (node.gpus, node.gpus_used, node.replicas) == ((A, B), (A, B), 2)
        assert await backend.observe() == [first, second]
        await until_seen(backend, plan(one), A)
        await until_seen(backend, plan(two), B)

        await backend.stop(first.name, grace_s=10)
        await until_gone(backend, plan(one))
        third = await backend.start(plan(one, 1))
        assert third.gpus == (A,)
        await until_seen(backend, plan(one, 1), A)
        await backend.stop_all(grace_s=5)


async def test_who_was_adopted_keeps_its_gpu_and_who_died_gives_it_back(machine: Machine) -> None:
    one, two = machine.spec("a"), machine.spec("b")
    async with machine.open() as backend:
        await backend.start(plan(one))
    async with machine.open() as backend:
        [adopted] = await backend.observe()
        assert adopted.gpus == (A,)
        assert (await backend.start(plan(two))).gpus == (B,)

        os.kill(machine.pid("a-g1-0"), signal.SIGKILL)
        await until_gone(backend, plan(one))
        assert (await backend.start(plan(one, 1))).gpus == (A,)
        await backend.stop_all(grace_s=5)
        await backend.take_exits()


async def test_two_gpus_for_one_replica_and_none_for_who_asks_for_none(machine: Machine) -> None:
    both, none = machine.spec("both", 2), machine.spec("none", 0)
    async with machine.open() as backend:
        assert (await backend.start(plan(both))).gpus == (A, B)
        assert (await backend.start(plan(none))).gpus == ()
        await until_seen(backend, plan(both), f"{A},{B}")
        await until_seen(backend, plan(none), str(os.environ.get("CUDA_VISIBLE_DEVICES")))
        await backend.stop_all(grace_s=5)


async def test_the_setting_says_which_may_be_used(machine: Machine) -> None:
    spec = machine.spec("a")
    async with machine.open(gpus="1") as backend:
        assert (await backend.start(plan(spec))).gpus == (B,)
        with pytest.raises(CapacityError, match="1 of 1 is held by a-g1-0"):
            await backend.start(plan(spec, 1))
        await backend.stop_all(grace_s=5)
    async with machine.open(gpus="none") as backend:
        with pytest.raises(CapacityError, match="DCF_GPUS=none says so"):
            await backend.start(plan(spec))
    async with machine.open(CUDA_VISIBLE_DEVICES=B) as backend:
        assert (await backend.start(plan(spec))).gpus == (B,)
        await backend.stop_all(grace_s=5)


async def test_a_gpu_that_is_named_and_not_there_ends_the_replica_with_the_reason(machine: Machine) -> None:
    async with machine.open(gpus="GPU-cccc") as backend:
        await backend.start(plan(machine.spec("a")))
        exits = await until(backend.take_exits)

        assert exits[0].cause.startswith("GPU-cccc was reserved for this replica, but GPU-cccc is not seen here")


async def test_a_machine_without_a_driver_says_so_and_starts_nothing(machine: Machine) -> None:
    async with machine.open(PATH=path_without_nvidia()) as backend:
        with pytest.raises(CapacityError, match="no GPU was found on this machine: there is no nvidia-smi"):
            await backend.start(plan(machine.spec("a")))

        assert await backend.observe() == []
        [node] = await backend.nodes()
        assert (node.gpus, node.ready, node.cpus > 0, node.memory_bytes > 2**20) == ((), True, True, True)
