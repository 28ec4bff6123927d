"""`dcf function run`: try a built function here, before any deployment."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dcf.cli.function_file import FileOption, find_bundles, find_project, require_built
from dcf.cli.gateway import GatewayOption
from dcf.cli.invoke import DataOption, HeaderOption, read_headers, read_input
from dcf.cli.output import say, write_bytes
from dcf.errors import BuildError


def run(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: FileOption = None,
    data: DataOption = None,
    header: HeaderOption = None,
    gateway: GatewayOption = None,
) -> None:
    """Run a built function once on stdin or --data; its answer goes to stdout, its output to stderr.

    \b
    Example:
      echo Hello | dcf function run echo
    """
    from dcf.cli.local_replica import open_local_replica
    from dcf.domain.bundle import SOURCE, watcher_environment
    from dcf.domain.function import parse_spec

    project = find_project(file, [name])
    config = project.function(name)
    built = require_built(config, find_bundles(gateway, project))
    manifest, folder = built.manifest, built.folder
    if manifest is None or folder is None:
        raise BuildError(f"{name} says skip_build: {built.reference} is no bundle, and cannot be run here")
    spec = parse_spec(config.deploy_request(built.reference))
    metadata = read_headers(header or [])
    body = read_input(data, None)
    source = folder / SOURCE

    def environment(address: str) -> dict[str, str]:
        return watcher_environment(spec, manifest, replica=f"{name}-local", listen=address, source=str(source))

    signal.signal(signal.SIGTERM, _on_terminate)
    with open_local_replica(environment, cwd=Path(source), on_output=say) as replica:
        replica.wait_until_ready(spec.start_timeout_s)
        answer = replica.call(body, metadata, spec.timeout_s)
    write_bytes(answer)


def _on_terminate(number: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, so that the replica ends too."""
    raise KeyboardInterrupt


def add_to(group: typer.Typer) -> None:
    """The verb of this file."""
    group.command("run")(run)
