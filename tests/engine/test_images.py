"""Images of functions: built for real, run as a replica would be, pushed and refused."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import grpc
import pytest
from docker.errors import ImageNotFound
from docker.models.containers import Container

from dcf.build.build_stream import BuildStep, Progress, Transfer
from dcf.build.image import ImageBuild, build_image, find_built_image
from dcf.build.project import FunctionConfig, load_project
from dcf.build.registry import push_image, registry_auth
from dcf.domain.image import WATCHER_PORT
from dcf.errors import BuildError
from dcf.rpc import v1_watcher_pb2 as v1
from dcf.rpc.services import OPTIONS, Stub
from tests.engine.host_engine import Engine
from tests.engine.registry import Registry

HANDLER = """
import os, sys


class Handler:
    def __call__(self, req):
        import six

        return f"{req.input.decode()} {os.getuid()} {sys.executable} {os.access('/function', os.W_OK)}"
"""
INDEX_PASSWORD, PROXY_PASSWORD = "secret-of-the-index", "secret-of-the-proxy"
READY_S = 30.0
"""A container starts in 0.3 s; so much where ten others do at the same time."""
MAX_ADDED_BYTES = 120_000_000
EMPTY = "dcf-test/empty:latest"


@dataclass
class Built:
    """A build and what it said."""

    build: ImageBuild
    steps: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def ran(self) -> list[str]:
        """The lines of the Dockerfile that were no notes of an earlier build's cache."""
        return [step.text for step in self.steps if isinstance(step, BuildStep)]


def environ_with_passwords() -> dict[str, str]:
    """This one's, with passwords in the addresses of an index and of a proxy that nothing here goes through."""
    index = urlsplit(os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple")
    with_password = index._replace(netloc=f"dcf:{INDEX_PASSWORD}@{index.netloc.rpartition('@')[2]}")
    return dict(os.environ) | {
        "PIP_INDEX_URL": urlunsplit(with_password),
        "FTP_PROXY": f"http://dcf:{PROXY_PASSWORD}@127.0.0.1:9",
    }


def make(config: FunctionConfig, environ: dict[str, str] | None = None) -> Built:
    steps: list[Progress] = []
    lines: list[str] = []
    build = build_image(
        config,
        ca=None,
        environ=environ or dict(os.environ),
        on_step=steps.append,
        on_output=lines.append,
    )
    return Built(build, steps, lines)


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FunctionConfig]:
    """Loads a function of that name, its folder made at the first time."""

    def load(name: str, *lines: str, requirements: str = "six\n") -> FunctionConfig:
        folder = tmp_path_factory.getbasetemp() / "functions" / name
        (folder / "src").mkdir(parents=True, exist_ok=True)
        text = ["functions:", f"  {name}:", "    runtime: python", *(f"    {line}" for line in lines)]
        (folder / "config.yaml").write_text("\n".join(text) + "\n")
        (folder / "src/requirements.txt").write_text(requirements)
        if not (folder / "src/handler.py").exists():
            (folder / "src/handler.py").write_text(HANDLER)
        return load_project(folder).function(name)

    return load


@pytest.fixture(scope="module")
def built(base_images: Engine, function: Callable[..., FunctionConfig]) -> Iterator[Built]:
    """An image that all tests here look at; the first build of a run makes the watcher's stage too."""
    yield make(function("dcf-test-image"), environ_with_passwords())
    remove_images(base_images, "dcf-test-")


@pytest.fixture(scope="module")
def empty_base(base_images: Engine) -> Iterator[str]:
    """A base with nothing in it: no shell, no apt, no Python, no C library."""
    repository, tag = EMPTY.split(":")
    base_images.client.api.import_image_from_data(bytes(10240), repository=repository, tag=tag)
    yield EMPTY
    remove_images(base_images, EMPTY)


@pytest.fixture
def run(base_images: Engine) -> Iterator[Callable[..., Container]]:
    """Starts containers as the backends do; they end with the test."""
    started: list[Container] = []

    def start(image: str, **more: object) -> Container:
        environment = {"DCF_FUNCTION": "f", "DCF_REPLICA": "f-1", "DCF_LISTEN": f"0.0.0.0:{WATCHER_PORT}"}
        started.append(
            base_images.client.containers.run(
                image,
                detach=True,
                read_only=True,
                tmpfs={"/tmp": ""},
                security_opt=["no-new-privileges"],
                cap_drop=["ALL"],
                ports={f"{WATCHER_PORT}/tcp": ("127.0.0.1", None)},
                environment=environment | dict(more),
            )
        )
        return started[-1]

    yield start
    for container in started:
        container.remove(force=True)


def remove_images(engine: Engine, prefix: str) -> None:
    """All whose repository, without its registry, begins so."""
    for image in engine.client.images.list():
        for name in (*image.tags, *image.attrs.get("RepoDigests", ())):
            if name.startswith(prefix) or f"/{prefix}" in name:
                with suppress(ImageNotFound):  # it went with another of its names
                    engine.client.images.remove(name, force=True)


