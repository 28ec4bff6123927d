"""A cluster whose functions are containers of one engine: the main job, updates, GPUs, what goes wrong."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.containers import remove_containers
from tests.engine.host_engine import Engine
from tests.flows.bursts import ELASTIC, HANDLER, check_that_all_served_and_sleep, play
from tests.flows.cluster import Cluster, until
from tests.flows.runtimes import check_every_verb

ECHO = "def Handler(req):\n    return b'one ' + req.input\n"
TWO = "def Handler(req):\n    return b'two ' + req.input\n"
HELD = 50
RAISES = "class Handler:\n    def __init__(self):\n        raise ValueError('no weights here')\n"


class DockerCluster(Cluster):
    """`dcf up --backend docker`, under a name of its own."""

    def __init__(self, root: Path, engine: Engine, *, name: str = "dcf-flow", gpus: str = "") -> None:
        super().__init__(root)
        self.engine = engine
        self.name = name
        self.environ |= {"DCF_CLUSTER": name}
        if gpus:
            self.environ["DCF_GPUS"] = gpus

    def __enter__(self) -> DockerCluster:
        remove_containers(self.engine.client, self.name)
        self.up("--backend", "docker")
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.down()
            assert self.containers() == {}
        finally:
            remove_containers(self.engine.client, self.name)

    def containers(self) -> dict[str, str]:
        """Replica -> container id, of all that are there."""
        found = self.engine.client.api.containers(all=True, filters={"label": f"dcf.cluster={self.name}"})
        return {one["Labels"]["dcf.replica"]: one["Id"] for one in found}

    def call(self, name: str, data: bytes = b"x") -> tuple[int, bytes]:
        request = urllib.request.Request(f"{self.url}/function/{name}", data=data)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def deploy_image(self, name: str, handler: str, **config: object) -> subprocess.CompletedProcess[str]:
        self.make(name, handler, **config)
        self.run("function", "build", "-f", f"{name}/config.yaml", timeout_s=300)
        return self.run("function", "deploy", "-f", f"{name}/config.yaml", "--timeout", "60s", check=False)

    def info(self, name: str) -> dict[str, Any]:
        return dict(self.json("function", "describe", name))


@pytest.fixture(scope="module")
def cluster(base_images: Engine, echo_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerCluster]:
    with DockerCluster(tmp_path_factory.mktemp("docker"), base_images) as cluster:
        yield cluster


@pytest.fixture
def function(cluster: DockerCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name of the test's own; what it deploys under it is gone afterwards."""
    name = request.node.name.removeprefix("test_")[:20].strip("_").replace("_", "-")
    yield name
    cluster.run("function", "delete", name, check=False)
    until(lambda: not own_containers(cluster, name), what="containers gone")


def test_the_main_job(cluster: DockerCluster, function: str) -> None:
    cluster.make(function, ECHO)
    built = cluster.run("function", "build", "-f", f"{function}/config.yaml", timeout_s=300).stdout
    assert f"{function}: built in" in built
    assert "MB on python:" in built

    tried = cluster.run("function", "run", function, stdin="here")
    deployed = cluster.run("function", "deploy", "-f", f"{function}/config.yaml").stdout

    assert tried.stdout == "one here"
    assert f"{function} is Ready, 1/1 replicas" in deployed
    assert cluster.call(function, b"there") == (200, b"one there")
    assert cluster.run("function", "invoke", function, stdin="again").stdout == "one again"
    [state] = cluster.info(function)["replicaStates"]
    assert state["state"] in ("ready", "busy")
    nodes = cluster.json("status")["nodes"]
    assert [node["replicas"] for node in nodes] == [1]
    assert "unchanged" in cluster.run("function", "build", "-f", f"{function}/config.yaml").stdout


@pytest.mark.parametrize("runtime", ["go", "python"])
def test_every_verb(cluster: DockerCluster, go_image: Engine, runtime: str) -> None:
    check_every_verb(cluster, runtime)


