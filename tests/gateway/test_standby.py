"""Two gateways and two schedulers: the acting one is killed in the middle of a burst."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.conftest import until
from tests.flows.bursts import HANDLER, play
from tests.gateway.running_gateway import Cluster, Gateway

LEASE_S = 3.0
MAX = 6


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(lease_ttl_s=LEASE_S)
    yield cluster
    cluster.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_standby_goes_on_with_a_burst_when_the_lease_has_run_out(cluster: Cluster) -> None:
    gateways = [Gateway(cluster, "gateway-0"), Gateway(cluster, "gateway-1")]
    gateways[0].deploy(
        "burst", HANDLER.replace("def Handler", "def handler"), concurrency=1, scaling={"min": 2, "max": MAX}
    )
    cluster.start_standby()
    urls = [f"http://{gateway.address}/function/burst" for gateway in gateways]
    pids: dict[str, set[int]] = {}

    def watch() -> int:
        for name, pid in cluster.replicas("burst").items():
            pids.setdefault(name, set()).add(pid)
        return len(cluster.replicas("burst"))

    few = asyncio.gather(*[play(url, clients=1, for_s=12.0) for url in urls])
    cluster.scheduler.kill()
    killed_at = time.monotonic()
    many = asyncio.gather(*[play(url, clients=15, for_s=12.0) for url in urls])
    await until(lambda: watch() > 2, within_s=30.0, what="the standby to start a third replica")
    took_s = time.monotonic() - killed_at
    await until(lambda: watch() == MAX, within_s=30.0, what="all six replicas")
    seen = [*await few, *await many]
    watch()

    assert [one.wrong for one in seen] == [[]] * 4
    # The lease is renewed every third of its time: it has at least two thirds left when its owner dies.
    assert LEASE_S * 2 / 3 - 0.5 < took_s < LEASE_S + 10.0
    # None was started twice, and none beside the six: the names are the same whoever leads.
    assert sorted(pids) == [f"burst-g1-{ordinal}" for ordinal in range(MAX)]
    assert all(len(one) == 1 for one in pids.values()), pids
    total = sum(one.statuses[200] for one in seen)
    for gateway in gateways:
        await until(
            lambda gateway=gateway: gateway.view("burst")["invocationCount"] == total, what=f"a count of {total}"
        )
