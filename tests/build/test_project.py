from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dcf.build.project import find_config, load_project
from dcf.domain.function import FunctionSpec, parse_spec
from dcf.domain.scaling import ScalingPolicy
from dcf.errors import ConfigError
from tests.build.conftest import LoadEcho

SEED = """\
functions:
  echo:
    runtime: python
    desc: ""
    maintainer: ""
    handler:
      dir: ./src
      file: ""
      name: Handler
    docker_registry: keti.asuscomm.com:5001
    image: keti.asuscomm.com:5001/echo
    limits:
      memory: ""
      cpu: ""
      gpu: ""
    build_args:
    - CUDA_VERSION=9.0
    - CUDNN_VERSION=7.4.1.5
    - UBUNTU_VERSION=16.04
dcf:
  gateway: keti.asuscomm.com:32222
"""
ORIGINAL = """\
functions:
  echo:
    runtime: python
    desc: ""
    maintainer: ""
    handler:
      dir: ./src
      file: ""            # default from the runtime: handler.py
      name: Handler
    docker_registry: registry.example.org:5001
    image: registry.example.org:5001/echo
    environment:          # optional, "KEY=value"
    - "LOG_LEVEL=info"
    skip_build: false     # optional
    limits:
      memory: ""          # "1G", "512Mi", "" = no limit
      cpu: ""             # "1", "0.5", "500m"
      gpu: ""             # number of GPUs, "" = none
    build_args:
    - CUDA_VERSION=9.0
    - CUDNN_VERSION=7.4.1.5
    - UBUNTU_VERSION=16.04
    - PYTHON_VERSION=3.6
    build_packages:       # Debian/Ubuntu packages to add to the image
    - make
dcf:
  gateway: gateway.example.org:32222
"""
SPEC_FIELDS_OF_THE_FILE = (
    "replicas", "concurrency", "workers", "timeout_s", "start_timeout_s", "kill_after_s", "queue",
    "max_payload_bytes", "debug", "scaling", "limits", "environment",
)  # fmt: skip


@pytest.mark.parametrize("text", [SEED, ORIGINAL], ids=["seed", "original"])
def test_the_files_that_people_have_load_unchanged(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)

    project = load_project(folder / "config.yaml")

    echo = project.function("echo")
    assert project.gateway is not None
    assert project.gateway.endswith(":32222")
    assert (echo.source, echo.handler_file, echo.handler_name) == (folder / "src", "handler.py", "Handler")
    assert echo.build_args["CUDA_VERSION"] == "9.0"
    assert echo.limits == {}
    assert parse_spec(echo.deploy_request("bundle:echo@0123456789ab")).name == "echo"


def test_a_function_that_says_nothing_has_the_defaults_of_its_spec(echo: LoadEcho) -> None:
    spec = parse_spec(echo().deploy_request("x"))

    plain = FunctionSpec(name=spec.name, image="x")
    assert {name: getattr(spec, name) for name in SPEC_FIELDS_OF_THE_FILE} == {
        name: getattr(plain, name) for name in SPEC_FIELDS_OF_THE_FILE
    }


def test_every_key_reaches_the_spec(echo: LoadEcho) -> None:
    config = echo(
        "desc: d", "maintainer: m", "replicas: 3", "concurrency: 4", "workers: 2", "timeout: 1m",
        "start_timeout: 90", "kill_after: 500ms", "queue: 0", "max_payload: 1Mi", "debug: true",
        "limits: {memory: 1G, cpu: 0.5, gpu: 1}", 'environment: ["A=1", "B=x=y", "C="]',
    )  # fmt: skip

    spec = parse_spec(config.deploy_request("bundle:echo@0123456789ab"))

    assert (spec.description, spec.maintainer, spec.runtime) == ("d", "m", "python")
    assert (spec.replicas, spec.concurrency, spec.workers, spec.queue, spec.debug) == (3, 4, 2, 0, True)
    assert (spec.timeout_s, spec.start_timeout_s, spec.kill_after_s) == (60.0, 90.0, 0.5)
    assert spec.max_payload_bytes == 1024 * 1024
    assert spec.limits == {"memory": "1G", "cpu": "0.5", "gpu": "1"}
    assert spec.environment == {"A": "1", "B": "x=y", "C": ""}


