"""The function file that a command works on, and what was built from it.

Order: -f, ./NAME/config.yaml, ./config.yaml. Bundles are where the gateway
reads them, if it is on this machine; else in the user's own folder.
"""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcf.errors import BuildError

if TYPE_CHECKING:
    from dcf.build.bundle import BuildResult
    from dcf.build.project import FunctionConfig, Project
    from dcf.client import ClusterInfo

FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="FILE", help="Function file; else ./NAME/config.yaml or ./config.yaml."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done.")]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Functions of the file; all without a name.")
]


def find_project(file: Path | None, names: list[str] | None) -> Project:
    """Load the file that is meant. Raises ConfigError."""
    from dcf.build.project import find_config, load_project

    if file is not None:
        return load_project(file)
    return load_project(find_config(Path(), names[0] if names else ""))


def select_functions(project: Project, names: list[str] | None) -> list[FunctionConfig]:
    """Those that were named, all without a name. Raises ConfigError for one that the file has not."""
    return [project.function(name) for name in dict.fromkeys(names or project.functions)]


def project_gateway(project: Project) -> tuple[str, Path] | None:
    """The gateway that the file names, and the file."""
    return (project.gateway, project.path) if project.gateway else None


def bundles_of(info: ClusterInfo, address: str) -> Path:
    """The gateway's folder if the gateway is on this machine, else the user's own."""
    return Path(info.bundles) if info.bundles and _is_here(address) else own_bundles()


def own_bundles() -> Path:
    """$DCF_BUNDLES, else ~/.dcf/bundles."""
    from dcf.cluster.state import default_bundles

    return default_bundles(os.environ)


def _is_here(address: str) -> bool:
    """Whether the host is this machine: only an address of its own can be bound."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True


def require_built(config: FunctionConfig, bundles: Path) -> BuildResult:
    """The bundle of the function as it is now. Raises BuildError that names the command where there is none."""
    from dcf.build.bundle import build_function, find_built

    if config.skip_build:
        return build_function(config, bundles, on_output=lambda line: None)
    if result := find_built(config, bundles):
        return result
    command = f"dcf function build -f {shlex.quote(str(config.config_file))} {config.name}"
    earlier = any((bundles / config.name).glob("*/bundle.json"))
    what = "its sources or its config have changed since the last build" if earlier else "it has not been built"
    raise BuildError(f"{config.name}: {what}; build it first: {command}")
