"""From zero, through a burst, and back: real processes, real calls."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flows.bursts import HANDLER, play
from tests.flows.cluster import Cluster, until

HELD = 1000
ELASTIC = {"min": 0, "max": 8, "idle": "5s"}


def describe(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict(cluster.json("function", "describe", name))


def measured(cluster: Cluster) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """/metrics as Prometheus reads it: (sample, labels) -> value."""
    with urllib.request.urlopen(f"{cluster.url}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def resident_bytes(pid: int) -> int:
    [line] = [text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_burst_from_zero_uses_all_replicas_loses_nothing_and_leaves_none(cluster: Cluster) -> None:
    cluster.up("--processes", "2")
    cluster.deploy("burst", HANDLER, concurrency=1, scaling=ELASTIC | {"initial": 0})
    assert cluster.replicas("burst") == {}

    seen = await play(f"{cluster.url}/function/burst", clients=40, for_s=20.0)

    assert seen.wrong == []
    assert set(seen.statuses) == {200}
    assert len(seen.replicas) == 8
    until(lambda: cluster.function("burst")["replicas"] == 0, limit_s=60, what="zero replicas wanted")
    until(lambda: not cluster.replicas("burst"), limit_s=60, what="no replica process")
    total = seen.statuses[200]
    until(lambda: cluster.function("burst")["invocationCount"] == total, what=f"a count of {total}")
    facts = describe(cluster, "burst")
    assert facts["status"] == "Ready"
    assert facts["reason"] == "asleep: the next call starts a replica"
    reasons = [one["reason"] for one in facts["decisions"]]
    assert any(reason.startswith("from zero to ") for reason in reasons), reasons
    assert any("max is 8" in reason for reason in reasons), reasons
    assert reasons[-1] == "down from 8 to 0: no call for 5s (idle, min: 0)"
    assert 0.0 < facts["coldStart"]["watcherS"] <= facts["coldStart"]["loadedS"]
    metrics = measured(cluster)
    assert metrics["gateway_function_invocation_total", (("code", "200"), ("function_name", "burst"))] == total
    assert metrics["gateway_functions_seconds_count", (("function_name", "burst"),)] == total
    assert metrics["dcf_desired_replicas", (("function_name", "burst"),)] == 0
    assert metrics["dcf_cold_start_seconds_count", (("function_name", "burst"),)] >= 1


async def hold(cluster: Cluster, name: str, *, timeouts_s: list[float]) -> list[tuple[float, int, str]]:
    """A call for each timeout, all at once: seconds that it took, its status, its body."""

    async def call(session: aiohttp.ClientSession, timeout_s: float) -> tuple[float, int, str]:
        began = time.monotonic()
        headers = {"X-Timeout": f"{timeout_s:g}s"}
        async with session.post(f"{cluster.url}/function/{name}", data=b"x", headers=headers) as response:
            return (time.monotonic() - began, response.status, await response.text())[:3]

    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        return list(await asyncio.gather(*[call(session, timeout_s) for timeout_s in timeouts_s]))


@pytest.mark.slow
async def test_calls_held_for_an_image_that_is_missing_are_told_so_at_once(cluster: Cluster) -> None:
    cluster.up()
    cluster.make("gone", "def Handler(req):\n    return 'here'\n", scaling=ELASTIC | {"initial": 0})
    cluster.run("function", "build", "-f", "gone/config.yaml")
    cluster.run("function", "deploy", "-f", "gone/config.yaml")
    bundles, away = cluster.root / "bundles" / "gone", cluster.root / "away"
    shutil.move(bundles, away)
    gateway = cluster.processes()["gateway-0"]
    before = resident_bytes(gateway)

    answers = await hold(cluster, "gone", timeouts_s=[60.0] * HELD)

    assert {status for _, status, _ in answers} == {503}
    assert all("bundle:gone@" in body and "dcf function build" in body for _, _, body in answers), answers[0]
    assert max(seconds for seconds, _, _ in answers) < 15.0
    assert resident_bytes(gateway) - before < 64 * 1024**2
    shutil.move(away, bundles)
    until(lambda: cluster.function("gone")["replicas"] == 0, what="asleep again: nothing is there to keep warm")
    assert (await hold(cluster, "gone", timeouts_s=[30.0]))[0][1:] == (200, "here")


@pytest.mark.slow
async def test_calls_whose_time_is_over_before_a_replica_is_there_end_then(cluster: Cluster) -> None:
    cluster.up()
    cluster.deploy(
        "slow",
        "import time\n\nclass Handler:\n    def __init__(self):\n        time.sleep(20)\n"
        "    def __call__(self, req):\n        return 'late'\n",
        scaling=ELASTIC | {"initial": 0, "max": 1},
    )

    answers = await hold(cluster, "slow", timeouts_s=[1.0 + 3.0 * number / HELD for number in range(HELD)])

    for number, (seconds, status, body) in enumerate(answers):
        limit_s = 1.0 + 3.0 * number / HELD
        assert status == 503, body
        assert "had no replica ready within" in body
        assert limit_s - 0.1 < seconds < limit_s + 3.0
    until(lambda: cluster.function("slow")["load"]["queued"] == 0, what="nobody waits any more")


@pytest.mark.slow
def test_the_range_is_changed_live_and_a_pin_holds_until_it_is_released(cluster: Cluster) -> None:
    cluster.up()
    cluster.deploy("echo", "def Handler(req):\n    return req.text\n", scaling={"min": 1, "max": 4})

    said = cluster.run("function", "scale", "echo", "--min", "3").stdout
    until(lambda: cluster.function("echo")["availableReplicas"] == 3, what="three replicas, the new min")
    assert "3 to 4 replicas" in said
    cluster.run("function", "scale", "echo", "1")
    until(lambda: cluster.function("echo")["availableReplicas"] == 1, what="the pinned one")
    assert "pinned by hand now" in cluster.run("function", "describe", "echo").stdout
    cluster.run("function", "scale", "echo", "--auto")
    until(lambda: cluster.function("echo")["availableReplicas"] == 3, what="three replicas again")

    wrong = cluster.run("function", "scale", "echo", "--min", "9", check=False)
    assert wrong.returncode == 1
    assert "scaling.max: 4 is not allowed: expected at least min, which is 9" in wrong.stderr
    request = urllib.request.Request(
        f"{cluster.url}/system/scale-function",
        data=json.dumps({"serviceName": "echo", "min": "few"}).encode(),
        method="PUT",
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
