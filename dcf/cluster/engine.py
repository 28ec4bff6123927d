"""Ask a Docker engine what it is, for doctor and for stacks.

In:   the environment (DOCKER_HOST and its like).
Out:  EngineFacts: what it says of itself, or why it does not answer and how to mend that.
The Docker SDK is imported here, when it is wanted, and in no other room of the cluster.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcf.errors import BackendUnavailableError

DEFAULT_URL = "unix:///var/run/docker.sock"
ANSWER_S = 10
"""`info` takes milliseconds; an engine that hangs is one that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What `docker version` and `docker info` say."""

    url: str
    problem: str = ""
    """Why it does not answer; "" where it does."""
    mend: str = ""
    version: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        """Whether the rest says anything."""
        return not self.problem

    @property
    def is_here(self) -> bool:
        """It runs on this very machine, as far as its address tells."""
        return self.url.startswith("unix://")

    @property
    def swarm(self) -> Mapping[str, Any]:
        """What it says of its Swarm."""
        return self.info.get("Swarm") or {}

    @property
    def is_manager(self) -> bool:
        """It can be asked about the whole Swarm."""
        return bool(self.swarm.get("ControlAvailable"))


def engine_url(environ: Mapping[str, str]) -> str:
    """Where the engine is looked for."""
    return environ.get("DOCKER_HOST") or DEFAULT_URL


@contextmanager
def open_engine(environ: Mapping[str, str]) -> Iterator[Any]:
    """The SDK's low-level client. Raises BackendUnavailableError, in the block too."""
    import docker
    import docker.errors
    import requests.exceptions

    client = None
    try:
        client = docker.from_env(environment=dict(environ), timeout=ANSWER_S)
        yield client.api
    except docker.errors.APIError as error:
        raise BackendUnavailableError(str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise BackendUnavailableError(" ".join(str(error).split())) from error
    finally:
        if client is not None:
            client.close()


def ask_engine(environ: Mapping[str, str]) -> EngineFacts:
    """Its facts; also where it does not answer."""
    url = engine_url(environ)
    if error := _knock(url):
        problem, mend = explain_silence(url, error)
        return EngineFacts(url=url, problem=problem, mend=mend)
    try:
        with open_engine(environ) as api:
            return EngineFacts(url=url, version=api.version(), info=api.info())
    except BackendUnavailableError as error:
        problem, mend = explain_silence(url, str(error))
        return EngineFacts(url=url, problem=problem, mend=mend)


def _knock(url: str) -> str:
    """Why nobody accepts a connection at a socket of this machine; "" where somebody does, or it is no such socket."""
    if not url.startswith("unix://"):
        return ""
    # Before the SDK does it, which leaves its half of a failed connection open.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_S)
        try:
            probe.connect(url.removeprefix("unix://"))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def ask_nodes(environ: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The nodes of the Swarm, as the API gives them. Raises BackendUnavailableError."""
    with open_engine(environ) as api:
        return list(api.nodes())


def try_overlay(environ: Mapping[str, str]) -> str:
    """Make an overlay network and remove it; what went wrong, "" where nothing did."""
    name = f"dcf-doctor-{os.getpid()}"
    try:
        with open_engine(environ) as api:
            made = api.create_network(name, driver="overlay", attachable=True)
            with suppress(Exception):  # it was made, and that is what was asked
                api.remove_network(made["Id"])
    except BackendUnavailableError as error:
        return str(error)
    return ""


def explain_silence(url: str, error: str) -> tuple[str, str]:
    """Why nothing answers at `url`, and what to do."""
    found = f"no Docker engine answers at {url}"
    if not url.startswith("unix://"):
        return f"{found} ({error[:160]})", "check DOCKER_HOST, or unset it to use the engine of this machine"
    path = Path(url.removeprefix("unix://"))
    try:
        is_socket = stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError:
        start = "start it (systemctl start docker), or install Docker Engine: https://docs.docker.com/engine/install"
        return f"{found}: there is no such socket", start
    except OSError as refused:
        return f"{found}: {refused.strerror}", "let this user reach the socket's folder"
    if not is_socket:
        return f"{found}: that is no socket", "check DOCKER_HOST"
    if not os.access(path, os.R_OK | os.W_OK):
        user = "usermod --append --groups docker $USER"
        return (
            f"{found}: this user may not use the socket",
            f"add yourself to the docker group: sudo {user}; log in again",
        )
    return f"{found} ({error[:160]})", "start it: systemctl start docker; its log: journalctl -u docker"
