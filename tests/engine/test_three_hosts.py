"""A cluster of three hosts under load: what is done to it, and what its callers see of that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.engine.host_engine import Engine
from tests.engine.registry import Registry
from tests.engine.stack import Callers, StackCluster, error_of, timed
from tests.engine.three_engines import GPU_NODE, NODES, ThreeEngines
from tests.flows.bursts import ELASTIC, HANDLER, check_that_all_served_and_sleep, play
from tests.flows.cluster import until
from tests.flows.runtimes import check_every_verb

pytestmark = pytest.mark.timeout(420)

WHERE = """
import time

def Handler(req):
    time.sleep(0.25)
    return req.info.replica
"""
TWO = WHERE.replace("return req.info.replica", "return 'two ' + req.info.replica")
RAISES = "class Handler:\n    def __init__(self):\n        raise ValueError('no weights here')\n"
CALLS = 3000
AT_ONCE = 32


@pytest.fixture(scope="module")
def cluster(
    three_engines: ThreeEngines, base_images: Engine, dcf_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StackCluster]:
    cluster = StackCluster(tmp_path_factory.mktemp("stack"), three_engines, base_images, dcf_image)
    cluster.start()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="module")
def where(cluster: StackCluster) -> str:
    """A function of four replicas that says which of them answers; its images are on all nodes."""
    done = cluster.deploy_image("where", WHERE, replicas=4, concurrency=16)
    assert done.returncode == 0, done.stderr + cluster.logs()
    return "where"


def test_calls_reach_replicas_on_all_nodes(cluster: StackCluster, where: str) -> None:
    nodes = {state["name"]: state["node"] for state in cluster.info(where)["replicaStates"]}
    assert set(nodes.values()) == {cluster.engines.hostname(n) for n in NODES}

    with Callers(cluster, where, at_once=8).calling() as callers:
        until(lambda: callers.number >= 80, what="80 answers")

    assert set(callers.statuses) == {200}
    assert {nodes[body.decode()] for body in callers.bodies} == set(nodes.values())
    assert f"{cluster.name}_where" in cluster.docker("service", "ls")


@pytest.mark.parametrize("runtime", ["go", "python"])
def test_every_verb(cluster: StackCluster, go_image: Engine, runtime: str) -> None:
    check_every_verb(cluster, runtime, carry=lambda image: cluster.engines.load_image(image))


def test_nothing_is_lost_but_what_was_in_flight_on_what_is_killed(cluster: StackCluster, where: str) -> None:
    cluster.run("function", "scale", where, "2")
    until(lambda: len(cluster.running(where)) == 2 and cluster.info(where)["settled"], limit_s=60, what="2 replicas")
    cluster.build_image(where, TWO, replicas=2, concurrency=16)
    killed_at = 0.0

    with Callers(cluster, where, at_once=AT_ONCE).calling() as callers:
        two = cluster.running(where)
        cluster.run("function", "scale", where, "4")
        until(lambda: len(cluster.running(where)) == 4, limit_s=60, what="4 replicas")
        four = cluster.running(where)
        cluster.run("function", "scale", where, "2")
        until(lambda: cluster.info(where)["settled"] and len(cluster.running(where)) == 2, limit_s=60, what="2 again")
        left = cluster.running(where)

        done = cluster.run("function", "deploy", "-f", f"{where}/config.yaml", "--timeout", "120s", timeout_s=150)
        assert "is Ready, 2/2" in done.stdout

        kill_one_replica(cluster, where)
        killed_at = time.monotonic()
        until(lambda: cluster.function(where)["availableReplicas"] == 2, limit_s=60, what="2 replicas after the kill")

        cluster.docker("service", "update", "--force", "--detach=false", f"{cluster.name}_{where}")

        kill_active_scheduler(cluster)
        restart_redis(cluster)
        cluster.run("function", "scale", where, "3")
        until(lambda: cluster.function(where)["availableReplicas"] == 3, limit_s=90, what="3 replicas, by the standby")
        until(lambda: callers.number >= CALLS, limit_s=120, what=f"{CALLS} calls")

    assert two.items() <= four.items()
    assert left.items() <= four.items()
    lost = [one for one in callers.failures if not (one[1] == 502 and abs(one[0] - killed_at) < 5.0)]
    assert lost == [], f"{callers.statuses}\n{lost[:5]}\n{cluster.logs()}"
    assert any(body.startswith(b"two ") for body in callers.bodies)
    until(
        lambda: cluster.function(where)["invocationCount"] >= callers.statuses[200],
        limit_s=20,
        what="every call counted",
    )


def test_a_node_that_is_lost_costs_only_the_calls_that_were_on_it(
    cluster: StackCluster, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.run("function", "scale", where, "4")
    until(lambda: cluster.function(where)["availableReplicas"] == 4, limit_s=60, what="4 replicas")
    node = next(n for n in (2, 3) if cluster.engines.hostname(n) in cluster.running(where).values())
    hostname = cluster.engines.hostname(node)

    try:
        with Callers(cluster, where, at_once=AT_ONCE).calling() as callers:
            until(lambda: callers.number > 100, what="calls under way")
            lost_at = time.monotonic()
            cluster.engines.cut(node)
            cluster.engines.kill(node)
            full_s = timed(
                lambda: full_strength_elsewhere(cluster, where, hostname), limit_s=90, what="full strength elsewhere"
            )
    finally:
        cluster.engines.restore(node)

    lost = [one for one in callers.failures if one[1] != 502]
    assert lost == [], f"{callers.statuses}\n{lost[:5]}\n{cluster.logs()}"
    # A call that begins later goes elsewhere; those that were there are given up when the replica has been silent.
    failover_s = max((at - lost_at for at in callers.failed_from), default=0.0)
    answered_s = max((at - lost_at for at, _, _ in callers.failures), default=0.0)
    with capsys.disabled():
        print(
            f"\na node was lost: {len(callers.failures)} of {callers.number} calls with it; {failover_s:.1f} s to fail "
            f"over, {answered_s:.1f} s until those that were there had their 502, {full_s:.1f} s to full strength"
        )
    assert failover_s < 5
    assert answered_s < 15
    assert full_s < 60
    nodes = {one["name"]: one for one in cluster_nodes(cluster)}
    assert set(nodes) == {cluster.engines.hostname(n) for n in NODES}


def test_two_gpu_replicas_have_two_gpus_and_the_third_waits(
    cluster: StackCluster, gpu_image: str, base_images: Engine
) -> None:
    cluster.engines.load_image(gpu_image, nodes=(GPU_NODE,))
    folder = cluster.make("seer", WHERE, skip_build=True, image=gpu_image, replicas=3)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace('gpu: ""', 'gpu: "1"'))

    cluster.run("function", "deploy", "-f", "seer/config.yaml", "--no-wait")
    until(lambda: cluster.function("seer").get("availableReplicas") == 2, limit_s=60, what="2 replicas")
    until(lambda: "no GPU free" in cluster.run("function", "describe", "seer").stdout, limit_s=30, what="the reason")
    held = {state["name"]: state["gpus"] for state in cluster.info("seer")["replicaStates"] if state["gpus"]}
    assert sorted(gpu for gpus in held.values() for gpu in gpus) == ["GPU-aaaa", "GPU-bbbb"]
    with Callers(cluster, "seer", at_once=8).calling() as callers:
        until(lambda: callers.number >= 200, what="answers of both")
    assert set(callers.bodies) == {b"GPU-aaaa", b"GPU-bbbb"}

    # They answer before Swarm's health check has seen them.
    until(lambda: len(cluster.running("seer")) == 2, limit_s=30, what="two tasks run")
    first = next(iter(cluster.running("seer")))
    container = cluster.docker("inspect", "--format", "{{.Status.ContainerStatus.ContainerID}}", first)
    cluster.engines.client(GPU_NODE).containers.get(container).kill()
    until(lambda: first not in cluster.running("seer"), limit_s=30, what="one is gone")
    until(lambda: len(cluster.running("seer")) == 2, limit_s=60, what="another has its GPU")
    cluster.run("function", "delete", "seer")


async def test_a_burst_from_zero_uses_all_replicas_on_all_nodes_and_leaves_none(cluster: StackCluster) -> None:
    deployed = cluster.deploy_image("burst", HANDLER, concurrency=1, scaling=ELASTIC)
    assert deployed.returncode == 0, deployed.stderr + cluster.logs()
    assert own_containers(cluster, "burst") == []

    seen = await play(f"{cluster.url}/function/burst", clients=40, for_s=20.0)
    nodes = {state["node"] for state in cluster.info("burst")["replicaStates"]}

    check_that_all_served_and_sleep(cluster, "burst", seen)
    assert nodes == {cluster.engines.hostname(n) for n in NODES}
    until(lambda: cluster.running("burst") == {}, limit_s=60, what="no task runs")
    until(lambda: not own_containers(cluster, "burst"), limit_s=60, what="no container on any node")
    cluster.run("function", "delete", "burst")


def test_a_version_that_cannot_start_is_rolled_back_with_the_reason(cluster: StackCluster, where: str) -> None:
    until(lambda: cluster.info(where)["settled"], limit_s=60, what="settled")

    failed = cluster.deploy_image(where, RAISES, replicas=4)

    assert failed.returncode == 1
    assert "no weights here" in failed.stderr, f"{failed.stderr}\n{cluster.tasks(where)}\n{cluster.logs()}"
    assert "the version before it still answers" in failed.stderr
    assert cluster.call(where)[0] == 200
    assert "no weights here" in cluster.info(where)["reason"]


def test_an_image_that_no_node_can_fetch_is_said_and_held_calls_get_it(
    cluster: StackCluster, locked_registry: Registry
) -> None:
    image = f"{locked_registry.address}/secret:1"
    cluster.make("secret", WHERE, skip_build=True, image=image)

    failed = cluster.run(
        "function", "deploy", "-f", "secret/config.yaml", "--timeout", "60s", check=False, timeout_s=90
    )
    status, body = cluster.call("secret")

    assert failed.returncode == 1
    assert image in failed.stderr
    assert status == 503
    assert image in error_of(body)
    cluster.run("function", "delete", "secret")


def kill_one_replica(cluster: StackCluster, function: str) -> None:
    """SIGKILL to a container, as the kernel does it."""
    task, hostname = next(iter(cluster.running(function).items()))
    node = next(n for n in NODES if cluster.engines.hostname(n) == hostname)
    container = cluster.docker("inspect", "--format", "{{.Status.ContainerStatus.ContainerID}}", task)
    cluster.engines.client(node).containers.get(container).kill("SIGKILL")


def kill_active_scheduler(cluster: StackCluster) -> None:
    """The one that holds the lease, found by what it says."""
    label = f"com.docker.swarm.service.name={cluster.name}_scheduler"
    schedulers = cluster.engines.client(1).containers.list(filters={"label": label})
    assert len(schedulers) == 2, "an active one and a standby"
    leader = next(one for one in schedulers if b"lease was taken" in one.logs())
    leader.kill("SIGKILL")


def restart_redis(cluster: StackCluster) -> None:
    label = f"com.docker.swarm.service.name={cluster.name}_redis"
    [redis] = cluster.engines.client(1).containers.list(filters={"label": label})
    redis.kill("SIGKILL")
    until(
        lambda: any(one.id != redis.id for one in cluster.engines.client(1).containers.list(filters={"label": label})),
        limit_s=30,
        what="another Redis",
    )


def full_strength_elsewhere(cluster: StackCluster, function: str, lost: str) -> bool:
    states = cluster.info(function)["replicaStates"]
    return sum(one["state"] in ("ready", "busy") and one["node"] != lost for one in states) == 4


def cluster_nodes(cluster: StackCluster) -> list[dict[str, str]]:
    status, body = cluster.get("/system/nodes")
    assert status == 200
    return list(json.loads(body))


def own_containers(cluster: StackCluster, function: str) -> list[str]:
    """Ids of those that run, on all nodes."""
    label = f"com.docker.swarm.service.name={cluster.name}_{function}"
    return [one.id for n in NODES for one in cluster.engines.client(n).containers.list(filters={"label": label})]
