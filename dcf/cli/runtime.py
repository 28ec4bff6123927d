"""`dcf runtime list`: the languages that functions are written in."""

from __future__ import annotations

import typer

from dcf.cli.output import Form, OutputOption, write_json, write_table


def list_runtimes(output: OutputOption = Form.TABLE) -> None:
    """List the runtimes, what this machine has of them, and their build arguments.

    \b
    Example:
      dcf runtime list
    """
    from dcf.build.runtimes import list_runtimes as read_runtimes
    from dcf.build.toolchains import version_here
    from dcf.client.facts import to_json

    runtimes = [read_runtimes()[name] for name in sorted(read_runtimes())]
    here = {runtime.name: version_here(runtime.name) for runtime in runtimes}
    if output is Form.JSON:
        write_json([to_json(runtime) | {"here": here[runtime.name]} for runtime in runtimes])
        return
    write_table(
        ("Runtime", "Versions", "Here", "Description", "Build arguments"),
        [
            (one.name, one.versions, here[one.name] or "-", one.description, ", ".join(one.build_args))
            for one in runtimes
        ],
    )


def add_to(group: typer.Typer) -> None:
    """The verb of this file."""
    group.command("list")(list_runtimes)
