"""The compose file names what is there, and shows the gateway to this host alone."""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from dcf.cli.main import app
from dcf.cluster.main import GATEWAYS_WAIT_S, SCHEDULER_WAIT_S
from dcf.cluster.state import REPLICAS_WAIT_S
from dcf.env import USER_NAMES

COMPOSE = Path(__file__).parents[1] / "compose"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def with_defaults(value: Any) -> Any:
    """`value` as it is where the user's environment says nothing."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: match[2] or "", value)
    if isinstance(value, list):
        return [with_defaults(item) for item in value]
    if isinstance(value, dict):
        return {key: with_defaults(item) for key, item in value.items()}
    return value


@pytest.fixture(scope="module")
def local() -> dict[str, Any]:
    text = (COMPOSE / "local.yaml").read_text()
    read: dict[str, Any] = with_defaults(YAML(typ="safe", pure=True).load(text))
    return read


def test_nothing_is_published_but_on_loopback(local: dict[str, Any]) -> None:
    published = [port for service in local["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:32222:32222"]
    assert all(ipaddress.ip_address(port.split(":")[0]).is_loopback for port in published)
    assert not [name for name, service in local["services"].items() if "network_mode" in service]


def test_every_file_that_it_names_is_there(local: dict[str, Any]) -> None:
    build = local["services"]["dcf"]["build"]
    context = (COMPOSE / build["context"]).resolve()
    dockerfile = context / build["dockerfile"]
    assert dockerfile.is_file()
    for line in dockerfile.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (context / source).exists(), source
    for service in local["services"].values():
        for source, target in (volume.split(":")[:2] for volume in service.get("volumes", [])):
            assert Path(target).is_absolute()
            if "/" in source:
                assert (COMPOSE / source).is_dir(), source
            else:
                assert source in local["volumes"]
        assert set(service.get("secrets", [])) <= local["secrets"].keys()
        assert set(service.get("depends_on", [])) <= local["services"].keys()


def test_build_arguments_are_those_of_the_dockerfile(local: dict[str, Any]) -> None:
    known = re.findall(r"^ARG (\w+)", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert local["services"]["dcf"]["build"]["args"].keys() == set(known)


def test_its_command_is_one_that_dcf_takes(local: dict[str, Any]) -> None:
    program, verb, *arguments = local["services"]["dcf"]["command"]
    up = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]

    with up.make_context(verb, arguments) as context:
        given = {name: value for name, value in context.params.items() if value not in (None, False)}

    assert (program, verb) == ("dcf", "up")
    assert given == {"redis": "redis://redis:6379/0", "listen": "0.0.0.0:32222"}
    assert "redis" in local["services"]


def test_the_token_is_the_mounted_secret(local: dict[str, Any]) -> None:
    dcf = local["services"]["dcf"]
    assert dcf["environment"] == {"DCF_TOKEN_FILE": "/run/secrets/dcf_token"}
    assert dcf["secrets"] == ["dcf_token"]


def test_no_variable_is_asked_for_that_dcf_on_the_host_refuses() -> None:
    # Exported for compose, it is also in the environment of a `dcf` that is typed on the host.
    names = {match[1] for match in _VARIABLE.finditer((COMPOSE / "local.yaml").read_text())}
    assert {name for name in names if name.startswith("DCF_")} <= USER_NAMES


def test_the_state_of_the_image_is_kept_in_volumes(local: dict[str, Any]) -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    targets = {volume.split(":")[1] for volume in local["services"]["dcf"]["volumes"]}
    folders = set(re.findall(r"DCF_(?:STATE|BUNDLES)=(\S+)", text))
    assert len(folders) == 2
    assert folders < targets
    assert [line for line in text.splitlines() if line.startswith("USER ")] == ["USER dcf"]


def test_a_stop_leaves_time_for_calls_to_end(local: dict[str, Any]) -> None:
    dcf = local["services"]["dcf"]
    grace_s = float(dcf["stop_grace_period"].removesuffix("s"))
    assert grace_s > GATEWAYS_WAIT_S + SCHEDULER_WAIT_S + REPLICAS_WAIT_S
    assert dcf["init"] is True
    assert dcf["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert {service["restart"] for service in local["services"].values()} == {"unless-stopped"}


def test_health_is_what_readyz_says(local: dict[str, Any]) -> None:
    _, python, flag, program = local["services"]["dcf"]["healthcheck"]["test"]
    assert (python, flag) == ("python", "-c")
    assert '"/readyz"' in program
    compile(program, "healthcheck", "exec")
