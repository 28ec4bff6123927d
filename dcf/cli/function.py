"""`dcf function` init, build: from nothing to something that can be run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.function_file import (
    FileOption,
    NamesArgument,
    VerboseOption,
    find_project,
    select_functions,
)
from dcf.cli.gateway import GatewayOption
from dcf.cli.image_progress import ImageProgress
from dcf.cli.output import Form, OutputOption, Progress, say, write, write_json
from dcf.cli.target import BackendOption, find_target
from dcf.errors import ConfigError

if TYPE_CHECKING:
    from dcf.build.bundle import BuildResult
    from dcf.build.image import ImageBuild
    from dcf.build.project import FunctionConfig


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
    """Make the folder of a new function: handler, packages, config.yaml, a Dockerfile where there are images.

    \b
    Example:
      dcf function init echo --runtime python
      dcf function init words --runtime go
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
    backend: BackendOption = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Certificates (PEM) that an image's build trusts as well."),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Build an image anew, on its base as the registry has it now.")
    ] = False,
    context: Annotated[
        Path | None,
        typer.Option("--write-context", metavar="DIR", help="Build no image, but write what docker buildx takes."),
    ] = None,
    verbose: VerboseOption = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Build functions for what runs them: a bundle for processes, an image for containers.

    What has not changed is not built again.

    \b
    Example:
      dcf function build -f echo/config.yaml
      dcf function build -f echo/config.yaml --backend docker --ca company-ca.pem
    """
    project = find_project(file, names)
    functions = select_functions(project, names)
    if context is not None:
        _write_context(functions, context, ca)
        return
    target = find_target(backend, gateway, project)
    if ca is not None and not target.takes_images:
        raise ConfigError(f"--ca is for images, and {target.why} wants a bundle: set PIP_CERT for pip instead")
    if verbose:
        say(f"building for {target.backend}: {target.why}")
    facts = []
    for config in functions:
        if target.takes_images:
            facts.append(_build_image(config, ca, pull=pull, verbose=verbose, quiet=output is Form.JSON))
        else:
            facts.append(_build_bundle(config, target.bundles, verbose=verbose, quiet=output is Form.JSON))
    if output is Form.JSON:
        write_json(facts)


def _build_bundle(config: FunctionConfig, bundles: Path, *, verbose: bool, quiet: bool) -> dict[str, Any]:
    from dcf.build.bundle import build_function
    from dcf.build.runtimes import list_runtimes

    progress = Progress()

    def on_output(line: str) -> None:
        if verbose:
            say(line)
        elif line.startswith("==> "):
            progress.show(f"{config.name}: {line.removeprefix('==> ').partition(':')[0]} ...")

    try:
        result = build_function(config, bundles, on_output=on_output)
    finally:
        progress.clear()
    for notice in result.notices:
        say(f"{config.name}: {notice}")
    if not quiet:
        version = f", {list_runtimes()[config.runtime].title} {result.manifest.version}" if result.manifest else ""
        write(f"{config.name}: {_how(result)}: {result.reference}{version}")
    return _facts(result) | {"folder": str(result.folder) if result.folder else ""}


def _build_image(config: FunctionConfig, ca: Path | None, *, pull: bool, verbose: bool, quiet: bool) -> dict[str, Any]:
    from dcf.build.image import build_image

    progress = ImageProgress(config.name, verbose=verbose)
    try:
        result = build_image(
            config, ca=ca, environ=os.environ, on_step=progress.on_step, on_output=progress.on_output, pull=pull
        )
    finally:
        progress.clear()
    for notice in result.notices:
        say(f"{config.name}: {notice}")
    if not quiet:
        added = f", {result.added_bytes / 1e6:.0f} MB on {result.base_image}" if result.added_bytes is not None else ""
        write(f"{config.name}: {_how(result)}: {result.reference}{added}")
    return _facts(result) | {"imageId": result.image_id, "sizeBytes": result.size_bytes}


def _how(result: BuildResult | ImageBuild) -> str:
    return "unchanged" if result.reused else f"built in {result.seconds:.1f} s"


def _facts(result: BuildResult | ImageBuild) -> dict[str, Any]:
    return {
        "function": result.function,
        "image": result.reference,
        "reused": result.reused,
        "seconds": round(result.seconds, 3),
        "notices": list(result.notices),
    }


def _write_context(functions: list[FunctionConfig], folder: Path, ca: Path | None) -> None:
    from dcf.build.image import command_line, write_context

    if len(functions) != 1:
        names = ", ".join(one.name for one in functions)
        raise ConfigError(f"--write-context is for one function: name one of {names}")
    command = write_context(functions[0], folder, ca=ca, environ=os.environ)
    write(command_line(command))


def add_to(group: typer.Typer) -> None:
    """The verbs of this file."""
    group.command("init")(init)
    group.command("build")(build)