def call(container: Container, data: bytes) -> str:
    """The answer of the container's handler, once it is ready."""
    container.reload()
    port = container.ports[f"{WATCHER_PORT}/tcp"][0]["HostPort"]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        stub = Stub(channel, v1.DESCRIPTOR.services_by_name["Watcher"])
        watch = stub.Watch(v1.WatchRequest(), timeout=READY_S, wait_for_ready=True)
        try:
            for state in watch:
                if state.state in {"ready", "failed"}:
                    break
        finally:
            watch.cancel()
        assert state.state == "ready", state.reason
        return stub.Call(v1.CallRequest(input=data), timeout=READY_S).output.decode()


def test_an_image_answers_as_a_replica_without_root_on_a_read_only_root(
    built: Built, run: Callable[..., Container]
) -> None:
    # Neither a search path of modules nor one of libraries reaches the watcher.
    container = run(
        built.build.reference, PYTHONPATH="/function", PYTHONSTARTUP="/nowhere", LD_LIBRARY_PATH="/function"
    )

    assert call(container, b"hello") == "hello 10001 /opt/function/bin/python3 False"


def test_dcf_adds_less_than_120_mb(built: Built) -> None:
    assert built.build.added_bytes is not None
    assert 0 < built.build.added_bytes < MAX_ADDED_BYTES


def test_an_image_says_what_it_is(base_images: Engine, built: Built) -> None:
    config = base_images.client.api.inspect_image(built.build.reference)["Config"]

    assert config["Labels"]["dcf.image"] == "1"
    assert config["Labels"]["dcf.function"] == "dcf-test-image"
    environ = dict(one.split("=", 1) for one in config["Env"])
    assert json.loads(environ["DCF_WORKER_COMMAND"]) == ["/opt/function/bin/python3"]
    assert config["User"] == "10001:10001"
    assert base_images.client.api.inspect_image(built.build.own_tag)["Id"] == built.build.image_id


def test_no_password_is_in_the_history_or_in_a_layer(base_images: Engine, built: Built) -> None:
    history = json.dumps(base_images.client.api.history(built.build.reference))
    secrets = [INDEX_PASSWORD.encode(), PROXY_PASSWORD.encode()]

    assert not [secret for secret in secrets if secret.decode() in history]
    end = b""
    for chunk in base_images.client.api.get_image(built.build.reference, chunk_size=1024 * 1024):
        window = end + chunk
        assert not [secret for secret in secrets if secret in window]
        end = window[-64:]
    assert not [line for line in built.lines if INDEX_PASSWORD in line]


def test_the_watcher_starts_from_compiled_code(base_images: Engine, built: Built) -> None:
    code = (
        "import os, sys, dcf.watcher.main\n"
        "kept = [getattr(module, '__cached__', None) for module in sys.modules.values()]\n"
        "print([path for path in kept if path and not os.path.exists(path)])"
    )
    said = base_images.client.containers.run(
        built.build.reference, ["-I", "-S", "-c", code], entrypoint="/opt/dcf/bin/python3", remove=True
    )

    assert said.decode().strip() == "[]"


def test_an_unchanged_function_is_found_again(function: Callable[..., FunctionConfig], built: Built) -> None:
    config = function("dcf-test-image", "replicas: 3")

    found = find_built_image(config, os.environ)
    again = make(config)

    assert found is not None
    assert found.reference == again.build.reference == built.build.reference
    assert again.build.reused
    assert again.ran() == []


def test_a_changed_handler_rebuilds_the_last_layer_alone(
    base_images: Engine, function: Callable[..., FunctionConfig], built: Built
) -> None:
    config = function("dcf-test-image")
    (config.source / "handler.py").write_text(HANDLER + "# changed\n")
    try:
        assert find_built_image(config, os.environ) is None
        changed = make(config, environ_with_passwords())
    finally:
        (config.source / "handler.py").write_text(HANDLER)

    layers = [base_images.client.api.inspect_image(one.build.reference)["RootFS"]["Layers"] for one in (built, changed)]
    assert changed.build.reference != built.build.reference
    assert layers[0][:-1] == layers[1][:-1]
    assert layers[0][-1] != layers[1][-1]


def test_requirements_that_do_not_exist_are_shown_with_pips_own_reason(
    function: Callable[..., FunctionConfig], built: Built
) -> None:
    config = function("dcf-test-wrong", requirements="dcf-has-no-such-package==1.2.3\n")

    with pytest.raises(BuildError) as failure:
        make(config, environ_with_passwords())

    text = str(failure.value)
    assert text.startswith("could not build dcf-test-wrong: could not install requirements.txt")
    assert "the failing step: Step " in text
    assert "No matching distribution found for dcf-has-no-such-package==1.2.3" in text
    assert INDEX_PASSWORD not in text


def test_a_function_runs_on_a_base_with_nothing_in_it(
    function: Callable[..., FunctionConfig], built: Built, empty_base: str, run: Callable[..., Container]
) -> None:
    config = function("dcf-test-empty", f"build_args: [BASE_IMAGE={empty_base}]")

    empty = make(config, environ_with_passwords())

    assert call(run(empty.build.reference), b"hello") == "hello 10001 /opt/function/bin/python3 False"
    # The layers that DCF adds to a base without a Python: the watcher's, the handler's Python and its packages.
    assert empty.build.size_bytes < MAX_ADDED_BYTES


