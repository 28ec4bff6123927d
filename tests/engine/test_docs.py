"""The manual's own commands, page by page from top to bottom, as a reader types them.

A page's blocks say where: on the machine of one engine, beside the containers of compose, or (`box1`) on the
manager of the three engines. What is replaced in a command stands in the dictionaries here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import certifi
import pytest
from docker.errors import APIError
from ruamel.yaml import YAML

from tests.engine.base_image import REDIS
from tests.engine.containers import remove_containers
from tests.engine.dcf_image import compose, compose_command
from tests.engine.host_engine import Engine
from tests.engine.registry import Registry
from tests.engine.three_engines import ThreeEngines
from tests.flows.cluster import Cluster, until
from tests.flows.user import User
from tests.pages import DOCS, ROOT, Block, read_blocks

NAME = "dcf-docs"
COMPOSED = "dcf-docs-compose"
"""Both run at once."""
OWN_IMAGES = {"hello", "proxied", "everywhere"}
"""Functions that only these pages build; `echo` is everybody's."""

SMALL_BASE = "dcf-docs/nothing:latest"

Said = dict[str, str]
"""Command to what it printed, of the last time."""


class Reader(User):
    """Has a home of his own, and for each page a folder in which `compose/` is that of the clone."""

    def __init__(self, root: Path, words: dict[str, str], **environ: str) -> None:
        self.cluster = Cluster(root)
        self.home = root / "home"
        self.home.mkdir()
        self.cluster.state = self.home / ".dcf" / "state"
        self.words = words
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("DCF_", "COMPOSE_"))}
        self.environ = {**plain, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config"), **environ}
        self.add_to_path(Path(shutil.which("dcf") or "dcf").parent)

    def open(self, page: str) -> None:
        self.folder = self.cluster.work / page.removesuffix(".md")
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "compose").exists():
            (self.folder / "compose").symlink_to(ROOT / "compose")

    def replaced(self, text: str) -> str:
        for old, new in self.words.items():
            text = text.replace(old, new)
        return text

    def type(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return super().type(self.replaced(line), check=check)

    def follow(self, page: str, *, tag: str = "", blocks: list[Block] | None = None) -> Said:
        """All blocks of a place; what is shown as a part of a file is put into that file."""
        self.open(page)
        said = {}
        for block in blocks if blocks is not None else read_blocks(DOCS / page):
            if block.kind == "console" and block.tag == tag:
                said |= {line: self.type(line).stdout for line in block.lines}
            elif block.kind == "yaml" and block.tag and not tag:
                self.edit(block)
        return said

    def edit(self, block: Block) -> None:
        yaml, file = YAML(), self.folder / block.tag
        content = yaml.load(file.read_text())
        put(content, yaml.load(self.replaced(block.text)))
        with file.open("w") as out:
            yaml.dump(content, out)


def put(content: Any, more: Any) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            put(content[key], value)
        else:
            content[key] = value


class Manager(Reader):
    """Types in the network of node 1, and to its engine."""

    def __init__(self, root: Path, words: dict[str, str], engines: ThreeEngines, **environ: str) -> None:
        super().__init__(root, words, DOCKER_HOST=engines.url(1), **environ)
        self.engines = engines

    def type(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in self.environ.items()]
        said = ""
        with suppress(*(() if check else (RuntimeError,))):
            words = ("env", "-i", "-C", str(self.folder), *variables, "sh", "-c", self.replaced(line))
            said = self.engines.run_in(1, *words, within_s=300.0)
        return subprocess.CompletedProcess(line, 0, said, "")


def registry_words(registry: Registry) -> dict[str, str]:
    """A base of nothing beside it: what is pushed, and pulled by two nodes, is a third as large."""
    name = "registry.example.org:5000"
    key = f"docker_registry: {name}"
    return {key: f"{key}\n    build_args: [BASE_IMAGE={SMALL_BASE}]", name: registry.address}


def compose_blocks(page: str) -> list[Block]:
    return [block for block in read_blocks(DOCS / page) if block.kind == "console" and block.tag == "compose"]


def remove_images(engine: Engine) -> None:
    """Of OWN_IMAGES, where the engine is somebody's."""
    for image in engine.client.images.list():
        for name in (*image.tags, *image.attrs.get("RepoDigests", ())):
            if name.partition("@")[0].rpartition("/")[2].partition(":")[0] in OWN_IMAGES:
                with suppress(APIError):  # it went with another of its names
                    engine.client.images.remove(name, force=True)


# one engine, `dcf up --backend docker`


@pytest.fixture(scope="module")
def reader(base_images: Engine, echo_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("docs"), {}, DCF_CLUSTER=NAME)
    reader.environ["DCF_LISTEN"] = reader.cluster.address
    reader.open("one-host.md")
    try:
        yield reader
    finally:
        reader.type("dcf down")
        remove_containers(base_images.client, NAME)
        if not base_images.ours:
            remove_images(base_images)


@pytest.fixture(scope="module")
def small_base(base_images: Engine) -> Iterator[None]:
    repository, _, tag = SMALL_BASE.partition(":")
    base_images.client.api.import_image_from_data(bytes(10240), repository=repository, tag=tag)
    yield
    base_images.client.images.remove(SMALL_BASE, force=True)


@pytest.fixture
def running(reader: Reader) -> Reader:
    """With a cluster."""
    if reader.type("dcf status", check=False).returncode:
        reader.type("dcf up --detach --backend docker")
    return reader


def test_one_host(reader: Reader, base_images: Engine) -> None:
    said = reader.follow("one-host.md")

    assert said["curl -d Hello http://127.0.0.1:32222/function/echo"] == "Hello"
    assert said["echo Hello | dcf function run echo"] == "Hello\n"
    assert "docker" in said["dcf status"]
    assert not base_images.client.api.containers(all=True, filters={"label": f"dcf.cluster={NAME}"})


def test_images(running: Reader) -> None:
    said = running.follow("images.md")

    assert "docker buildx build" in said["dcf function build -f echo/config.yaml --write-context echo-context"]
    assert {"watcher", "ca"} <= set(said["ls -A echo-context echo-context/.dcf"].split())


def test_registry(running: Reader, locked_registry: Registry, small_base: None) -> None:
    running.words |= registry_words(locked_registry)
    running.open("registry.md")
    (running.folder / "password.txt").write_text(str(locked_registry.password))

    said = running.follow("registry.md")

    assert f"{locked_registry.address}/hello@sha256:" in said["dcf function describe hello"]
    assert "hello is deleted" in said["dcf function delete hello"]


def test_proxy(running: Reader) -> None:
    # Nobody is there. The proxy of this machine, if it has one, is in the environment.
    running.words["HTTPS_PROXY=http://proxy.example.org:3128 "] = ""
    running.open("proxy.md")
    shutil.copyfile(os.environ.get("PIP_CERT") or certifi.where(), running.folder / "company-ca.pem")

    said = running.follow("proxy.md")

    assert "BEGIN CERTIFICATE" not in said["docker history --no-trunc proxied"]


def test_gpus(running: Reader) -> None:
    assert "gpu" in running.follow("gpus.md")["dcf doctor"]


def test_upgrading(running: Reader) -> None:
    said = running.follow("upgrading.md")

    [version] = [text for command, text in said.items() if "dcf.version" in command]
    assert said["dcf --version"] == f"dcf {version}"
    assert "echo is Ready" in said["dcf function deploy -f echo/config.yaml"]


def test_backup(running: Reader) -> None:
    assert "echo" in running.follow("backup.md")["dcf function list"]


# one engine, compose


@pytest.fixture
def composed(base_images: Engine, echo_image: str, dcf_image: str, tmp_path: Path) -> Iterator[Reader]:
    words = {"docker compose": " ".join(compose_command()), "dcf_redis": f"{COMPOSED}_redis"}
    variables = {"DCF_IMAGE": dcf_image, "DCF_CLUSTER": COMPOSED, "COMPOSE_PROJECT_NAME": COMPOSED}
    reader = Reader(tmp_path, words, **variables)
    variables["GATEWAY_PORT"] = reader.cluster.address.rpartition(":")[2]
    reader.environ |= {"GATEWAY_PORT": variables["GATEWAY_PORT"], "DCF_GATEWAY": reader.cluster.address}
    try:
        yield reader
    finally:
        compose("down", "-v", environ=variables, check=False)
        remove_containers(base_images.client, COMPOSED)


def test_compose_and_its_backup(composed: Reader) -> None:
    *blocks, last = compose_blocks("one-host.md")
    said = composed.follow("one-host.md", tag="compose", blocks=blocks)
    assert said["curl -d Hello http://127.0.0.1:32222/function/echo"] == "Hello"

    composed.follow("backup.md", tag="compose")
    until(lambda: "echo" in composed.type("dcf function list").stdout, what="what was restored")
    composed.follow("one-host.md", tag="compose", blocks=[last])


# three engines


@pytest.fixture
def manager(three_engines: ThreeEngines, dcf_image: str, tmp_path: Path) -> Iterator[Manager]:
    three_engines.load_image(dcf_image, REDIS, nodes=(1,))
    words = {f"box{n}": three_engines.hostname(n) for n in (1, 2, 3)}
    manager = Manager(tmp_path, words, three_engines, DCF_IMAGE=dcf_image)
    manager.open("several-hosts.md")
    try:
        yield manager
    finally:
        for line in (
            "dcf down --backend swarm",
            "docker node update --availability active box3",
            "docker node update --label-rm dcf.redis box1",
            "docker secret rm dcf_token",
        ):
            manager.type(line, check=False)
        until(lambda: not manager.type("docker volume rm -f dcf_redis", check=False) or is_gone(manager), limit_s=30)


def is_gone(manager: Manager) -> bool:
    return "dcf_redis" not in manager.type("docker volume ls").stdout


def test_several_hosts(
    manager: Manager, base_images: Engine, locked_registry: Registry, small_base: None, tmp_path_factory: Any
) -> None:
    if locked_registry.address.startswith("127."):
        pytest.skip("the engine of this machine allows no registry that three others reach")
    engines = manager.engines
    words = {"box1:32222": f"{engines.address(1)}:32222", **registry_words(locked_registry)}
    elsewhere = Reader(tmp_path_factory.mktemp("elsewhere"), words)
    elsewhere.open("several-hosts.md")
    (elsewhere.folder / "password.txt").write_text(str(locked_registry.password))
    login = next(line for block in read_blocks(DOCS / "registry.md") for line in block.lines if "docker login" in line)
    elsewhere.type(login)
    said: Said = {}
    blocks = read_blocks(DOCS / "several-hosts.md")
    last = blocks.pop()

    # In the page's order, each where it is typed.
    for block in blocks:
        said |= manager.follow("several-hosts.md", tag="box1", blocks=[block])
        if (token := manager.home / ".dcf" / "token").exists() and not (elsewhere.home / ".dcf").exists():
            shutil.copytree(token.parent, elsewhere.home / ".dcf", ignore=shutil.ignore_patterns("state"))
        said |= elsewhere.follow("several-hosts.md", blocks=[block])
    for page in ("gpus.md", "backup.md"):
        manager.follow(page, tag="box1")
    manager.follow("several-hosts.md", tag="box1", blocks=[last])
    if not base_images.ours:
        remove_images(base_images)

    assert "DCF is ready at http://127.0.0.1:32222" in said["dcf up --backend swarm"]
    assert said["curl -d Hello http://box1:32222/function/everywhere"] == "Hello"
    assert engines.hostname(1) not in said["dcf function describe everywhere"]
    assert "everywhere" in said["dcf function list"]
    assert engines.manager.services.list() == []
