"""The engines of the tests themselves: they do what they promise, and go without a trace."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError
from docker.types import DeviceRequest, EndpointSpec, Resources, RestartPolicy, ServiceMode

from tests.conftest import wait_until
from tests.engine import leftovers
from tests.engine.base_image import PYTHON, REDIS
from tests.engine.host_engine import GPUS, Engine
from tests.engine.machine import Machine, need_machines
from tests.engine.registry import Registry
from tests.engine.three_engines import GPU_NODE, ThreeEngines

LOST_S = 60.0
"""The Swarm calls a lost node Down at about 12 s, and has its tasks elsewhere at about 16 s."""


def test_an_engine_that_cannot_start_says_why_and_leaves_nothing(names: None) -> None:
    need_machines()
    machine = Machine("dcf-e9", own_network=True, flags=["--no-such-flag"])

    machine.power_on()
    machine.start_engine()
    try:
        with pytest.raises(RuntimeError, match="unknown flag: --no-such-flag"):
            machine.wait_for_engine()
    finally:
        machine.remove()

    assert not any("dcf-e9" in line for line in leftovers.find_leftovers())


_A_RUN = """
import signal
from tests.engine.machine import Machine
machine = Machine("dcf-e9", own_network=True)
machine.power_on()
machine.start_engine()
machine.wait_for_engine()
print("up", flush=True)
signal.pause()
"""


def test_the_engines_of_a_killed_run_die_with_it(names: None) -> None:
    need_machines()
    run = subprocess.Popen([sys.executable, "-c", _A_RUN], stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run, run.stdout:
        assert run.stdout.readline() == b"up\n"

        run.send_signal(signal.SIGKILL)

    wait_until(lambda: not _lines_about("process", "dcf-e9"), what="the end of the engine")
    Machine("dcf-e9", own_network=True).remove()


def test_containers_start_from_the_base_images(base_images: Engine) -> None:
    python = base_images.client.containers.run(PYTHON, ["python3", "-c", "print(6 * 7)"], remove=True)
    redis = base_images.client.containers.run(REDIS, ["redis-server", "--version"], remove=True)

    assert python == b"42\n"
    assert b"v=7." in redis


def test_programs_of_a_test_find_the_engine_too(engine: Engine) -> None:
    if "DOCKER_HOST" in os.environ:
        assert os.environ["DOCKER_HOST"] == engine.url
    said = subprocess.run(["docker", "info", "--format", "{{.ID}}"], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == engine.client.info()["ID"]


def test_a_container_may_ask_for_a_gpu(base_images: Engine, gpus: tuple[str, ...]) -> None:
    request = DeviceRequest(device_ids=[gpus[0]], capabilities=[["gpu"]])

    seen = base_images.client.containers.run(PYTHON, ["env"], device_requests=[request], remove=True)

    assert f"NVIDIA_VISIBLE_DEVICES={gpus[0]}\n" in seen.decode()


@pytest.fixture
def small_image(engine: Engine, registry: Registry) -> Iterator[str]:
    """An image of one file, named for the registry: to push Debian's 300 MB takes 20 s."""
    name = registry.name_of("small:1")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    engine.client.api.import_image_from_data(content.getvalue(), *name.rsplit(":", 1))
    yield name
    engine.client.images.remove(name)


def test_a_node_pulls_what_the_host_pushed(engine: Engine, small_image: str, three_engines: ThreeEngines) -> None:
    pushed = list(engine.client.images.push(small_image, stream=True, decode=True))
    assert not [line for line in pushed if "error" in line]

    pulled = three_engines.client(2).images.pull(small_image)

    assert pulled.id == engine.client.images.get(small_image).id
    three_engines.client(2).images.remove(small_image)


