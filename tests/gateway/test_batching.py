"""Batches as a caller and an operator see them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.conftest import until
from tests.gateway.running_gateway import Cluster, Gateway, wait_for

pytestmark = pytest.mark.slow

HANDLER = """
import time

def handler(reqs):
    time.sleep(0.01)
    return [ValueError("no " + req.text) if req.text.endswith("3") else req.text + " of %d" % len(reqs) for req in reqs]
"""


@pytest.fixture(scope="module")
def batched(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "batching-0")
    gateway.deploy("batched", HANDLER, batch={"maxSize": 8, "maxWait": "2ms"}, replicas=2, workers=2)
    return gateway


async def test_calls_of_many_clients_share_runs_of_the_handler(batched: Gateway) -> None:
    sizes: list[int] = []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(10):
            text = f"{number}-{turn}"
            async with session.post(f"http://{batched.address}/function/batched", data=text) as answer:
                body = await answer.text()
                if text.endswith("3"):
                    assert answer.status == 500
                    assert f"no {text}" in body
                else:
                    assert (answer.status, body.partition(" of ")[0]) == (200, text)
                    sizes.append(int(body.rpartition(" ")[2]))

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(client(session, number))

    assert max(sizes) == 8
    view = await until_counted(batched, 400)
    assert view["spec"]["batch"] == {"maxSize": 8, "maxWait": "2ms"}
    calls = view["calls"]
    # A batch is seen with its first result; one of errors alone is not.
    assert 360 / 8 <= calls["batches"] < 400
    assert 1 < calls["batchSizeMean"] <= 8
    assert calls["queueWaitMeanS"] > 0
    assert calls["queueWaitP99S"] >= calls["queueWaitMeanS"]
    samples = {(sample.name, sample.labels.get("le")): sample.value for sample in batched.samples()}
    assert samples["dcf_batch_size_count", None] == calls["batches"]
    assert samples["dcf_batch_size_bucket", "8"] == calls["batches"]
    assert samples["dcf_queue_wait_seconds_count", None] == 400


async def until_counted(gateway: Gateway, number: int) -> dict[str, object]:
    await until(lambda: gateway.view("batched")["invocationCount"] == number, what=f"{number} invocations")
    return gateway.view("batched")


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"maxSize": 0}, "from 1 to 1024"),
        ({"maxWait": "1s"}, "maxSize is missing"),
        ({"maxSize": 2, "size": 3}, "unknown field 'size'"),
        ({"maxSize": 2, "maxWait": "soon"}, "a duration such as"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(batched: Gateway, batch: dict[str, object], words: str) -> None:
    image = batched.view("batched")["image"]
    status, answer, _ = batched.http(
        "POST", "/system/functions", {"service": "refused", "image": image, "batch": batch}
    )

    assert status == 400
    assert answer["error"]["message"].startswith("batch: ")
    assert words in answer["error"]["message"]


def test_a_handler_that_streams_cannot_be_batched(batched: Gateway) -> None:
    image = batched.cluster.bundle("streams", "def handler(reqs):\n    yield 1\n")
    request = {"service": "streams", "image": image, "batch": {"maxSize": 2}}
    assert batched.http("POST", "/system/functions", request)[0] == 202

    reason = wait_for(lambda: batched.view("streams")["failed"] and batched.view("streams")["reason"], "the failure")
    assert "a handler that streams cannot be batched" in str(reason)
