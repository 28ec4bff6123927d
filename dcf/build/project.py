"""Load a function file: what its author wants, checked, with the line of every fault.

In:   config.yaml (templates/config.yaml is its manual and its schema).
Out:  Project: its functions by name, and the gateway that it names.
It reads files and changes none; bundle.py builds what it describes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcf.build.config_file import Node, parse, read_text
from dcf.build.runtimes import list_runtimes
from dcf.build.schema import Key, check_mapping, check_name, one_of, read_manual
from dcf.domain.scaling import parse_scaling
from dcf.errors import ConfigError, InvalidInputError

CONFIG = "config.yaml"
# Build arguments that are versions: their form, and what is said where they have another.
_VERSIONS = {
    "PYTHON_VERSION": (
        re.compile(r"3(\.([6-9]|[1-9]\d+)(\.\d+)?)?"),
        "a Python of 3.6 or later, such as PYTHON_VERSION=3.6 or PYTHON_VERSION=3.11.7",
    ),
    "GO_VERSION": (
        re.compile(r"1\.(19|[2-9]\d)(\.\d+)?"),
        "a Go of 1.19 or later, such as GO_VERSION=1.22 or GO_VERSION=1.22.5",
    ),
    "NODE_VERSION": (
        re.compile(r"(1[89]|[2-9]\d)(\.\d+){0,2}"),
        "a Node.js of 18 or later, such as NODE_VERSION=20 or NODE_VERSION=20.11.1",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionConfig:
    """One function of the file. Quantities are as written, and checked."""

    name: str
    config_file: Path
    runtime: str
    description: str
    maintainer: str
    source: Path
    """Absolute: the folder that `handler.dir` names."""
    handler_file: str
    """Relative to `source`; the runtime's default where the file says ""."""
    handler_name: str
    docker_registry: str
    image: str
    environment: Mapping[str, str]
    skip_build: bool
    limits: Mapping[str, str]
    """memory, cpu, gpu, as far as given."""
    constraints: tuple[str, ...]
    """Which machines of a Swarm may run it."""
    build_args: Mapping[str, str]
    build_packages: tuple[str, ...]
    replicas: int | None
    """None where the file does not say: 1, or what `scaling` says."""
    scaling: Mapping[str, Any] | None
    concurrency: int | None
    workers: int
    batch: Mapping[str, Any] | None
    """max_size and max_wait; None where the handler takes one request at a time."""
    timeout: str
    start_timeout: str
    kill_after: str
    queue: int
    max_payload: str
    debug: bool

    def deploy_request(self, image: str) -> dict[str, Any]:
        """The JSON form that `dcf.domain.function.parse_spec` reads.

        Args:
            image: what the build made, such as `bundle:echo@0123456789ab`.
        """
        request: dict[str, Any] = {
            "service": self.name,
            "image": image,
            "runtime": self.runtime,
            "description": self.description,
            "maintainer": self.maintainer,
            "envVars": dict(self.environment),
            "limits": dict(self.limits),
            "constraints": list(self.constraints),
            "workers": self.workers,
            "timeout": self.timeout,
            "startTimeout": self.start_timeout,
            "killAfter": self.kill_after,
            "queue": self.queue,
            "maxPayload": self.max_payload,
            "debug": self.debug,
        }
        if self.concurrency is not None:
            request["concurrency"] = self.concurrency
        if self.replicas is not None:
            request["replicas"] = self.replicas
        if self.batch is not None:
            request["batch"] = {"maxSize": self.batch["max_size"], "maxWait": self.batch["max_wait"]}
        if self.scaling is not None:
            request["scaling"] = dict(self.scaling)
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One function file."""

    path: Path
    functions: Mapping[str, FunctionConfig]
    """At least one, in the file's order."""
    gateway: str | None
    """`dcf.gateway`; None where it is empty."""

    def function(self, name: str) -> FunctionConfig:
        """Raises ConfigError that lists the functions of the file."""
        try:
            return self.functions[name]
        except KeyError:
            raise ConfigError(
                f"{self.path}: there is no function {name!r} in it: expected {one_of(self.functions)}"
            ) from None


def find_config(folder: Path, name: str = "") -> Path:
    """The function file that a command without -f means: `config.yaml` here, else that of the folder `name`.

    Raises:
        ConfigError: neither is there.
    """
    candidates = [folder / CONFIG]
    if name:
        # The function's own folder first: a file beside it may be about something else.
        candidates.insert(0, folder / name / CONFIG)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    wanted = " and ".join(str(candidate) for candidate in reversed(candidates))
    raise ConfigError(
        f"no function file found: looked for {wanted}; name one with -f, or make one with `dcf function init`"
    )


