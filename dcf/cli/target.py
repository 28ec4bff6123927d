"""What a build is for: processes or containers, and what was built for it.

In:   --backend, else the gateway's own backend, else what this machine has.
Out:  Target; with it the bundle or the image of a function as it is now.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcf.cli.function_file import bundles_of, own_bundles, project_gateway, require_built
from dcf.cli.gateway import choose_gateway
from dcf.errors import BuildError, ConfigError, DcfError

if TYPE_CHECKING:
    from dcf.build.bundle import BuildResult
    from dcf.build.image import ImageBuild
    from dcf.build.project import FunctionConfig, Project
    from dcf.client import ClusterInfo

QUICK_S = 1.0
"""A gateway on this machine answers in milliseconds; a build must not wait for one that is not there."""

BACKENDS = ("process", "docker", "swarm")

BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="BACKEND",
        help="process (a bundle), docker or swarm (an image); else what the gateway runs, else what is here.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a function will run."""

    backend: str
    """One of BACKENDS."""
    bundles: Path
    """Where bundles are, for the process backend."""
    why: str
    """Who said so, for people."""

    @property
    def takes_images(self) -> bool:
        """Whether functions are images there, and not bundles."""
        return self.backend != "process"


def find_target(option: str | None, gateway: str | None, project: Project) -> Target:
    """What --backend says; else what a gateway that answers at once runs; else an image if an engine is here.

    Raises:
        ConfigError: the option, or the gateway's address, is none.
    """
    if option is not None and option not in BACKENDS:
        raise ConfigError(f"--backend {option!r} is not known: expected one of {', '.join(BACKENDS)}")
    if option in ("docker", "swarm"):
        return Target(backend=option, bundles=own_bundles(), why="--backend")
    info, address = _ask(gateway, project)
    if info is not None and option in (None, info.backend):
        return target_of(info, address)
    if option is not None:
        return Target(backend=option, bundles=own_bundles(), why="--backend")
    from dcf.build.engine import has_engine

    if has_engine(os.environ):
        return Target(backend="docker", bundles=own_bundles(), why="no gateway answers, and a Docker engine is here")
    return Target(backend="process", bundles=own_bundles(), why="neither a gateway nor a Docker engine answers")


def target_of(info: ClusterInfo, address: str) -> Target:
    """What the gateway at `address` runs."""
    return Target(backend=info.backend, bundles=bundles_of(info, address), why=f"the gateway at {address}")


def _ask(gateway: str | None, project: Project) -> tuple[ClusterInfo | None, str]:
    from dcf.client import Client

    choice = choose_gateway(gateway, project_gateway(project))
    try:
        with Client(choice.address) as client:
            return client.info(timeout_s=QUICK_S), client.address
    except ConfigError as error:
        raise ConfigError(f"{error} (from {choice.named_by})") from error
    except DcfError:
        return None, ""


def require_build(config: FunctionConfig, target: Target) -> BuildResult | ImageBuild:
    """What was built of the function as it is now. Raises BuildError that names the command where nothing was."""
    if not target.takes_images:
        return require_built(config, target.bundles)
    from dcf.build.image import find_built_image

    if image := find_built_image(config, os.environ):
        return image
    command = f"dcf function build -f {shlex.quote(str(config.config_file))} {config.name}"
    raise BuildError(
        f"{config.name}: there is no image of it as it is now ({target.why} wants one); build it first: {command}"
    )
