"""The real gateway and scheduler under the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from dcf.cluster.state import read_cluster, stop_cluster
from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.store.redis_store import open_store
from tests.cluster.conftest import Up
from tests.conftest import wait_until

Start = Callable[..., Up]
pytestmark = pytest.mark.slow

ECHO = FunctionSpec(name=FunctionName("echo"), image="bundle:echo@0123456789ab", uid="u1", replicas=0)


def get(up: Up, path: str) -> tuple[int, str]:
    host, port = up.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_real_cluster_answers_and_stops(up: Start) -> None:
    cluster = up(real=True, DCF_PROCESSES="2").until_ready()

    assert get(cluster, "/healthz")[0] == 200
    assert get(cluster, "/readyz")[0] == 200

    status, _, err = cluster.stop()
    assert (status, err) == (0, "")


def test_each_process_comes_back_and_the_address_stays(up: Start) -> None:
    cluster = up(real=True).until_ready()
    pids = cluster.pids()

    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)

    def all_back() -> bool:
        now = cluster.pids()
        return set(now) == set(pids) and all(now[name] != pid for name, pid in pids.items())

    wait_until(all_back, within_s=30)
    wait_until(lambda: get(cluster, "/readyz")[0] == 200, within_s=30)


def test_specs_and_counts_outlive_a_kill_of_everything(up: Start) -> None:
    first = up(real=True).until_ready()
    facts = read_cluster(first.state)
    assert facts

    async def write() -> None:
        async with open_store(facts.store_url) as store:
            assert await store.write_spec(ECHO, expected_revision=0)
            await store.write_counts("local-0", {("echo", "u1"): {"invocations": 17}})

    asyncio.run(write())
    for pid in first.pids().values():
        os.kill(pid, signal.SIGKILL)
    first.kill()

    second = up(real=True).until_ready()

    status, text = get(second, "/system/function/echo")
    assert status == 200
    assert '"invocationCount":17' in text.replace(" ", "")
    assert stop_cluster(second.state, 60) == "stopped"
    assert second.finish()[0] == 0
