"""The one engine of this machine: found, or started for the run.

In:   DOCKER_HOST or the default socket; else, as root with dockerd at hand, an engine of our own.
Out:  Engine, and DOCKER_HOST in the environment of the run where it is ours.
Two engines in one network fight over docker0 and the firewall: ours starts only where none answers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, DockerException
from docker.types import DeviceRequest

from tests.engine.commands import missing
from tests.engine.leftovers import note_network, remove_cgroups, restore_network
from tests.engine.machine import Machine, somebody_listens

DEFAULT_SOCKET = Path("/var/run/docker.sock")

REGISTRY_NETWORK = "10.77.0.0/24"
"""Where the registry of the tests is; engines speak plain HTTP to it."""

GPUS = ("GPU-aaaa", "GPU-bbbb")
"""UUIDs of the GPUs that an engine of ours says it has."""

PREPARED = "ENGINE_TESTS_PREPARED"
"""Set by `python -m tests.engine` for its two halves: names, engine, base images and bridge are there, and are its."""

GPU_FLAGS = tuple(word for gpu in GPUS for word in ("--node-generic-resource", f"NVIDIA-GPU={gpu}"))
REGISTRY_FLAGS = ("--insecure-registry", REGISTRY_NETWORK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that answers; `client` is for one thread, the test's."""

    url: str
    client: docker.DockerClient
    ours: bool
    """Started for this run, and gone after it with all that was made in it."""

    gpus: tuple[str, ...]
    """UUIDs it advertises as NVIDIA-GPU."""

    allows_registry: bool
    """Pulls and pushes at REGISTRY_NETWORK over plain HTTP."""


@contextmanager
def host_engine(claim_names: Callable[[], object]) -> Iterator[Engine]:
    """The engine to test with; one of our own is stopped and removed at the end.

    Args:
        claim_names: called before one of our own is started; returns when no other run uses our fixed names.

    Raises:
        RuntimeError: an engine of ours did not start; nothing of it is left.
    """
    url = os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    if client := _answering(url):
        try:
            yield _describe(client, url=url, ours=PREPARED in os.environ)
        finally:
            client.close()
    elif os.environ.get("DOCKER_HOST"):
        missing(f"no Docker engine answers at DOCKER_HOST={url}")
    elif os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing(f"no Docker engine answers at {url}: start one, set DOCKER_HOST, or run as root with dockerd on PATH")
    else:
        claim_names()
        with _own_engine() as engine:
            yield engine


@contextmanager
def _own_engine() -> Iterator[Engine]:
    machine = Machine("host", own_network=False, flags=(*REGISTRY_FLAGS, *GPU_FLAGS))
    note_network()
    try:
        machine.power_on()
        machine.start_engine()
        machine.wait_for_engine()
        os.environ["DOCKER_HOST"] = machine.url
        yield _describe(machine.client, url=machine.url, ours=True)
    finally:
        os.environ.pop("DOCKER_HOST", None)
        machine.remove()
        restore_network()
        remove_cgroups()


def find_litter(client: docker.DockerClient) -> list[str]:
    """What an engine that started empty still holds besides images: tests forgot it."""
    litter = [f"container {container.name}" for container in client.containers.list(all=True)]
    litter += [f"volume {volume.name}" for volume in client.volumes.list()]
    networks = [str(network.name) for network in client.networks.list()]
    return litter + [f"network {name}" for name in networks if name not in ("bridge", "host", "none")]


def check_gpus(engine: Engine, image: str) -> tuple[str, ...]:
    """The GPUs that a container of `engine` may ask for, tried with `image`; skips (fails in CI) where it may not."""
    advice = f"the engine at {engine.url} hands out no GPUs"
    if not engine.gpus:
        missing(f'{advice}: give its daemon.json "node-generic-resources": ["NVIDIA-GPU=GPU-..."]')
    request = DeviceRequest(device_ids=[engine.gpus[0]], capabilities=[["gpu"]])
    try:
        engine.client.containers.run(image, ["true"], device_requests=[request], remove=True)
    except APIError as error:
        missing(f"{advice}: put an executable nvidia-container-runtime-hook on dockerd's PATH ({error.explanation})")
    return engine.gpus


def _answering(url: str) -> docker.DockerClient | None:
    if url.startswith("unix://") and not somebody_listens(url):
        return None
    client = None
    with suppress(DockerException, OSError):
        client = docker.DockerClient(base_url=url, timeout=60)
        client.ping()
        return client
    if client is not None:
        client.close()
    return None


def _describe(client: docker.DockerClient, *, url: str, ours: bool) -> Engine:
    info = client.info()
    named = [resource.get("NamedResourceSpec") or {} for resource in info.get("GenericResources") or []]
    return Engine(
        url=url,
        client=client,
        ours=ours,
        gpus=tuple(spec["Value"] for spec in named if spec.get("Kind") == "NVIDIA-GPU"),
        allows_registry=REGISTRY_NETWORK in info["RegistryConfig"]["InsecureRegistryCIDRs"],
    )