def test_the_locked_registry_asks_for_its_password(base_images: Engine, locked_registry: Registry) -> None:
    login = {"username": locked_registry.user, "registry": locked_registry.address}

    with pytest.raises(APIError, match="401 Unauthorized"):
        base_images.client.login(password="wrong", **login)
    said = base_images.client.login(password=locked_registry.password, reauth=True, **login)

    assert said["Status"] == "Login Succeeded"


@pytest.fixture
def loaded(base_images: Engine, three_engines: ThreeEngines) -> ThreeEngines:
    three_engines.load_image(PYTHON)
    return three_engines


@pytest.fixture
def one_each(loaded: ThreeEngines) -> Iterator[docker.models.services.Service]:
    """A service with a sleeping task on each node, at most one a node where all are up."""
    service = loaded.manager.services.create(
        PYTHON,
        command=["sleep", "3600"],
        name="sleepers",
        mode=ServiceMode("replicated", replicas=3),
        endpoint_spec=EndpointSpec(mode="dnsrr"),
        restart_policy=RestartPolicy("any", delay=0),
        stop_grace_period=0,
    )
    wait_until(lambda: _running_on(loaded) == {1: 1, 2: 1, 3: 1}, within_s=30, what="a task on each node")
    yield service
    service.remove()
    # Node 3's own list is the last to hear of it.
    wait_until(
        lambda: all(not loaded.client(n).containers.list(filters={"name": "sleepers"}) for n in (1, 2, 3)),
        within_s=30,
        what="the end of the tasks",
    )


def _running_on(engines: ThreeEngines) -> dict[int, int]:
    """How many tasks the Swarm believes to run on each node."""
    nodes = {engines.node_id(n): n for n in (1, 2, 3)}
    running = dict.fromkeys((1, 2, 3), 0)
    for task in engines.manager.services.get("sleepers").tasks(filters={"desired-state": "running"}):
        if task["Status"]["State"] == "running":
            running[nodes[task["NodeID"]]] += 1
    return running


def _lines_about(*words: str) -> list[str]:
    return [line for line in leftovers.find_leftovers() if all(word in line for word in words)]


@pytest.mark.slow
def test_the_tasks_of_a_lost_node_run_elsewhere_until_it_is_back(loaded: ThreeEngines, one_each: object) -> None:
    loaded.kill(2)
    try:
        wait_until(lambda: loaded.state(2) == "down", within_s=LOST_S, what="node 2 to be down")
        wait_until(lambda: _running_on(loaded)[2] == 0, within_s=LOST_S, what="its task to run elsewhere")
    finally:
        loaded.restore(2)

    assert loaded.state(2) == "ready"


def test_a_worker_becomes_a_manager_and_back(three_engines: ThreeEngines) -> None:
    three_engines.promote(2)
    try:
        listed = {node.id for node in three_engines.client(2).nodes.list()}
    finally:
        three_engines.demote(2)

    assert len(listed) == 3


def test_node_3_hands_its_gpus_to_tasks(loaded: ThreeEngines) -> None:
    service = loaded.manager.services.create(
        PYTHON,
        command=["sleep", "3600"],
        name="with-gpu",
        resources=Resources(generic_resources={"NVIDIA-GPU": 1}),
        endpoint_spec=EndpointSpec(mode="dnsrr"),
        stop_grace_period=0,
    )
    try:
        wait_until(
            lambda: loaded.client(GPU_NODE).containers.list(filters={"name": "with-gpu"}), within_s=30, what="its task"
        )
        [container] = loaded.client(GPU_NODE).containers.list(filters={"name": "with-gpu"})
        seen = container.exec_run(["env"]).output.decode()
    finally:
        service.remove()

    assert any(f"DOCKER_RESOURCE_NVIDIA-GPU={gpu}\n" in seen for gpu in GPUS)


def test_a_program_runs_in_the_network_of_a_node(three_engines: ThreeEngines) -> None:
    said = three_engines.run_in(2, "ip", "-brief", "address", "show", "eth0")

    assert f"{three_engines.address(2)}/24" in said