def load_project(path: Path, *, check_files: bool = True) -> Project:
    """Read and check a function file.

    Args:
        path: the file, or the folder that holds `config.yaml`.
        check_files: whether the handler files must be there (a build needs them, a look at the gateway does not).

    Raises:
        ConfigError: the first fault, with file, line, key, value and what was expected.
    """
    if path.is_dir():
        path = path / CONFIG
    root = parse(read_text(path), path)
    if root.value is None:
        raise ConfigError(f"{path}:1: the file is empty: expected functions; `dcf function init` writes an example")
    manual = read_manual()
    if not root.is_map:
        raise root.refuse(f"a mapping with {one_of(manual.keys)}")
    functions_key = manual.keys["functions"]
    # Everything but the functions, whose names are keys of the user's own.
    values = check_mapping(root, Key(name="", kind="mapping", keys={**manual.keys, "functions": _OPEN}))
    if "functions" not in root.value:
        raise ConfigError(f"{path}:1: functions is missing: expected a mapping of function names")
    entries = root.child("functions")
    if not entries.is_map or not entries.value:
        raise entries.refuse("a mapping of function names")
    functions = {
        check_name(node, name): _function(str(name), node, functions_key.keys[""], check_files)
        for name, node in entries.items()
    }
    return Project(path=path, functions=functions, gateway=values["dcf"]["gateway"] or None)


def _function(name: str, node: Node, form: Key, check_files: bool) -> FunctionConfig:
    values = check_mapping(node, form)
    _check_environment(node)
    _check_replicas(node)
    _check_scaling(node)
    if node.value.get("batch") and not list_runtimes()[values["runtime"]].batches:
        raise ConfigError(f"{node.child('batch').place}a handler in {values['runtime']} takes no batches: leave it out")
    _check_versions(node, values["build_args"])
    file = values["handler"]["file"] or list_runtimes()[values["runtime"]].handler_file
    source = (node.file.absolute().parent / values["handler"]["dir"]).resolve()
    if check_files:
        _check_handler(node, source, file)
    scaling = node.value.get("scaling")
    return FunctionConfig(
        name=name,
        config_file=node.file,
        runtime=values["runtime"],
        description=values["desc"],
        maintainer=values["maintainer"],
        source=source,
        handler_file=file,
        handler_name=values["handler"]["name"],
        docker_registry=values["docker_registry"],
        image=values["image"],
        environment=values["environment"],
        skip_build=values["skip_build"],
        limits={key: value for key, value in values["limits"].items() if value},
        constraints=values["constraints"],
        build_args=values["build_args"],
        build_packages=values["build_packages"],
        replicas=values["replicas"] if node.value.get("replicas") not in (None, "") else None,
        scaling={key: value for key, value in node.child("scaling").plain().items() if value is not None}
        if scaling is not None
        else None,
        concurrency=values["concurrency"] or None,
        workers=values["workers"],
        batch=values["batch"] if node.value.get("batch") else None,
        timeout=values["timeout"],
        start_timeout=values["start_timeout"],
        kill_after=values["kill_after"],
        queue=values["queue"],
        max_payload=values["max_payload"],
        debug=values["debug"],
    )


def _check_environment(node: Node) -> None:
    for element in node.child("environment").elements() if node.value.get("environment") else ():
        if element.value.startswith("DCF_"):
            raise element.refuse("another name: those that begin with DCF_ are DCF's own")


def _check_replicas(node: Node) -> None:
    if node.value.get("scaling") and node.value.get("replicas") not in (None, ""):
        raise ConfigError(
            f"{node.child('scaling').place}replicas and scaling are given both: "
            "expected one of them, a fixed number or an elastic one"
        )


def _check_scaling(node: Node) -> None:
    scaling = node.value.get("scaling") or {}
    low, high = scaling.get("min"), scaling.get("max")
    if low is not None and high is not None and low > high:
        raise node.child("scaling").child("max").refuse(f"at least min, which is {low}")
    try:
        parse_scaling({key: value for key, value in scaling.items() if value is not None})
    except InvalidInputError as error:
        place = node.child("scaling").place.removesuffix("scaling: ")
        raise ConfigError(f"{place}{error.message}") from error


def _check_versions(node: Node, build_args: Mapping[str, str]) -> None:
    for name, (form, expected) in _VERSIONS.items():
        if not build_args.get(name) or form.fullmatch(build_args[name]):
            continue
        for element in node.child("build_args").elements():
            if element.value.startswith(f"{name}="):
                raise element.refuse(expected)


def _check_handler(node: Node, source: Path, file: str) -> None:
    place = node
    for key in ("handler", "dir" if not source.is_dir() else "file"):
        if place.is_map and key in place.value:
            place = place.child(key)
    if not source.is_dir():
        raise ConfigError(f"{place.place}the folder {source} is not there: expected the folder of the sources")
    if not (source / file).is_file():
        raise ConfigError(f"{place.place}there is no {file} in {source}: expected the file with the handler")


_OPEN = Key(name="functions", kind="anything")
