"""The compose files name what is there, and show the gateway to this host alone unless there is a token."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dcf.cluster.doctor_swarm import REDIS_LABEL
from dcf.cluster.main import GATEWAYS_WAIT_S
from dcf.cluster.stack import compose_folder
from dcf.env import USER_NAMES, read_settings
from dcf.errors import ConfigError
from dcf.gateway.settings import GatewaySettings
from dcf.scheduler.main import STOP_REPLICAS_GRACE_S
from dcf.scheduler.settings import SchedulerSettings

COMPOSE = Path(__file__).parents[1] / "compose"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
CLUSTER_NAMES = {"DCF_CLUSTER", "DCF_GPUS"}
"""Settings of `dcf up` too, of the same meaning."""


def filled(value: Any, **environ: str) -> Any:
    """`value` as compose reads it; what `environ` does not say has its default."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: environ.get(match[1]) or match[2] or "", value)
    if isinstance(value, list):
        return [filled(item, **environ) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, **environ) for key, item in value.items()}
    return value


def read(name: str, **environ: str) -> dict[str, Any]:
    text = (COMPOSE / name).read_text()
    content: dict[str, Any] = filled(YAML(typ="safe", pure=True).load(text), **environ)
    return content


@pytest.fixture(scope="module")
def local() -> dict[str, Any]:
    return read("local.yaml")


@pytest.fixture(scope="module")
def swarm() -> dict[str, Any]:
    return read("swarm.yaml")


# who reaches the gateway


