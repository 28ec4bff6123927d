from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcf.build.build_network import read_network
from dcf.build.build_stream import BuildStep, Progress, Transfer, read_stream
from dcf.build.engine import has_engine
from dcf.build.image import build_image, write_context
from dcf.build.image_plan import CONTENT_LABEL, ImagePlan, plan_image
from dcf.build.project import load_project
from dcf.build.registry import registry_auth
from dcf.build.runtimes import list_runtimes
from dcf.build.scaffold import init_function
from dcf.domain.image import FORMAT_LABEL
from dcf.errors import BuildError
from tests.build.conftest import LoadEcho

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"


def names(plan: ImagePlan) -> set[str]:
    """Of the function's own files in the context."""
    return {file.name for file in plan.context.files if not file.name.startswith(".dcf/")}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A function as `dcf function init` makes it, with a Dockerfile of its own."""
    init_function("echo", "python", tmp_path)
    return tmp_path / "echo"


def plan_of(folder: Path) -> ImagePlan:
    return plan_image(load_project(folder).function("echo"))


@pytest.mark.parametrize(
    ("lines", "repository", "own_tag"),
    [
        ([], "echo", "echo:latest"),
        (["image: team/echo:v2"], "team/echo", "team/echo:v2"),
        (["docker_registry: reg.example.org:5001", "image: echo"], "reg.example.org:5001/echo", None),
        (["docker_registry: reg.example.org:5001"], "reg.example.org:5001/echo", None),
        (
            ["docker_registry: reg.example.org:5001", "image: reg.example.org:5001/echo:7"],
            "reg.example.org:5001/echo",
            "reg.example.org:5001/echo:7",
        ),
        (["docker_registry: https://reg.example.org/", "image: a/b"], "reg.example.org/a/b", None),
    ],
)
def test_the_name_is_made_of_registry_and_image(
    echo: LoadEcho, lines: list[str], repository: str, own_tag: str | None
) -> None:
    plan = plan_image(echo(*lines))

    assert plan.reference == f"{repository}:{plan.digest[:12]}"
    assert plan.own_tag == (own_tag or f"{repository}:latest")


def test_a_registry_without_a_host_is_refused(echo: LoadEcho) -> None:
    # Docker would take `team/echo` for one of Docker Hub.
    with pytest.raises(BuildError, match=r"docker_registry: team names no host.*docker\.io/team"):
        plan_image(echo("docker_registry: team"))


@pytest.mark.parametrize(
    ("image", "word"),
    [("Echo", "lower-case"), ("a b", "lower-case"), ("echo:", "lower-case"), ("bundle:echo@0123456789ab", "bundle"),
     ("echo@sha256:" + "0" * 64, "digest")],
)  # fmt: skip
def test_a_name_that_docker_would_not_take_is_refused_before_anything_is_built(
    echo: LoadEcho, image: str, word: str
) -> None:
    with pytest.raises(BuildError, match=word):
        plan_image(echo(f'image: "{image}"'))


def test_the_reference_follows_the_content_and_nothing_else(echo: LoadEcho, folder: Path) -> None:
    before = plan_image(echo())

    (folder / "src/__pycache__").mkdir()
    (folder / "src/__pycache__/handler.pyc").write_bytes(b"x")
    os.utime(folder / "src/handler.py", (1, 1))
    assert plan_image(echo("replicas: 3", "timeout: 5s")).reference == before.reference

    references = {before.reference}
    for config in (echo("build_args: [PYTHON_VERSION=3.8]"), echo("build_packages: [make]"), echo(requirements="x\n")):
        references.add(plan_image(config).reference)
    (folder / "src/handler.py").write_text("class Handler: pass\n")
    references.add(plan_image(echo()).reference)
    assert len(references) == 5


def test_an_image_has_the_labels_of_the_contract(echo: LoadEcho) -> None:
    plan = plan_image(echo())

    assert plan.labels[FORMAT_LABEL] == "1"
    assert plan.labels["dcf.function"] == "echo"
    assert plan.labels[CONTENT_LABEL] == plan.digest


def test_without_a_dockerfile_only_the_sources_go_in(echo: LoadEcho, folder: Path) -> None:
    (folder / "secret.txt").write_text("x")

    assert names(plan_image(echo())) == {"src/handler.py", "src/requirements.txt"}


def test_with_a_dockerfile_its_whole_folder_goes_in_as_dockerignore_allows(own: Path) -> None:
    (own / "models").mkdir()
    (own / "models/big.bin").write_text("x")
    (own / "models/small.bin").write_text("x")
    (own / "notes.md").write_text("x")
    with (own / ".dockerignore").open("a") as file:
        file.write("models\n!models/small.bin\n*.md\n")

    plan = plan_of(own)

    assert names(plan) == {"models/small.bin", "src/handler.py", "src/requirements.txt"}
    assert plan.dockerfile.file == own / "Dockerfile"


def test_a_dockerignore_that_leaves_out_the_handler_is_an_error(own: Path) -> None:
    (own / ".dockerignore").write_text("src\n")

    with pytest.raises(BuildError, match=r"\.dockerignore leaves out handler\.py"):
        plan_of(own)


def test_a_changed_dockerfile_is_another_image(own: Path) -> None:
    before = plan_of(own).reference
    with (own / "Dockerfile").open("a") as file:
        file.write("ARG COLOUR\nRUN echo ${COLOUR}\n")

    assert plan_of(own).reference != before


def test_own_arguments_reach_the_dockerfile_that_declares_them(own: Path) -> None:
    config = (own / "config.yaml").read_text()
    config = config.replace("build_args:\n", "build_args:\n    - COLOUR=red\n    - UNKNOWN=1\n")
    (own / "config.yaml").write_text(config)
    with (own / "Dockerfile").open("a") as file:
        file.write("ARG COLOUR\n")

    plan = plan_of(own)

    assert plan.build_args["COLOUR"] == "red"
    assert "UNKNOWN" not in plan.build_args
    assert any("UNKNOWN" in notice for notice in plan.notices)


def test_a_dockerfile_without_a_watcher_is_refused(own: Path) -> None:
    (own / "Dockerfile").write_text("FROM scratch\n")

    with pytest.raises(BuildError, match="no watcher in it"):
        plan_of(own)


def test_a_dockerfile_of_the_time_before_images_is_left_aside(own: Path) -> None:
    (own / "Dockerfile").write_text("# Image builds come with a later release of DCF: ...\nFROM scratch\n")

    plan = plan_of(own)

    assert plan.dockerfile.file is None
    assert any("from before" in notice for notice in plan.notices)


def test_sources_beside_the_function_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("x = 1\n")
    (tmp_path / "config.yaml").write_text("functions: {echo: {runtime: python, handler: {dir: .}}}\n")

    plan = plan_of(tmp_path)

    assert plan.build_args["SOURCE"] == ".dcf/src"
    assert ".dcf/src/handler.py" in {file.name for file in plan.context.files}


def test_requirements_go_alone_unless_they_name_files(echo: LoadEcho, folder: Path) -> None:
    def with_requirements(text: str) -> set[str]:
        plan = plan_image(echo(requirements=text))
        return {file.name.removeprefix(".dcf/requirements/") for file in plan.context.files
                if file.name.startswith(".dcf/requirements/")}  # fmt: skip

    (folder / "src/more.txt").write_text("numpy\n")

    assert with_requirements("numpy\n") == {"requirements.txt"}
    assert with_requirements("-r more.txt\n") == {"requirements.txt", "more.txt", "handler.py"}


def test_the_context_has_what_the_watcher_imports_and_no_more_of_dcf(echo: LoadEcho) -> None:
    rooms = {file.name.split("/")[3] for file in plan_image(echo()).context.files
             if file.name.startswith(".dcf/watcher/dcf/")}  # fmt: skip

    assert {"watcher", "rpc", "domain", "build", "errors.py", "env.py"} <= rooms
    assert not {"cli", "gateway", "scheduler", "store", "client", "cluster"} & rooms


def test_everybody_may_read_what_is_in_the_tar(echo: LoadEcho, folder: Path) -> None:
    config = echo()
    (folder / "src/handler.py").chmod(0o600)
    (folder / "src/run.sh").write_text("x")
    (folder / "src/run.sh").chmod(0o700)
    plan, target = plan_image(config), io.BytesIO()

    plan.context.write_tar(target, plan.dockerfile.text, CERTIFICATE)

    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        assert tar.getmember("src/handler.py").mode == 0o644
        assert tar.getmember("src/run.sh").mode == 0o755
        assert tar.getmember("src").mode == 0o755
        certificates = tar.extractfile(".dcf/ca/ca.pem")
        assert certificates is not None
        assert certificates.read() == CERTIFICATE


def test_a_context_by_hand_is_a_folder_and_a_command_without_secrets(own: Path, tmp_path: Path) -> None:
    environ = {"PIP_INDEX_URL": "https://me:secret@index.example.org/simple"}

    command = write_context(load_project(own).function("echo"), tmp_path / "context", ca=None, environ=environ)

    assert (tmp_path / "context/Dockerfile").read_text() == (own / "Dockerfile").read_text()
    assert (tmp_path / "context/src/handler.py").is_file()
    assert "secret" not in " ".join(command)
    assert command[command.index("PIP_INDEX_URL") - 1] == "--build-arg"


def test_the_network_is_read_from_the_environment(tmp_path: Path) -> None:
    network = read_network(
        {
            "https_proxy": "http://me:pass%20word@proxy:3128",
            "NO_PROXY": "localhost",
            "PIP_INDEX_URL": "https://you:other@index/simple",
            "PIP_FIND_LINKS": "/somewhere",
        }
    )

    assert network.build_args["HTTPS_PROXY"] == network.build_args["https_proxy"] == "http://me:pass%20word@proxy:3128"
    assert network.build_args["no_proxy"] == "localhost"
    assert "PIP_FIND_LINKS" not in network.build_args
    assert network.certificates is None
    assert network.hide("at https://you:other@index and pass%20word") == "at https://you:****@index and ****"


def test_certificates_stand_beside_the_public_ones(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(CERTIFICATE)

    for network in (read_network({}, file), read_network({"SSL_CERT_FILE": str(file)})):
        assert network.certificates is not None
        assert CERTIFICATE in network.certificates
        assert network.certificates.count(b"BEGIN CERTIFICATE") > 50


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    with pytest.raises(BuildError, match="no certificate in it"):
        read_network({}, tmp_path / "ca.pem")
    with pytest.raises(BuildError, match="No such file"):
        read_network({}, tmp_path / "none.pem")


def test_a_stream_becomes_steps_lines_and_bytes() -> None:
    steps: list[Progress] = []
    lines: list[str] = []

    end = read_stream(
        [
            {"stream": "Step 1/2 : FROM ${BASE_IMAGE}\n"},
            {"status": "Downloading", "id": "abc", "progressDetail": {"current": 5, "total": 10}},
            {"status": "Pull complete", "id": "abc", "progressDetail": {}},
            {"stream": "Step 2/2 : RUN make\n"},
            {"stream": "\x1b[91mdcf: notice: look\x1b[0m\n"},
            {"aux": {"ID": "sha256:1"}},
        ],
        what="build echo",
        on_step=steps.append,
        on_output=lines.append,
        arguments={"BASE_IMAGE": "python:3.11-slim"},
    )

    assert steps == [
        BuildStep(number=1, total=2, text="FROM python:3.11-slim"),
        Transfer(kind="pull", layer="abc", done_bytes=5, total_bytes=10, finished=False),
        Transfer(kind="pull", layer="abc", done_bytes=10, total_bytes=10, finished=True),
        BuildStep(number=2, total=2, text="RUN make"),
    ]
    assert end.image_id == "sha256:1"
    assert end.notices == ("look",)


def test_a_failing_step_is_shown_with_its_last_lines_and_its_own_reason() -> None:
    messages = [
        {"stream": "Step 1/2 : RUN one\n"},
        {"stream": "of the step before\n"},
        {"stream": "Step 2/2 : RUN two\n"},
        {"stream": " ---> Running in 0123\n"},
        *({"stream": f"line {number}\n"} for number in range(30)),
        {"stream": "dcf: could not do it: because\n"},
        {"error": "The command 'two' returned a non-zero code: 1"},
    ]

    with pytest.raises(BuildError) as failure:
        read_stream(messages, what="build echo", on_step=lambda _: None, on_output=lambda _: None)

    first, step, *rest = str(failure.value).splitlines()
    assert first == "could not build echo: could not do it: because"
    assert step == "the failing step: Step 2/2 : RUN two"
    assert len(rest) == 20
    assert rest[0] == "line 11"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("manifest for nvidia/cuda:9.0 not found: manifest unknown", "NVIDIA deletes"),
        ("pull access denied for x, repository does not exist", "docker login"),
        ("dial tcp: lookup registry-1.docker.io: no such host", "docker load"),
        ("exec /opt/dcf/bin/python3: exec format error", "architecture"),
    ],
)
def test_an_engines_own_error_says_what_to_do(error: str, advice: str) -> None:
    with pytest.raises(BuildError, match=advice):
        read_stream([{"error": error}], what="build echo", on_step=lambda _: None, on_output=lambda _: None)


def test_without_an_engine_it_says_how_to_get_one(echo: LoadEcho, tmp_path: Path) -> None:
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}

    assert not has_engine(environ)
    with pytest.raises(BuildError, match=r"no Docker engine answers at unix://.*--backend process"):
        build_image(echo(), ca=None, environ=environ, on_step=lambda _: None, on_output=lambda _: None)


def test_a_login_comes_from_the_users_docker_config(docker_config: Path) -> None:
    environ = {"DOCKER_CONFIG": str(docker_config)}

    login = read_auth(registry_auth("reg.example.org:5001/echo:1", environ))
    helped = read_auth(registry_auth("helped.example.org/echo", environ))

    assert (login["username"], login["password"]) == ("me", "pass:word")
    assert (helped["Username"], helped["Password"]) == ("helper", "helped.example.org")
    assert registry_auth("other.example.org/echo", environ) == ""


def test_a_broken_credential_helper_is_named(docker_config: Path) -> None:
    (docker_config / "docker-credential-test").write_text("#!/bin/sh\necho broken\nexit 1\n")

    with pytest.raises(BuildError, match="docker login"):
        registry_auth("helped.example.org/echo", {"DOCKER_CONFIG": str(docker_config)})


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a config.json and a credential helper, which is on PATH."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"auths": {"reg.example.org:5001": {"auth": "bWU6cGFzczp3b3Jk"}},
                    "credHelpers": {"helped.example.org": "test"}})
    )  # fmt: skip
    helper = folder / "docker-credential-test"
    helper.write_text(
        f"#!{sys.executable}\nimport json,sys\n"
        'print(json.dumps({"Username": "helper", "Secret": sys.stdin.read().strip()}))\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def read_auth(header: str) -> dict[str, str]:
    import base64

    return json.loads(base64.urlsafe_b64decode(header))


def test_the_runtimes_list_names_every_argument_that_chooses_an_image() -> None:
    known = list_runtimes()["python"].build_args

    assert {"BASE_IMAGE", "WATCHER_IMAGE", "PYTHON_IMAGE", "PYTHON_VERSION", "CUDA_VERSION"} <= set(known)
