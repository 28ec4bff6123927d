"""`dcf runtime list`: the languages that functions are written in."""

from __future__ import annotations

import typer

from dcf.cli.output import Form, OutputOption, write_json, write_table


def list_runtimes(output: OutputOption = Form.TABLE) -> None:
    """List the runtimes and their build arguments.

    \b
    Example:
      dcf runtime list
    """
    from dcf.build.runtimes import list_runtimes as read_runtimes
    from dcf.client.facts import to_json

    runtimes = [read_runtimes()[name] for name in sorted(read_runtimes())]
    if output is Form.JSON:
        write_json(to_json(runtimes))
        return
    write_table(
        ("Runtime", "Versions", "Description", "Build arguments"),
        [(runtime.name, runtime.versions, runtime.description, ", ".join(runtime.build_args)) for runtime in runtimes],
    )


def add_to(group: typer.Typer) -> None:
    """The verb of this file."""
    group.command("list")(list_runtimes)