def test_nothing_is_published_but_on_loopback(local: dict[str, Any]) -> None:
    published = [port for service in local["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:32222:32222"]
    assert all(ipaddress.ip_address(port.split(":")[0]).is_loopback for port in published)
    assert not [name for name, service in local["services"].items() if "network_mode" in service]


@pytest.mark.parametrize("environ", [{}, {"GATEWAY_BIND": "0.0.0.0", "GATEWAY_PORT": "80", "DCF_TOKEN": "t"}])
def test_the_gateway_is_told_where_it_is_published(environ: dict[str, str]) -> None:
    gateway = read("local.yaml", **environ)["services"]["gateway"]

    assert gateway["ports"] == [f"{gateway['environment']['DCF_PUBLISHED']}:32222"]
    assert read_settings(GatewaySettings, gateway["environment"]).has_token is bool(environ)


@pytest.mark.slow
def test_published_for_others_without_a_token_the_gateway_does_not_start() -> None:
    environ = read("local.yaml", GATEWAY_BIND="0.0.0.0")["services"]["gateway"]["environment"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DCF_")}

    done = subprocess.run(
        [sys.executable, "-m", "dcf.gateway"], env=plain | environ, capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert "DCF_PUBLISHED=0.0.0.0:32222 is reachable from other machines" in done.stderr
    assert "DCF_TOKEN" in done.stderr


def test_on_a_swarm_there_is_no_way_without_a_token(swarm: dict[str, Any]) -> None:
    gateway = swarm["services"]["gateway"]
    assert [(port["mode"], port["published"]) for port in gateway["ports"]] == [("host", "32222")]
    assert swarm["secrets"]["token"] == {"external": True, "name": "dcf_token"}
    assert gateway["environment"]["DCF_TOKEN_FILE"] == f"/run/secrets/{gateway['secrets'][0]['target']}"
    without = {name: value for name, value in gateway["environment"].items() if name != "DCF_TOKEN_FILE"}
    with pytest.raises(ConfigError, match=re.escape("DCF_LISTEN=0.0.0.0:32222 is reachable")):
        read_settings(GatewaySettings, without)


@pytest.mark.parametrize("name", ["local.yaml", "swarm.yaml"])
def test_functions_and_redis_share_no_network(name: str) -> None:
    content = read(name)
    assert content["services"]["redis"]["networks"] == ["store"]
    assert content["networks"]["store"]["internal"] is True
    assert "ports" not in content["services"]["redis"]
    for service in ("gateway", "scheduler"):
        assert set(content["services"][service]["networks"]) == {"functions", "store"}


# settings


@pytest.mark.parametrize("name", ["local.yaml", "swarm.yaml"])
def test_every_setting_is_one_that_the_process_takes(name: str) -> None:
    content = read(name)
    gateway = read_settings(GatewaySettings, content["services"]["gateway"]["environment"])
    scheduler = read_settings(SchedulerSettings, content["services"]["scheduler"]["environment"])

    assert gateway.backend == scheduler.backend == {"local.yaml": "docker", "swarm.yaml": "swarm"}[name]
    assert gateway.cluster == scheduler.cluster == "dcf"
    assert content["networks"]["functions"]["name"] == scheduler.network


def test_two_clusters_on_one_engine_share_nothing() -> None:
    one, two = read("local.yaml"), read("local.yaml", DCF_CLUSTER="other")

    for kind in ("networks", "volumes"):
        assert not {entry["name"] for entry in one[kind].values()} & {entry["name"] for entry in two[kind].values()}
    assert two["services"]["sweeper"]["environment"]["DCF_CLUSTER"] == "other"


@pytest.mark.parametrize("name", ["local.yaml", "swarm.yaml", "socket-proxy.yaml"])
def test_no_variable_is_asked_for_that_dcf_on_the_host_refuses(name: str) -> None:
    # Exported for compose, it is also in the environment of a `dcf` that is typed on the host.
    names = {match[1] for match in _VARIABLE.finditer((COMPOSE / name).read_text())}
    assert {one for one in names if one.startswith("DCF_")} <= USER_NAMES | CLUSTER_NAMES


# the image


def test_every_file_that_it_names_is_there(local: dict[str, Any]) -> None:
    build = local["services"]["sweeper"]["build"]
    context = (COMPOSE / build["context"]).resolve()
    dockerfile = context / build["dockerfile"]
    assert dockerfile.is_file()
    for line in dockerfile.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (context / source).exists(), source


def test_build_arguments_are_those_of_the_dockerfile(local: dict[str, Any]) -> None:
    known = re.findall(r"^ARG (\w+)", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert local["services"]["sweeper"]["build"]["args"].keys() == set(known)


def test_who_builds_the_image_comes_first_of_those_who_use_it(local: dict[str, Any]) -> None:
    # docker-compose 1.29 would ask a registry for it on behalf of whoever comes before.
    services = local["services"]
    assert [name for name, service in services.items() if "build" in service] == ["sweeper"]
    assert "sweeper" in services["scheduler"]["depends_on"]
    assert "scheduler" in services["gateway"]["depends_on"]
    assert {service["image"] for name, service in services.items() if name != "redis"} == {"dcf:local"}


def test_only_the_scheduler_and_its_sweeper_have_the_socket_and_are_root(local: dict[str, Any]) -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    assert [line for line in text.splitlines() if line.startswith("USER ")] == ["USER dcf"]
    for name, service in local["services"].items():
        has_socket = any("docker.sock" in volume for volume in service.get("volumes", []))
        assert has_socket is (name in {"scheduler", "sweeper"})
        assert (service.get("user") == "0:0") is has_socket
        if name != "redis":
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"] is True
            assert service["security_opt"] == ["no-new-privileges:true"]


# starts and stops


def test_a_stop_leaves_time_for_calls_to_end(local: dict[str, Any], swarm: dict[str, Any]) -> None:
    drain_s = GatewaySettings(store_url="unix:///x").drain_s
    for content in (local, swarm):
        grace_s = float(content["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= max(GATEWAYS_WAIT_S, drain_s + 5)
    assert float(local["services"]["sweeper"]["stop_grace_period"].removesuffix("s")) > STOP_REPLICAS_GRACE_S + 20
    assert {service["restart"] for service in local["services"].values()} == {"unless-stopped"}


def test_health_is_what_readyz_says(local: dict[str, Any], swarm: dict[str, Any]) -> None:
    for content in (local, swarm):
        _, python, flag, program = content["services"]["gateway"]["healthcheck"]["test"]
        assert (python, flag) == ("python", "-c")
        assert '"/readyz"' in program
        compile(program, "healthcheck", "exec")


def test_redis_keeps_what_it_acknowledged_where_its_volume_is(local: dict[str, Any], swarm: dict[str, Any]) -> None:
    for content in (local, swarm):
        redis = content["services"]["redis"]
        words = shlex.split(redis["command"])
        assert words[words.index("--dir") :][:2] == ["--dir", "/data"]
        assert words[words.index("--appendfsync") :][:2] == ["--appendfsync", "always"]
        assert redis["volumes"] == ["redis:/data"]
        assert content["volumes"] == {"redis": {"name": "dcf_redis"}}


def test_on_a_swarm_nothing_needs_ipvs_and_gateways_keep_their_counts(swarm: dict[str, Any]) -> None:
    services = swarm["services"]
    assert {service["deploy"]["endpoint_mode"] for service in services.values()} == {"dnsrr"}
    assert services["gateway"]["deploy"]["mode"] == "global"
    assert "{{.Node.ID}}" in services["gateway"]["environment"]["DCF_GATEWAY_ID"]
    assert services["gateway"]["deploy"]["update_config"]["order"] == "stop-first"
    assert services["scheduler"]["deploy"]["update_config"]["order"] == "start-first"
    assert services["scheduler"]["deploy"]["replicas"] == 2
    assert services["redis"]["deploy"]["placement"]["constraints"] == [f"node.labels.{REDIS_LABEL} == true"]


def test_the_files_are_found_where_they_are() -> None:
    assert (compose_folder() / "swarm.yaml").samefile(COMPOSE / "swarm.yaml")