def test_a_base_without_apt_refuses_build_packages_with_the_reason(
    function: Callable[..., FunctionConfig], built: Built, empty_base: str
) -> None:
    config = function("dcf-test-apt", f"build_args: [BASE_IMAGE={empty_base}]", "build_packages: [make]")

    with pytest.raises(BuildError, match=r"build_packages \(make\) cannot be installed: this base has no apt-get"):
        make(config, environ_with_passwords())


def test_a_base_that_is_nowhere_is_named(function: Callable[..., FunctionConfig], built: Built) -> None:
    config = function("dcf-test-nowhere", "build_args: [BASE_IMAGE=127.0.0.1:1/nothing:1]")

    with pytest.raises(BuildError, match=r"FROM 127\.0\.0\.1:1/nothing:1"):
        make(config, environ_with_passwords())


@pytest.fixture
def tiny(base_images: Engine) -> Iterator[Callable[[str], ImageBuild]]:
    """Makes an image of a few bytes for a registry: what is pushed does not matter to a push."""

    def build(repository: str) -> ImageBuild:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("nothing"))
        base_images.client.api.import_image_from_data(content.getvalue(), repository=repository, tag="0123456789ab")
        base_images.client.api.tag(f"{repository}:0123456789ab", repository, "latest")
        return ImageBuild(
            function="tiny",
            reference=f"{repository}:0123456789ab",
            own_tag=f"{repository}:latest",
            image_id=base_images.client.images.get(f"{repository}:0123456789ab").id,
            base_image="",
            size_bytes=0,
            added_bytes=None,
            seconds=0.0,
            reused=False,
            notices=(),
        )

    yield build
    remove_images(base_images, "dcf-test-tiny")


def test_a_push_gives_the_digest_that_the_registry_has(
    base_images: Engine, tiny: Callable[[str], ImageBuild], registry: Registry
) -> None:
    build = tiny(registry.name_of("dcf-test-tiny"))
    steps: list[Progress] = []

    pushed = push_image(build, environ=os.environ, on_step=steps.append)

    assert pushed.reference.startswith(f"{registry.name_of('dcf-test-tiny')}@sha256:")
    assert pushed.tags == (build.reference, build.own_tag)
    assert all(isinstance(step, Transfer) and step.kind == "push" for step in steps)
    assert any(isinstance(step, Transfer) and step.finished for step in steps)
    remove_images(base_images, "dcf-test-tiny")
    assert base_images.client.images.pull(pushed.reference).id == build.image_id


def test_a_registry_that_wants_a_login_gets_the_users_own(
    tiny: Callable[[str], ImageBuild], locked_registry: Registry, tmp_path: Path
) -> None:
    build = tiny(locked_registry.name_of("dcf-test-tiny"))
    environ = dict(os.environ) | {"DOCKER_CONFIG": str(tmp_path)}

    with pytest.raises(BuildError, match=f"docker login {locked_registry.address}"):
        push_image(build, environ=environ, on_step=lambda _: None)

    login = base64.b64encode(f"{locked_registry.user}:{locked_registry.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {locked_registry.address: {"auth": login}}}))
    pushed = push_image(build, environ=environ, on_step=lambda _: None)
    assert "@sha256:" in pushed.reference
    assert registry_auth(pushed.reference, environ) != ""


def test_an_image_without_a_registry_is_not_pushed_to_docker_hub(tiny: Callable[[str], ImageBuild]) -> None:
    with pytest.raises(BuildError, match="docker_registry"):
        push_image(tiny("dcf-test-tiny"), environ=os.environ, on_step=lambda _: None)


def test_a_registry_that_does_not_answer_is_named(tiny: Callable[[str], ImageBuild]) -> None:
    with pytest.raises(BuildError, match=r"is 127\.0\.0\.1:1 reachable"):
        push_image(tiny("127.0.0.1:1/dcf-test-tiny"), environ=os.environ, on_step=lambda _: None)


def test_an_edited_dockerfile_is_built_as_it_stands(
    base_images: Engine, function: Callable[..., FunctionConfig], built: Built
) -> None:
    config = function("dcf-test-edited", "build_args: [COLOUR=red]")
    template = Path(__file__).parents[2] / "templates/python/Dockerfile"
    own = config.source.parent / "Dockerfile"
    own.write_text(template.read_text().replace("$python_version", "3.11") + "ARG COLOUR\nLABEL colour=${COLOUR}\n")
    try:
        labels = base_images.client.api.inspect_image(make(config, environ_with_passwords()).build.reference)["Config"][
            "Labels"
        ]
        own.write_text(template.read_text().replace("ENTRYPOINT", "CMD").replace("$python_version", "3.11"))
        with pytest.raises(BuildError, match="cannot run as a function"):
            make(config, environ_with_passwords())
    finally:
        shutil.rmtree(config.source.parent)

    assert labels["colour"] == "red"