def test_scaling_and_updates_lose_no_call_and_restart_nobody_who_stays(cluster: DockerCluster, function: str) -> None:
    assert cluster.deploy_image(function, ECHO, replicas=2).returncode == 0
    before = {name: one for name, one in cluster.containers().items() if name.startswith(function)}
    answers: list[tuple[int, bytes]] = []
    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            answers.append(cluster.call(function))

    callers = [threading.Thread(target=keep_calling) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        cluster.run("function", "scale", function, "4")
        until(lambda: cluster.function(function)["availableReplicas"] == 4, limit_s=30, what="4 replicas")
        scaled = cluster.containers()
        cluster.run("function", "scale", function, "--auto")
        until(lambda: cluster.info(function)["settled"], limit_s=30, what="2 replicas again")
        assert cluster.deploy_image(function, TWO, replicas=2).returncode == 0
        until(lambda: answers[-1][1] == b"two x", what="the new version")
    finally:
        done.set()
        for caller in callers:
            caller.join()

    assert {status for status, _ in answers} == {200}
    assert {body for _, body in answers} == {b"one x", b"two x"}
    assert all(scaled[name] == one for name, one in before.items())


def test_a_version_that_cannot_start_leaves_the_old_one_serving(cluster: DockerCluster, function: str) -> None:
    assert cluster.deploy_image(function, ECHO).returncode == 0

    failed = cluster.deploy_image(function, RAISES)

    assert failed.returncode == 1
    assert "ValueError: no weights here" in failed.stderr
    assert "the version before it still answers" in failed.stderr
    assert cluster.call(function) == (200, b"one x")
    assert "no weights here" in cluster.info(function)["reason"]


def test_held_calls_get_the_cause_where_no_version_starts(cluster: DockerCluster, function: str) -> None:
    cluster.make(function, RAISES)
    cluster.run("function", "build", "-f", f"{function}/config.yaml", timeout_s=300)
    cluster.run("function", "deploy", "-f", f"{function}/config.yaml", "--no-wait")

    status, body = cluster.call(function)

    assert status == 503
    assert "no weights here" in json.loads(body)["error"]["message"]


def test_an_image_that_does_not_exist_is_said(cluster: DockerCluster, function: str) -> None:
    cluster.make(function, ECHO, skip_build=True, image="127.0.0.1:9/nobody/nothing:1")

    failed = cluster.run("function", "deploy", "-f", f"{function}/config.yaml", "--timeout", "30s", check=False)
    status, body = cluster.call(function)

    assert failed.returncode == 1
    assert "127.0.0.1:9/nobody/nothing:1 could not be fetched" in failed.stderr
    assert status == 503
    assert "could not be fetched" in json.loads(body)["error"]["message"]


def test_a_replica_that_is_killed_is_replaced(cluster: DockerCluster, function: str) -> None:
    assert cluster.deploy_image(function, ECHO).returncode == 0
    [(name, container)] = [one for one in cluster.containers().items() if one[0].startswith(function)]

    cluster.engine.client.api.kill(container, "SIGKILL")

    until(lambda: cluster.containers().get(name) not in (None, container), what="another container")
    assert cluster.call(function) == (200, b"one x")


def test_a_scheduler_that_is_killed_is_followed_by_one_that_adopts(cluster: DockerCluster, function: str) -> None:
    assert cluster.deploy_image(function, ECHO, replicas=2).returncode == 0
    before = cluster.containers()
    pid = cluster.processes()["scheduler"]

    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    until(lambda: cluster.processes().get("scheduler") not in (None, pid), what="another scheduler")
    cluster.run("function", "scale", function, "3")
    until(lambda: cluster.function(function)["availableReplicas"] == 3, limit_s=30, what="3 replicas")

    assert before.items() <= cluster.containers().items()


def test_functions_and_counts_outlive_the_cluster(cluster: DockerCluster, function: str) -> None:
    assert cluster.deploy_image(function, ECHO).returncode == 0
    assert cluster.call(function)[0] == 200
    until(lambda: cluster.function(function)["invocationCount"] == 1, what="the count")

    cluster.down()
    assert cluster.containers() == {}
    cluster.up("--backend", "docker")

    until(lambda: cluster.function(function).get("status") == "Ready", what="ready again")
    assert cluster.call(function) == (200, b"one x")
    until(lambda: cluster.function(function)["invocationCount"] == 2, what="the count goes on")


def test_a_third_gpu_replica_waits_and_says_for_what(
    base_images: Engine, gpus: tuple[str, ...], gpu_image: str, cluster: DockerCluster, function: str
) -> None:
    folder = cluster.make(function, ECHO, skip_build=True, image=gpu_image, replicas=3)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace('gpu: ""', 'gpu: "1"'))

    cluster.run("function", "deploy", "-f", f"{function}/config.yaml", "--no-wait")
    until(lambda: cluster.function(function)["availableReplicas"] == 2, limit_s=30, what="2 replicas")
    until(lambda: "no GPU free" in cluster.run("function", "describe", function).stdout, what="the reason")
    text = cluster.run("function", "describe", function).stdout

    assert {cluster.call(function)[1] for _ in range(8)} <= {b"GPU-aaaa", b"GPU-bbbb"}
    assert "GPU-aaaa" in text
    assert "GPU-bbbb" in text
    [node] = cluster.json("status")["nodes"]
    assert sorted(node["gpusUsed"]) == ["GPU-aaaa", "GPU-bbbb"]
    cluster.run("function", "scale", function, "2")
    until(lambda: cluster.info(function)["settled"], what="settled with 2")


async def test_a_burst_from_zero_uses_all_replicas_and_leaves_none(cluster: DockerCluster, function: str) -> None:
    deployed = cluster.deploy_image(function, HANDLER, concurrency=1, scaling=ELASTIC)
    assert deployed.returncode == 0, deployed.stderr
    assert not own_containers(cluster, function)

    seen = await play(f"{cluster.url}/function/{function}", clients=40, for_s=20.0)

    check_that_all_served_and_sleep(cluster, function, seen)
    until(lambda: not own_containers(cluster, function), limit_s=60, what="no container")


def test_calls_held_for_an_image_that_is_gone_get_the_cause_until_it_is_back(
    cluster: DockerCluster, function: str
) -> None:
    cluster.make(function, ECHO, scaling=ELASTIC)
    [built] = json.loads(
        cluster.run("function", "build", "-f", f"{function}/config.yaml", "--output", "json", timeout_s=300).stdout
    )
    image, images = str(built["image"]), cluster.engine.client.images
    kept = images.get(image)
    kept.tag("dcf-test", "kept")
    cluster.run("function", "deploy", "-f", f"{function}/config.yaml")
    images.remove(image)
    began = time.monotonic()

    with ThreadPoolExecutor(HELD) as callers:
        answers = list(callers.map(lambda _: cluster.call(function), range(HELD)))

    assert {status for status, _ in answers} == {503}
    assert all(image in json.loads(body)["error"]["message"] for _, body in answers), answers[0]
    assert time.monotonic() - began < 30.0
    assert not own_containers(cluster, function)
    kept.tag(*image.rsplit(":", 1))
    images.remove("dcf-test:kept")
    until(lambda: cluster.function(function)["replicas"] == 0, limit_s=30, what="asleep again")
    assert cluster.call(function) == (200, b"one x")


def own_containers(cluster: DockerCluster, function: str) -> list[str]:
    return [one for one in cluster.containers() if one.startswith(f"{function}-g")]
