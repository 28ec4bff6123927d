"""Build a function for the Docker backends: an image.

In:   FunctionConfig, and the engine that the environment names.
Out:  ImageBuild: an image under a name that changes with its content, so that an
      unchanged function is found again, and a changed one is another deployable.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker

from dcf.build.build_network import read_network
from dcf.build.build_stream import OnStep, read_stream
from dcf.build.dockerfile import function_folder
from dcf.build.engine import inspect_image, open_engine
from dcf.build.go_module import provide_module
from dcf.build.image_plan import CONTENT_LABEL, ImagePlan, plan_image
from dcf.build.project import FunctionConfig
from dcf.build.steps import OnOutput
from dcf.domain.names import parse_bundle_reference
from dcf.errors import BuildError

_WATCHER = "/opt/dcf/bin/python3"
# What a replica's watcher must be told by its image.
_CONTRACT = ("DCF_RUNTIME", "DCF_WORKER_COMMAND", "DCF_SOURCE", "DCF_HANDLER_FILE", "DCF_HANDLER_NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBuild:
    """What a build came to."""

    function: str
    reference: str
    """What `deploy` sends as the image where nothing is pushed."""
    own_tag: str
    """The name without the content's digest; "" where the image was left alone (skip_build)."""
    image_id: str
    """`sha256:...`; "" for an image that was left alone and is not on this engine."""
    base_image: str
    size_bytes: int
    """Of the whole image, unpacked; 0 where it is not known."""
    added_bytes: int | None
    """Of what stands on the base: watcher, Python, packages, sources. None where the base is not on this engine."""
    seconds: float
    reused: bool
    """Nothing had changed since an earlier build."""
    notices: tuple[str, ...]
    """What of the config does not act as it may seem, for people."""


def build_image(
    config: FunctionConfig,
    *,
    ca: Path | None,
    environ: Mapping[str, str],
    on_step: OnStep,
    on_output: OnOutput,
    pull: bool = False,
) -> ImageBuild:
    """Build, or find what an earlier build made of the same.

    Args:
        ca: certificates (PEM) that pip trusts beside the public ones; None for what the environment says.
        on_step: is given each line of the Dockerfile as it begins, and the bytes of what is fetched.
        on_output: is given every line of output as it comes.
        pull: build in any case, on the base as its registry has it now.

    Raises:
        BuildError: with the failing step and its last lines.
    """
    begun_s = time.monotonic()
    with open_engine(environ) as engine:
        build = _left_alone(engine, config) if config.skip_build else None
        if build is None:
            if config.runtime == "go":
                provide_module(function_folder(config), config.source)
            plan = plan_image(config)
            build = None if pull else _find(engine, plan)
            build = build or _build(engine, plan, ca, environ, on_step, on_output, pull)
    return replace(build, seconds=time.monotonic() - begun_s)


def find_built_image(config: FunctionConfig, environ: Mapping[str, str]) -> ImageBuild | None:
    """The image of the function as it is now, None where it has to be built. Raises BuildError."""
    with open_engine(environ) as engine:
        return _left_alone(engine, config) if config.skip_build else _find(engine, plan_image(config))


def write_context(config: FunctionConfig, folder: Path, *, ca: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Write what a build is given to `folder`, for `docker buildx build` by hand.

    Returns:
        The command. It holds no password: an index's address is taken from the environment there.

    Raises:
        BuildError: also where `folder` is there already.
    """
    if folder.exists():
        raise BuildError(f"{folder} is there already, and nothing is overwritten: take another name, or remove it")
    plan, network = plan_image(config), read_network(environ, ca)
    plan.context.write_folder(folder, plan.dockerfile.text, network.certificates)
    command = ["docker", "buildx", "build", "--load", "--tag", plan.reference, "--tag", plan.own_tag]
    for name, value in plan.build_args.items():
        command += ["--build-arg", f"{name}={value}"]
    for name in network.build_args:  # without a value: docker takes it from its own environment
        command += ["--build-arg", name]
    for name, value in plan.labels.items():
        command += ["--label", f"{name}={value}"]
    return [*command, str(folder)]


def command_line(command: list[str]) -> str:
    """For a shell."""
    return shlex.join(command)


def _build(
    engine: docker.APIClient,
    plan: ImagePlan,
    ca: Path | None,
    environ: Mapping[str, str],
    on_step: OnStep,
    on_output: OnOutput,
    pull: bool,
) -> ImageBuild:
    network = read_network(environ, ca)
    with tempfile.TemporaryFile() as tar:
        plan.context.write_tar(tar, plan.dockerfile.text, network.certificates)
        tar.seek(0)
        messages = engine.build(
            fileobj=tar,
            custom_context=True,
            tag=plan.reference,
            buildargs=dict(plan.build_args) | dict(network.build_args),
            labels=dict(plan.labels),
            pull=pull,
            rm=True,
            forcerm=True,
            decode=True,
        )
        end = read_stream(
            messages,
            what=f"build {plan.function}",
            on_step=on_step,
            on_output=on_output,
            hide=network.hide,
            arguments=plan.build_args,
        )
    build = _find(engine, plan)
    if build is None:
        raise BuildError(f"could not build {plan.function}: the engine made no {plan.reference}; build again")
    return replace(build, reused=False, notices=(*plan.notices, *end.notices))


def _find(engine: docker.APIClient, plan: ImagePlan) -> ImageBuild | None:
    image = inspect_image(engine, plan.reference)
    if image is None or (image["Config"].get("Labels") or {}).get(CONTENT_LABEL) != plan.digest:
        return None
    _check_contract(plan, image["Config"])
    # The user's own name moves to what is built now, also back to an earlier content.
    engine.tag(plan.reference, plan.name.repository, plan.name.tag)
    return ImageBuild(
        function=plan.function,
        reference=plan.reference,
        own_tag=plan.own_tag,
        image_id=image["Id"],
        base_image=plan.base_image,
        size_bytes=image["Size"],
        added_bytes=_added_bytes(engine, image["Size"], plan.base_image),
        seconds=0.0,
        reused=True,
        notices=plan.notices,
    )


def _check_contract(plan: ImagePlan, config: Mapping[str, Any]) -> None:
    names = {str(one).partition("=")[0] for one in config.get("Env") or []}
    entrypoint = list(config.get("Entrypoint") or [""])
    missing = [name for name in _CONTRACT if name not in names]
    if entrypoint[0] == _WATCHER and not missing:
        return
    what = f"ENV {', '.join(missing)}" if missing else f'ENTRYPOINT ["{_WATCHER}", ...]'
    raise BuildError(
        f"{plan.dockerfile.file or 'the Dockerfile'}: the image it makes cannot run as a function: its last stage "
        f"has no {what}; `dcf function init` writes a Dockerfile that has"
    )


def _added_bytes(engine: docker.APIClient, size: int, base_image: str) -> int | None:
    base = inspect_image(engine, base_image)
    return int(size - base["Size"]) if base else None  # a builder with a cache of its own keeps it


def _left_alone(engine: docker.APIClient, config: FunctionConfig) -> ImageBuild:
    if not config.image or parse_bundle_reference(config.image) is not None:
        raise BuildError(
            f"{config.name} says skip_build and names no image: name one that DCF built, or set skip_build to false"
        )
    image = inspect_image(engine, config.image) or {}
    return ImageBuild(
        function=config.name,
        reference=config.image,
        own_tag="",
        image_id=image.get("Id", ""),
        base_image="",
        size_bytes=image.get("Size", 0),
        added_bytes=None,
        seconds=0.0,
        reused=True,
        notices=(f"skip_build: {config.image} is taken as it is",),
    )
