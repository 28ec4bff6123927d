"""`dcf up --backend swarm` on three engines: what it makes, what it says, and that `down` takes it away."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from tests.engine.base_image import REDIS
from tests.engine.three_engines import ThreeEngines
from tests.flows.cluster import until

NAME = "dcf-stack"
PORT = 32333


class Manager:
    """A person at node 1."""

    def __init__(self, engines: ThreeEngines, home: Path, image: str) -> None:
        self.engines = engines
        self.home = home
        self.variables = {
            "HOME": str(home),
            "DOCKER_HOST": engines.url(1),
            "DCF_CLUSTER": NAME,
            "DCF_IMAGE": image,
            "DCF_STATE": str(home / "state"),
            "DCF_CONFIG": str(home / "config.yaml"),
            "GATEWAY_PORT": str(PORT),
        }

    def dcf(self, *args: str) -> str:
        """In the network of node 1, where the gateway is at 127.0.0.1."""
        words = [f"{name}={value}" for name, value in self.variables.items()]
        return self.engines.run_in(1, "env", *words, sys.executable, "-m", "dcf", *args, within_s=300.0)

    def services(self) -> dict[str, str]:
        return dict(json.loads(self.dcf("status", "--output", "json"))["services"])


@pytest.fixture
def manager(three_engines: ThreeEngines, dcf_image: str, tmp_path: Path) -> Iterator[Manager]:
    three_engines.load_image(dcf_image, REDIS, nodes=(1,))
    manager = Manager(three_engines, tmp_path, dcf_image)
    try:
        yield manager
    finally:
        manager.dcf("down", "--backend", "swarm")
        client = three_engines.manager
        for secret in client.secrets.list(filters={"name": f"{NAME}_token"}):
            secret.remove()
        until(lambda: _without_volumes(client), limit_s=60, what="the volume is gone")


def _without_volumes(client: docker.DockerClient) -> bool:
    """Whether none of ours is left; what can be removed is. Its container may still be stopping."""
    left = client.volumes.list(filters={"name": NAME})
    for volume in left:
        with suppress(APIError):
            volume.remove(force=True)
    return not left


@pytest.mark.timeout(900)
def test_a_swarm_gets_a_cluster_with_one_command_and_loses_it_with_another(manager: Manager) -> None:
    checks = {one["name"]: one["state"] for one in json.loads(manager.dcf("doctor", "--output", "json"))}
    assert checks["swarm"] == checks["overlay network"] == checks["ports between nodes"] == "ok"

    said = manager.dcf("up", "--backend", "swarm")

    assert f"DCF is ready at http://127.0.0.1:{PORT}" in said
    token = manager.home / ".dcf" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    whole = {"gateway": "1/1", "redis": "1/1", "scheduler": "2/2"}
    until(lambda: manager.services() == whole, limit_s=60, what="all of the stack runs")
    redis = [node for node in manager.engines.manager.nodes.list() if node.attrs["Spec"]["Labels"].get("dcf.redis")]
    assert [node.id for node in redis] == [manager.engines.node_id(1)]

    # The token is asked for, from wherever the call comes.
    with pytest.raises(RuntimeError, match="token"):
        manager.dcf("function", "delete", "none", "--gateway", f"127.0.0.1:{PORT}")
    manager.variables["DCF_TOKEN_FILE"] = str(token)
    with pytest.raises(RuntimeError, match="no function 'none'"):
        manager.dcf("function", "delete", "none", "--gateway", f"127.0.0.1:{PORT}")
    assert "HTTP and gRPC" in manager.dcf("status")

    # A second `up` changes nothing; `down` leaves what must be kept.
    manager.dcf("up", "--backend", "swarm")
    assert "is removed" in manager.dcf("down")
    client = manager.engines.manager
    assert client.services.list(filters={"name": NAME}) == []
    assert client.networks.list(names=[NAME]) == []
    assert [secret.name for secret in client.secrets.list(filters={"name": NAME})] == [f"{NAME}_token"]
    assert [volume.name for volume in client.volumes.list(filters={"name": NAME})] == [f"{NAME}_redis"]
    assert "no stack" in manager.dcf("down", "--backend", "swarm")
