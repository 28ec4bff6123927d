"""`dcf function run`: try a built function here, before any deployment."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from dcf.cli.function_file import FileOption, find_project
from dcf.cli.gateway import GatewayOption
from dcf.cli.invoke import DataOption, HeaderOption, read_headers, read_input
from dcf.cli.output import say, write_bytes
from dcf.cli.target import BackendOption, find_target, require_build
from dcf.errors import BuildError, DcfError

if TYPE_CHECKING:
    from dcf.build.bundle import BuildResult
    from dcf.build.image import ImageBuild
    from dcf.cli.local_replica import LocalReplica
    from dcf.domain.function import FunctionSpec


def run(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: FileOption = None,
    data: DataOption = None,
    header: HeaderOption = None,
    backend: BackendOption = None,
    gateway: GatewayOption = None,
) -> None:
    """Run a built function once on stdin or --data; its answer goes to stdout, its output to stderr.

    \b
    Example:
      echo Hello | dcf function run echo
    """
    from dcf.domain.function import parse_spec

    project = find_project(file, [name])
    config = project.function(name)
    built = require_build(config, find_target(backend, gateway, project))
    spec = parse_spec(config.deploy_request(built.reference))
    gpus = _take_gpus(name, spec.gpu_count)
    metadata = read_headers(header or [])
    body = read_input(data, None)
    signal.signal(signal.SIGTERM, _on_terminate)
    with _open_replica(built, spec, gpus) as replica:
        replica.wait_until_ready(spec.start_timeout_s)
        answer = replica.call(body, metadata, spec.timeout_s)
    write_bytes(answer)


def _open_replica(
    built: BuildResult | ImageBuild, spec: FunctionSpec, gpus: tuple[str, ...]
) -> AbstractContextManager[LocalReplica]:
    """The replica as its cluster would run it: a process of a bundle, a container of an image."""
    from dcf.build.image import ImageBuild
    from dcf.cli.local_replica import open_local_replica, open_replica_process
    from dcf.domain.bundle import SOURCE, watcher_environment
    from dcf.domain.image import WATCHER_PORT, replica_environment

    ours = {"DCF_GPUS": ",".join(gpus)} if gpus else {}
    replica = f"{spec.name}-local"
    if isinstance(built, ImageBuild):
        from dcf.build.local_container import LocalContainer
        from dcf.domain.quantity import parse_cpu, parse_memory

        told = replica_environment(spec, replica=replica, listen=f"0.0.0.0:{WATCHER_PORT}")
        container = LocalContainer(
            image=built.reference,
            environment=told | ours | {"DCF_LOG_LEVEL": "error"},
            port=_free_port(),
            gpus=list(gpus),
            memory_bytes=parse_memory(spec.limits["memory"]) if "memory" in spec.limits else None,
            cpus=parse_cpu(spec.limits["cpu"]) if "cpu" in spec.limits else None,
        )
        address = f"127.0.0.1:{container.port}"
        return open_replica_process(container.command(), os.environ, address, on_output=say)
    manifest, folder = built.manifest, built.folder
    if manifest is None or folder is None:
        raise BuildError(f"{spec.name} says skip_build: {built.reference} is no bundle, and cannot be run here")
    source = folder / SOURCE

    def environment(address: str) -> dict[str, str]:
        return watcher_environment(spec, manifest, replica=replica, listen=address, source=str(source)) | ours

    return open_local_replica(environment, cwd=source, on_output=say)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _take_gpus(name: str, count: int) -> tuple[str, ...]:
    """The first of this machine's GPUs: a cluster that runs here may have given them to others. Raises DcfError."""
    if not count:
        return ()
    from dcf.domain.gpus import usable_ids
    from dcf.nvidia import list_gpus

    listing = list_gpus()
    gpus = usable_ids(listing.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if len(gpus) < count:
        why = f": {listing.problem}" if listing.problem else ""
        raise DcfError(f"{name} asks for {count} GPU (limits.gpu), and {len(gpus) or 'none'} can be used here{why}")
    return gpus[:count]


def _on_terminate(number: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, so that the replica ends too."""
    raise KeyboardInterrupt


def add_to(group: typer.Typer) -> None:
    """The verb of this file."""
    group.command("run")(run)