def test_a_scaling_block_is_kept(echo: LoadEcho) -> None:
    spec = parse_spec(echo("scaling: {min: 2, max: 5, target: 1.5, idle: 5m}").deploy_request("x"))

    assert spec.scaling == ScalingPolicy(min_replicas=2, max_replicas=5, target=1.5, idle_s=300.0)
    assert spec.replicas == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("limts: {}", ":4: functions.echo.limts: unknown key (did you mean limits?)"),
        ("start-timeout: 1s", "(did you mean start_timeout?)"),
        ("zzz: 1", ":4: functions.echo.zzz: unknown key; expected one of runtime, desc"),
        ("limits: {memory: 1Q}", ':4: functions.echo.limits.memory: "1Q" is not allowed: expected an amount such as'),
        ("limits: {cpu: -1}", "functions.echo.limits.cpu: -1 is not allowed: expected a number of CPUs"),
        ("limits: {gpu: 1.5}", "functions.echo.limits.gpu: 1.5 is not allowed: expected a whole number of GPUs"),
        ("limits: {memory: true}", "functions.echo.limits.memory: true is not allowed"),
        ("limits: {memory: [1]}", "functions.echo.limits.memory: a list is not allowed"),
        ("limits: 1G", 'functions.echo.limits: "1G" is not allowed: expected a mapping with one of memory, cpu, gpu'),
        ("replicas: two", 'functions.echo.replicas: "two" is not allowed: expected a whole number from 0 to 1000'),
        ("replicas: true", "functions.echo.replicas: true is not allowed"),
        ("replicas: 2.5", "functions.echo.replicas: 2.5 is not allowed"),
        ("replicas: 1001", "functions.echo.replicas: 1001 is not allowed"),
        ("workers: 0", "expected a whole number from 1 to 256"),
        ("timeout: soon", 'functions.echo.timeout: "soon" is not allowed: expected a duration such as 500ms'),
        ("timeout: 0s", 'functions.echo.timeout: "0s" is not allowed: expected a duration above 0'),
        ("debug: 1", "functions.echo.debug: 1 is not allowed: expected true or false"),
        ("desc: 5", "functions.echo.desc: 5 is not allowed: expected a text; in quotes it is one: '5'"),
        ("desc: 2020-01-01", "functions.echo.desc: 2020-01-01 is not allowed: expected a text"),
        ("environment: {A: 1}", 'functions.echo.environment: a mapping is not allowed: expected a list of "KEY=value"'),
        ("environment: [A]", 'functions.echo.environment[0]: "A" is not allowed: expected a text "KEY=value"'),
        ('environment: ["A=1", "A=2"]', "functions.echo.environment[1]: A is there twice"),
        ('environment: ["DCF_X=1"]', 'functions.echo.environment[0]: "DCF_X=1" is not allowed'),
        ("build_args: [PYTHON_VERSION=2.7]", "functions.echo.build_args[0]:"),
        ("build_args: [PYTHON_VERSION=3.5]", "a Python of 3.6 or later"),
        ("build_args: [GO_VERSION=1.18]", "a Go of 1.19 or later, such as GO_VERSION=1.22"),
        ("build_args: [NODE_VERSION=16]", "a Node.js of 18 or later, such as NODE_VERSION=20"),
        ("build_args: [PYTHON_VERSION: 3.10]", "functions.echo.build_args[0]: a mapping is not allowed"),
        ("handler: {name: My Handler}", 'functions.echo.handler.name: "My Handler" is not allowed'),
        ("handler: {file: ../up.py}", "functions.echo.handler.file:"),
        ("handler: {file: other.py}", ":4: functions.echo.handler.file: there is no other.py in"),
        ("handler: {dir: ./nowhere}", ":4: functions.echo.handler.dir: the folder"),
        ("scaling: {metric: speed}", "functions.echo.scaling.metric:"),
        (
            "scaling: {min: 3, max: 2}",
            "functions.echo.scaling.max: 2 is not allowed: expected at least min, which is 3",
        ),
        ("scaling: {up: 3}", "functions.echo.scaling.up: unknown key"),
    ],
)
def test_a_fault_is_refused_with_line_key_value_and_what_was_expected(
    echo: LoadEcho, folder: Path, line: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        echo(line)

    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{folder / 'config.yaml'}:4: ")
    assert "\n" not in str(caught.value)


def test_batches_in_a_language_without_them_are_refused(folder: Path) -> None:
    (folder / "config.yaml").write_text("functions:\n  echo:\n    runtime: go\n    batch: {max_size: 8}\n")

    with pytest.raises(ConfigError, match=r":4: functions\.echo\.batch: .*a handler in go takes no batches"):
        load_project(folder, check_files=False)


def test_replicas_and_scaling_together_are_refused(echo: LoadEcho) -> None:
    with pytest.raises(ConfigError, match=r":5: functions\.echo\.scaling: replicas and scaling are given both"):
        echo("replicas: 2", "scaling: {min: 1}")


def test_a_missing_handler_file_is_refused_unless_files_do_not_matter(echo: LoadEcho, folder: Path) -> None:
    echo()
    (folder / "src/handler.py").unlink()

    with pytest.raises(ConfigError, match=r"config\.yaml:2: functions\.echo: there is no handler\.py in .*src"):
        load_project(folder)
    assert load_project(folder, check_files=False).function("echo").handler_file == "handler.py"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: the file is empty"),
        ("# only a comment\n", ":1: the file is empty"),
        ("- a\n", ":1: a list is not allowed: expected a mapping with one of functions, dcf"),
        ("just text\n", ':1: "just text" is not allowed'),
        ("dcf: {}\n", ":1: functions is missing"),
        ("functions:\n", ":1: functions: nothing is not allowed: expected a mapping of function names"),
        ("functions: {}\n", ":1: functions: a mapping is not allowed: expected a mapping of function names"),
        ("function:\n  echo: {}\n", ":1: function: unknown key (did you mean functions?)"),
        ("functions:\n  echo:\n", ":2: functions.echo: nothing is not allowed"),
        (
            "functions:\n  echo:\n    desc: x\n",
            ":2: functions.echo: runtime is missing: expected one of python, go, node",
        ),
        (
            "functions:\n  Echo:\n    runtime: python\n",
            ':2: functions: the name "Echo" is not allowed: expected a lower',
        ),
        ("functions:\n  12:\n    runtime: python\n", ":2: functions: the name 12 is not allowed"),
        (
            "functions:\n  echo:\n    runtime: pyton\n",
            '"pyton" is not allowed: expected one of python, go, node (did you mean python?)',
        ),
        ("functions:\n  echo:\n    runtime: [python]\n", ":3: functions.echo.runtime: a list is not allowed"),
        ("functions:\n  a: 1\n  a: 2\n", ':3: this key is there twice: "a"'),
        ("functions:\n\techo:\n", ":2: a tab is not allowed for indentation"),
        ("functions: [\n", "this is no YAML"),
        ("functions: {a: *b}\n", ":1: this is no YAML"),
        ("a: 1\n---\nb: 2\n", ": a second document begins here"),
        ("a: \x07\n", ":1: the character '\\x07' is not allowed"),
        ("a: 2020-13-45\n", "cannot be read as YAML"),
        ("[" * 1000, "config.yaml"),
        (
            "functions: {a: {runtime: python}}\ndcf: {gateway: here}\n",
            ':2: dcf.gateway: "here" is not allowed: expected',
        ),
        ("functions: {a: {runtime: python}}\ndcf: {gateway: 'a:0'}\n", "dcf.gateway:"),
    ],
)
def test_a_file_that_is_no_function_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.yaml").write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)

    assert says in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"functions:\n  # \xe4\n")

    with pytest.raises(ConfigError, match=r"latin\.yaml:2: byte 0xe4 is no text: expected UTF-8"):
        load_project(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_project(tmp_path / "none.yaml")


def test_an_unknown_function_is_refused_with_those_that_are_there(echo: LoadEcho, folder: Path) -> None:
    echo()

    with pytest.raises(ConfigError, match="there is no function 'ech' in it: expected echo"):
        load_project(folder).function("ech")


def test_keys_that_an_alias_merges_in_are_checked_too(folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "functions:\n  a: &a\n    runtime: python\n    workers: 2\n  b:\n    <<: *a\n    queue: 5\n"
    )

    project = load_project(folder)

    assert (project.function("b").workers, project.function("b").queue) == (2, 5)


def test_the_functions_own_folder_goes_before_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "echo").mkdir()
    (tmp_path / "config.yaml").touch()
    assert find_config(tmp_path, "echo") == tmp_path / "config.yaml"

    (tmp_path / "echo/config.yaml").touch()

    assert find_config(tmp_path, "echo") == tmp_path / "echo/config.yaml"
    with pytest.raises(ConfigError, match="no function file found"):
        find_config(tmp_path / "echo/none", "echo")


def test_what_is_loaded_cannot_be_changed(echo: LoadEcho) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        echo().workers = 5  # type: ignore[misc]
