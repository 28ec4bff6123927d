"""Real engines to test with. Ask for what you need; it is made when the first test wants it.

`engine`          an engine of this machine: `.client` (docker SDK), `.url`
`base_images`     the same engine, with `python:3.11-slim` and `redis:7-alpine` in it
`go_image`        the same engine, with the image that functions in Go are compiled in
`echo_image`      a function's image in it, built as a user builds it; `gpu_image` one that finds GPUs
`gpus`            the UUIDs of its GPUs, which a container may ask for (nothing is behind them)
`registry`        a registry that the engines may use: `.address`, `.name_of("echo:1")`
`locked_registry` another that demands `.user` and `.password`
`three_engines`   a Swarm of three: `.manager`, `.client(n)`, `.url(n)`, `.address(n)`, `.run_in(n, ...)`,
                  `.load_image(ref)`, `.cut(n)`, `.kill(n)`, `.kill_engine(n)`, `.restore(n)`, `.promote(n)`

All are shared by the whole run, so a test removes what it makes in them, and restores a node that it took away.
Where something is missing the test is skipped with the reason, and fails in CI (CI=true).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine import base_image, bridge, function_images, go_image, host_engine, leftovers, registry, three_engines
from tests.engine import dcf_image as dcf_image_of_this_tree
from tests.engine.commands import FOLDER

WAIT_FOR_OTHER_RUN_S = 240.0
"""Another run of these tests on this machine holds the fixed names; longer than that it is stuck."""

TEST_S = 360
"""The first test that wants an engine waits for it: debootstrap alone may take a minute, or two on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs an engine, and may have to start it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            if "three_engines" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.three_engines)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_S))


@pytest.fixture(scope="session")
def names() -> Iterator[None]:
    """The right to our fixed names (folder, bridge, cgroup) on this machine, clean at start and at the end.

    Fails the run where anything is left at the end.
    """
    if host_engine.PREPARED in os.environ:
        yield
        return
    with held_names() as left:
        yield
    if left:
        pytest.fail("left on this machine:\n" + "\n".join(left), pytrace=False)


@contextmanager
def held_names() -> Iterator[list[str]]:
    """The names for the length of the block; after it, what the block has left behind, which is removed."""
    left: list[str] = []
    with FOLDER.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + WAIT_FOR_OTHER_RUN_S
        while not _lock(lock.fileno()):
            if time.monotonic() > deadline:
                pytest.fail(f"another run of these tests has held {lock.name} for {WAIT_FOR_OTHER_RUN_S} s")
            time.sleep(0.1)
        leftovers.remove_leftovers()
        yield left
        if FOLDER.exists() and not any(FOLDER.iterdir()):
            FOLDER.rmdir()
        left += leftovers.find_leftovers()
        leftovers.remove_leftovers()


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[host_engine.Engine]:
    """The engine of this machine: the one that answers, else one that is started for the run (root, dockerd).

    One of ours allows the registry and advertises two GPUs; ask for `gpus` where a test needs them.
    DOCKER_HOST leads to it, also in programs that a test starts. Fails at the end where tests left containers,
    volumes or networks in one of ours.
    """
    with host_engine.host_engine(lambda: request.getfixturevalue("names")) as engine:
        yield engine
        shared = host_engine.PREPARED in os.environ
        litter = host_engine.find_litter(engine.client) if engine.ours and not shared else []
    if litter:
        pytest.fail("tests left in the engine, as they would in yours:\n" + "\n".join(litter), pytrace=False)


@pytest.fixture(scope="session")
def base_images(engine: host_engine.Engine) -> Iterator[host_engine.Engine]:
    """`engine`, with `python:3.11-slim` and `redis:7-alpine` in it: pulled, or stand-ins (base_image.py)."""
    brought = base_image.provide_base_images(engine)
    yield engine
    if not engine.ours:
        base_image.remove_stand_ins(engine.client, brought)


@pytest.fixture(scope="session", name="go_image")
def image_with_go(base_images: host_engine.Engine) -> Iterator[host_engine.Engine]:
    """`base_images`, with `golang:<the version of this machine>` in it: pulled, or a stand-in (go_image.py)."""
    brought = go_image.provide_go_image(base_images)
    yield base_images
    if brought and not base_images.ours:
        base_images.client.images.remove(go_image.GO)


@pytest.fixture(scope="session")
def gpus(base_images: host_engine.Engine) -> tuple[str, ...]:
    """UUIDs of `engine`'s GPUs, two where it is ours: it takes requests for them (`--gpus`), real or not."""
    return host_engine.check_gpus(base_images, base_image.PYTHON)


@pytest.fixture(scope="session")
def echo_image(base_images: host_engine.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of a function that answers with its input, built as a user builds it."""
    image = function_images.build_echo(tmp_path_factory.mktemp("echo"))
    yield image
    if not base_images.ours:
        base_images.client.images.remove(image, force=True)


@pytest.fixture(scope="session")
def dcf_image(base_images: host_engine.Engine) -> Iterator[str]:
    """The image of compose/Dockerfile: gateway, scheduler, CLI."""
    image = dcf_image_of_this_tree.build_dcf_image()
    yield image
    if not base_images.ours:
        base_images.client.images.remove(image, force=True)


@pytest.fixture(scope="session")
def gpu_image(base_images: host_engine.Engine, echo_image: str) -> Iterator[str]:
    """A function's image with a driver's tool in it; its handler says which GPUs it sees."""
    image = function_images.build_gpu_image(base_images, echo_image)
    yield image
    if not base_images.ours:
        base_images.client.images.remove(image, force=True)


@pytest.fixture(scope="session")
def bridge_address(engine: host_engine.Engine, names: None) -> Iterator[str]:
    """The host's address on the bridge of the three engines, 10.77.0.1."""
    if host_engine.PREPARED in os.environ:
        yield bridge.HOST_ADDRESS
        return
    with bridge.bridge() as address:
        yield address


@pytest.fixture(scope="session")
def registry_host(engine: host_engine.Engine, request: pytest.FixtureRequest) -> str:
    """Where `engine` reaches a registry of ours: over the bridge, else over loopback, which every engine allows."""
    if engine.allows_registry and bridge.can_bridge():
        return str(request.getfixturevalue("bridge_address"))
    return "127.0.0.1"


@pytest.fixture(scope="session", name="registry")
def open_registry(registry_host: str, names: None) -> Iterator[registry.Registry]:
    """A registry without a password. Its `address` is reached by `engine`, and by the three where they can be had."""
    with registry.running_registry(registry_host) as running:
        yield running


@pytest.fixture(scope="session")
def locked_registry(registry_host: str, names: None) -> Iterator[registry.Registry]:
    """A registry that lets in only `user` with `password`."""
    with registry.running_registry(registry_host, user="dcf", password="open sesame") as running:
        yield running


@pytest.fixture(scope="session", name="three_engines")
def three_joined_engines(engine: host_engine.Engine, bridge_address: str) -> Iterator[three_engines.ThreeEngines]:
    """Three engines in a Swarm: node 1 manages, 2 and 3 work, node 3 has the GPUs of host_engine.GPUS."""
    with three_engines.three_engines(engine) as engines:
        yield engines


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
