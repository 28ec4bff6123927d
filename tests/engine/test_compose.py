"""`docker compose up` and then what a user does; killed, restarted, taken down, put up again."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.containers import remove_containers
from tests.engine.dcf_image import compose
from tests.engine.host_engine import Engine
from tests.flows.cluster import Cluster, until

ECHO = "def Handler(req):\n    return b'composed ' + req.input\n"
NAME = "dcf-test-compose"
READY_S = 60.0

# Asks what a function may ask of the gateway: to be answered, and to manage; and whether Redis is within reach.
NEIGHBOUR = """
import json, socket, sys, urllib.error, urllib.request
def ask(method, path, body=None):
    request = urllib.request.Request("http://gateway:32222" + path, method=method, data=body)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
def connects(host, port):
    try:
        socket.create_connection((host, port), 3).close()
        return True
    except OSError:
        return False
print(json.dumps({
    "call": ask("POST", "/function/echo", b"x"),
    "list": ask("GET", "/system/functions"),
    "delete": ask("DELETE", "/system/function/echo"),
    "redis": connects("redis", 6379) or connects(sys.argv[1], 6379),
}))
"""


class ComposedCluster(Cluster):
    """compose/local.yaml under a name of its own; the commands of a user on the host."""

    def __init__(self, root: Path, engine: Engine, image: str) -> None:
        super().__init__(root)
        self.engine = engine
        self.variables = {
            "DCF_IMAGE": image,
            "DCF_CLUSTER": NAME,
            "COMPOSE_PROJECT_NAME": NAME,
            "GATEWAY_PORT": self.address.rpartition(":")[2],
        }
        self.environ["DCF_GATEWAY"] = self.address

    def compose(self, *args: str) -> str:
        return compose(*args, environ=self.variables).stdout

    def start(self) -> None:
        self.compose("up", "-d")
        until(self.ready, limit_s=READY_S, what="the gateway is ready")

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def call(self, data: bytes) -> bytes:
        with urllib.request.urlopen(f"{self.url}/function/echo", data=data, timeout=60) as answer:
            return bytes(answer.read())

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).strip()

    def replicas(self, function: str = "echo") -> dict[str, int]:
        found = self.engine.client.api.containers(filters={"label": [f"dcf.cluster={NAME}", "dcf.replica"]})
        return {one["Id"]: 0 for one in found}

    def left(self) -> list[str]:
        """Containers, networks and volumes by our names."""
        api = self.engine.client.api
        containers = [name for one in api.containers(all=True) for name in one["Names"] if NAME in name]
        networks = [one["Name"] for one in api.networks() if NAME in one["Name"]]
        volumes = [one["Name"] for one in api.volumes()["Volumes"] or [] if NAME in one["Name"]]
        return containers + networks + volumes


@pytest.fixture
def cluster(base_images: Engine, dcf_image: str, tmp_path: Path) -> Iterator[ComposedCluster]:
    cluster = ComposedCluster(tmp_path, base_images, dcf_image)
    try:
        yield cluster
    finally:
        compose("down", "-v", environ=cluster.variables, check=False)
        remove_containers(base_images.client, NAME)


@pytest.mark.timeout(600)  # the first to want the image, which takes two minutes where nothing of it is cached
def test_the_main_job_survives_a_killed_scheduler_and_a_down(cluster: ComposedCluster) -> None:
    cluster.start()
    cluster.make("echo", ECHO)
    cluster.run("function", "build", "-f", "echo/config.yaml", "--backend", "docker", timeout_s=300)
    cluster.run("function", "deploy", "-f", "echo/config.yaml", "--timeout", "60s")
    assert cluster.call(b"once") == b"composed once"

    # Whoever is beside the gateway may call, and manage nothing.
    redis = cluster.engine.client.containers.get(cluster.container("redis"))
    [network] = redis.attrs["NetworkSettings"]["Networks"].values()
    command = ["python3", "-c", NEIGHBOUR, network["IPAddress"]]
    said = cluster.engine.client.containers.run("python:3.11-slim", command, network=NAME, remove=True)
    assert json.loads(said) == {"call": 200, "list": 200, "delete": 401, "redis": False}

    # A scheduler that dies and comes back finds what it left.
    before = cluster.replicas()
    cluster.engine.client.containers.get(cluster.container("scheduler")).kill("KILL")
    assert cluster.call(b"without") == b"composed without"
    cluster.start()
    cluster.run("function", "scale", "echo", "2")
    until(lambda: len(cluster.replicas()) == 2, limit_s=30, what="the new scheduler acts")
    assert before.keys() < cluster.replicas().keys()

    # Down leaves nothing but the volume; up again, everything is as it was.
    until(lambda: cluster.function("echo")["invocationCount"] == 3, what="counts are there")
    cluster.compose("down")
    assert cluster.left() == [f"{NAME}_redis"]
    cluster.start()
    assert cluster.function("echo")["invocationCount"] == 3
    assert cluster.call(b"again") == b"composed again"
    cluster.compose("down", "-v")
    assert cluster.left() == []


def test_published_for_others_without_a_token_it_refuses_to_start(cluster: ComposedCluster) -> None:
    variables = cluster.variables | {"GATEWAY_BIND": "0.0.0.0"}

    done = compose("run", "--rm", "--no-deps", "gateway", environ=variables, check=False)

    assert done.returncode == 1
    published = f"DCF_PUBLISHED=0.0.0.0:{variables['GATEWAY_PORT']}"
    assert f"{published} is reachable from other machines" in done.stdout + done.stderr
