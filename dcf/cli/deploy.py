"""`dcf function deploy`: hand a built function to the cluster, and see that it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from dcf.cli.describe import show_replicas
from dcf.cli.function_file import (
    FileOption,
    NamesArgument,
    VerboseOption,
    bundles_of,
    find_project,
    project_gateway,
    require_built,
    select_functions,
)
from dcf.cli.gateway import GatewayOption, open_gateway
from dcf.cli.output import Form, OutputOption, Progress, say, write, write_json
from dcf.errors import DcfError, GatewayUnreachableError

if TYPE_CHECKING:
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
    verbose: VerboseOption = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Deploy what was built, or roll an update over replica by replica; waits until it runs.

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
        bundles = bundles_of(client.info(), client.address)
        # All are looked at before the first is deployed: a file is deployed as a whole, or not at all.
        built = [(config, require_built(config, bundles)) for config in functions]
        if verbose:
            say(f"gateway {client.address}, bundles in {bundles}")
        deployed = []
        for config, result in built:
            function = client.deploy(config.deploy_request(result.reference))
            if verbose:
                say(f"{config.name}: deployed {function.image}, generation {function.generation}")
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
