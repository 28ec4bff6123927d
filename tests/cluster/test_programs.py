"""What the processes of a cluster are told: one backend, one name, the token to the gateway alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcf.cluster.listener import check_exposure
from dcf.cluster.programs import Choices, Plan, make_plan, name_of
from dcf.cluster.settings import ClusterSettings
from dcf.cluster.state import ClusterFacts, hold_state
from dcf.env import read_settings
from dcf.errors import ConfigError
from dcf.gateway.settings import GatewaySettings
from dcf.scheduler.settings import SchedulerSettings

STATE = "/home/me/.dcf/state"


def plan(*, token: str = "", backend: str = "docker", cluster: str = "dcf-a1b2c3") -> Plan:
    choices = Choices(
        state=Path(STATE),
        bundles=Path("/home/me/.dcf/bundles"),
        store_url="unix:///redis.sock",
        listen="127.0.0.1:1",
        listen_fd=3,
        processes=2,
        token=token,
        token_file=Path("/home/me/.dcf/token"),
        insecure=False,
        log_level="info",
        backend=backend,
        cluster=cluster,
    )
    return make_plan(
        choices, {"PATH": "/bin", "DOCKER_HOST": "unix:///other.sock", "DCF_TOKEN": "of the shell"}, redis=None
    )


def test_backend_and_name_are_the_same_for_all() -> None:
    made = plan()
    schedulers = [read_settings(SchedulerSettings, one.environ) for one in (made.scheduler, made.stop_replicas)]
    gateways = [read_settings(GatewaySettings, one.environ) for one in made.gateways]

    assert {(one.backend, one.cluster) for one in [*schedulers, *gateways]} == {("docker", "dcf-a1b2c3")}
    assert made.scheduler.environ["DOCKER_HOST"] == "unix:///other.sock"


def test_the_token_is_the_gateways_alone() -> None:
    made = plan(token="open-sesame")

    assert {one.environ.get("DCF_TOKEN") for one in made.gateways} == {"open-sesame"}
    assert "DCF_TOKEN_FILE" not in made.gateways[0].environ
    assert "DCF_TOKEN" not in made.scheduler.environ
    assert plan().gateways[0].environ["DCF_TOKEN_FILE"] == "/home/me/.dcf/token"
    assert "DCF_TOKEN" not in plan().gateways[0].environ
    check_exposure("0.0.0.0:1", token="open-sesame", token_file=None, insecure=False)


def test_two_folders_are_two_clusters_on_an_engine() -> None:
    names = {name_of(STATE), name_of("/home/you/.dcf/state")}

    assert len(names) == 2
    for name in names:
        assert SchedulerSettings(store_url="x", scheduler_id="x", backend="docker", cluster=name).cluster == name
    assert ClusterSettings(state=STATE, bundles="b").cluster_name == name_of(STATE)
    assert ClusterSettings(state=STATE, bundles="b", cluster="mine").cluster_name == "mine"
    with pytest.raises(ConfigError, match="process or docker"):
        ClusterSettings(state=STATE, bundles="b", backend="swarm")


def test_a_killed_cluster_of_another_backend_is_told_from_our_own(tmp_path: Path) -> None:
    facts = ClusterFacts(
        pid=1, started="", started_at=0.0, address="", version="", backend="docker", gateway_processes=1,
        store_url="", bundles="", cluster="dcf-a1b2c3",
    )  # fmt: skip
    with hold_state(tmp_path / "state") as folder:
        assert not folder.was_other("process", "x")
        folder.announce(facts)
    with hold_state(tmp_path / "state") as folder:
        assert folder.was_other("process", "dcf-a1b2c3")
        assert folder.was_other("docker", "dcf-other")
        assert not folder.was_other("docker", "dcf-a1b2c3")
