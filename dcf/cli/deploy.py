"""`dcf function deploy`: hand a built function to the cluster, and see that it runs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.describe import show_replicas
from dcf.cli.function_file import (
    FileOption,
    NamesArgument,
    VerboseOption,
    find_project,
    project_gateway,
    select_functions,
)
from dcf.cli.gateway import GatewayOption, open_gateway
from dcf.cli.image_progress import ImageProgress
from dcf.cli.output import Form, OutputOption, Progress, say, write, write_json
from dcf.cli.target import Target, require_build, target_of
from dcf.errors import DcfError, GatewayUnreachableError

if TYPE_CHECKING:
    from dcf.build.bundle import BuildResult
    from dcf.build.image import ImageBuild
    from dcf.build.project import FunctionConfig
    from dcf.client import Client, Function

POLL_S = 0.2
"""A replica takes half a second at best: shorter would only ask more."""
WAIT = "5m"
"""Longer than any start timeout that people write; a start that fails is said much earlier."""


def deploy(
    names: NamesArgument = None,
    file: FileOption = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it runs.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Wait at most this long for it to run.")
    ] = WAIT,
    no_push: Annotated[
        bool, typer.Option("--no-push", help="Leave an image on this machine: for a cluster of one engine.")
    ] = False,
    registry_auth: Annotated[
        bool,
        typer.Option("--registry-auth", help="Hand your login for the registry on to the machines that pull."),
    ] = False,
    verbose: VerboseOption = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Deploy what was built, or roll an update over replica by replica; waits until it runs.

    An image is pushed to its registry first, and what was pushed is what runs.

    \b
    Example:
      dcf function deploy -f echo/config.yaml
    """
    from dcf.client import to_json
    from dcf.domain.quantity import parse_duration

    limit_s = parse_duration(timeout)
    project = find_project(file, names)
    functions = select_functions(project, names)
    with open_gateway(gateway, file_gateway=project_gateway(project)) as client:
        target = target_of(client.info(), client.address)
        # All are looked at before the first is deployed: a file is deployed as a whole, or not at all.
        built = [(config, require_build(config, target)) for config in functions]
        if verbose:
            say(f"{target.why} runs functions on {target.backend}")
        requests = [
            _request(config, build, target, push=not no_push, registry_auth=registry_auth, verbose=verbose)
            for config, build in built
        ]
        deployed = []
        for request in requests:
            function = client.deploy(request)
            if verbose:
                say(f"{function.name}: deployed {function.image}, generation {function.generation}")
            deployed.append(function if no_wait else wait_until_settled(client, function, limit_s))
        address = client.address
    if output is Form.JSON:
        write_json(to_json(deployed))
        return
    for function in deployed:
        if no_wait:
            write(f"{function.name} is deployed; see dcf function info {function.name}")
        else:
            write(f"{function.name} is {function.status}, {show_replicas(function)} replicas: "
                  f"http://{address}/function/{function.name}")  # fmt: skip


def _request(
    config: FunctionConfig,
    build: BuildResult | ImageBuild,
    target: Target,
    *,
    push: bool,
    registry_auth: bool,
    verbose: bool,
) -> dict[str, Any]:
    """What the gateway is told; an image with a registry is there before."""
    if not target.takes_images:
        return config.deploy_request(build.reference)
    from dcf.build.image import ImageBuild
    from dcf.build.image_name import parse_image_name
    from dcf.build.registry import push_image
    from dcf.build.registry import registry_auth as login_of

    assert isinstance(build, ImageBuild)
    reference = build.reference
    if not config.skip_build:
        if not push:
            pass
        elif parse_image_name(build.reference).registry:
            progress = ImageProgress(config.name, verbose=verbose)
            try:
                reference = push_image(build, environ=os.environ, on_step=progress.on_step).reference
            finally:
                progress.clear()
        elif target.backend == "swarm":
            say(f"{config.name}: no docker_registry is named: only a machine that has {reference} can run it")
    request = config.deploy_request(reference)
    if registry_auth and (login := login_of(reference, os.environ)):
        request["registryAuth"] = login
    return request


def wait_until_settled(client: Client, deployed: Function, limit_s: float) -> Function:
    """Return when what was deployed is what runs. Raises DcfError with the reason and the log's end."""
    progress, end_at = Progress(), time.monotonic() + limit_s
    function = deployed
    try:
        while True:
            try:
                function = client.describe(deployed.name)
            except GatewayUnreachableError:
                # One of several gateway processes may just be restarting; the deadline ends it.
                if time.monotonic() >= end_at:
                    raise
            if function.generation > deployed.generation:
                raise DcfError(f"{function.name}: somebody deployed a newer version meanwhile")
            if function.generation == deployed.generation:
                if function.settled:
                    return function
                if function.failed:
                    raise DcfError(describe_trouble(function, "could not be started"))
            if time.monotonic() >= end_at:
                raise DcfError(
                    describe_trouble(function, f"is not ready after {limit_s:g} s, and is still being tried")
                )
            progress.show(
                f"{function.name}: {show_replicas(function)} replicas ready"
                + (f", {function.reason}" if function.reason else "")
            )
            time.sleep(POLL_S)
    finally:
        progress.clear()


def describe_trouble(function: Function, what: str) -> str:
    """Name, reason, and what the replica that failed said last."""
    text = f"{function.name} {what}" + (f": {function.reason}" if function.reason else "")
    if function.log_tail:
        text += "\nlast lines of its log:\n" + "\n".join(f"  {line}" for line in function.log_tail)
    if function.available_replicas:
        text += f"\nthe version before it still answers ({function.available_replicas} replicas)"
    return text


def add_to(group: typer.Typer) -> None:
    """The verb of this file."""
    group.command("deploy")(deploy)
