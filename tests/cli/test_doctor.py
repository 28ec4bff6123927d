"""`dcf doctor`, and `dcf up` that looks first."""

from __future__ import annotations

import json
import socket

import pytest

from tests.cli.conftest import Shell, free_port

pytestmark = pytest.mark.slow
NOWHERE = "unix:///nowhere/docker.sock"


def test_it_says_what_is_there_for_processes(shell: Shell) -> None:
    listen = f"127.0.0.1:{free_port()}"

    text = shell.ok("doctor", "--backend", "process", "--listen", listen)
    checks = json.loads(shell.ok("doctor", "--backend", "process", "--listen", listen, "--output", "json"))

    functions = {f"{language} for functions" for language in ("pythons", "Go", "Node.js")}
    assert {"python", "port", "redis", "disk", "gpu"} | functions == {check["name"] for check in checks}
    assert all(check["state"] in {"ok", "warning"} for check in checks)
    assert text.startswith("CHECK")
    assert f"{listen} is free" in text


def test_a_taken_port_is_missing_and_how_to_mend_it_is_said(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        done = shell.dcf("doctor", "--backend", "process", "--listen", listen)

    assert done.returncode == 1
    assert b"To mend:\n  port: stop it, or choose another with --listen HOST:PORT" in done.stdout


def test_an_engine_that_is_not_there_is_missing_for_docker_alone(shell: Shell) -> None:
    shell.more["DOCKER_HOST"] = NOWHERE
    listen = ("--listen", f"127.0.0.1:{free_port()}")

    docker = shell.dcf("doctor", "--backend", "docker", *listen)
    shell.ok("doctor", *listen)

    assert docker.returncode == 1
    assert f"no Docker engine answers at {NOWHERE}".encode() in docker.stdout


@pytest.mark.parametrize("backend", ["docker", "swarm"])
def test_up_refuses_with_the_first_thing_that_is_missing(shell: Shell, backend: str) -> None:
    shell.more["DOCKER_HOST"] = NOWHERE

    error = shell.fails("up", "--detach", "--backend", backend)

    assert error.count("\n") == 1
    assert "there is no such socket" in error or "docker command" in error
    assert f"dcf doctor --backend {backend}" in error
    assert not (shell.folder / "state").exists()


def test_options_that_a_stack_cannot_take_are_refused(shell: Shell) -> None:
    assert "--processes does not fit" in shell.fails("up", "--backend", "swarm", "--processes", "2")


def test_status_and_down_of_another_backend_find_nothing(shell: Shell) -> None:
    assert "dcf up --backend docker" in shell.fails("status", "--backend", "docker")


def test_status_of_a_named_gateway(cluster: Shell) -> None:
    elsewhere = {"DCF_STATE": str(cluster.folder / "elsewhere")}

    shown = cluster.dcf("status", "--gateway", cluster.more["ADDRESS"], "--output", "json", env=elsewhere)
    silent = cluster.dcf("status", "--gateway", f"127.0.0.1:{free_port()}", env=elsewhere)

    assert shown.returncode == 0, shown.stderr
    facts = json.loads(shown.stdout)
    assert (facts["running"], facts["backend"]) == (True, "process")
    assert [node["ready"] for node in facts["nodes"]] == [True]
    assert silent.returncode == 1
    assert b"does not answer" in silent.stderr
