"""`dcf function` init, build: from nothing to something that can be run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcf.cli.function_file import (
    FileOption,
    NamesArgument,
    VerboseOption,
    find_bundles,
    find_project,
    select_functions,
)
from dcf.cli.gateway import GatewayOption
from dcf.cli.output import Form, OutputOption, Progress, say, write, write_json


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the function, and of its folder.")],
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="RUNTIME", help="A line of dcf runtime list.")
    ] = "python",
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="A function file to join; default: one of its own."),
    ] = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", "-g", metavar="HOST:PORT", help="Written into the function file.")
    ] = None,
) -> None:
    """Make the folder of a new function: handler, requirements, Dockerfile and config.yaml.

    \b
    Example:
      dcf function init echo --runtime python
    """
    from dcf.build.scaffold import init_function

    if gateway is not None:
        from dcf.client.calls import check_address

        gateway = check_address(gateway)
    written = init_function(name, runtime, Path(), config_file=file, gateway=gateway)
    for path in written:
        write(f"wrote {path}")
    write(f"next: dcf function build -f {written[0]}{f' {name}' if file else ''}")


def build(
    names: NamesArgument = None,
    file: FileOption = None,
    verbose: VerboseOption = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Build functions: sources and a virtual environment. What has not changed is not built again.

    \b
    Example:
      dcf function build -f echo/config.yaml
    """
    from dcf.build.bundle import build_function

    project = find_project(file, names)
    bundles = find_bundles(gateway, project)
    results = []
    for config in select_functions(project, names):
        progress = Progress()

        def on_output(line: str, name: str = config.name, progress: Progress = progress) -> None:
            if verbose:
                say(line)
            elif line.startswith("==> "):
                progress.show(f"{name}: {line.removeprefix('==> ').partition(':')[0]} ...")

        try:
            result = build_function(config, bundles, on_output=on_output)
        finally:
            progress.clear()
        results.append(result)
        for notice in result.notices:
            say(f"{config.name}: {notice}")
        if output is Form.TABLE:
            how = "unchanged" if result.reused else f"built in {result.seconds:.1f} s"
            version = f", Python {result.manifest.version}" if result.manifest else ""
            write(f"{config.name}: {how}: {result.reference}{version}")
    if output is Form.JSON:
        write_json(
            [
                {
                    "function": result.function,
                    "image": result.reference,
                    "folder": str(result.folder) if result.folder else "",
                    "reused": result.reused,
                    "seconds": round(result.seconds, 3),
                    "notices": list(result.notices),
                }
                for result in results
            ]
        )


def add_to(group: typer.Typer) -> None:
    """The verbs of this file."""
    group.command("init")(init)
    group.command("build")(build)
