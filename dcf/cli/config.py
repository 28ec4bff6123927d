"""`dcf config`: set once what every command needs."""

from __future__ import annotations

from typing import Annotated

import typer

from dcf.cli.gateway import choose_gateway, file_gateway_here
from dcf.cli.output import Form, OutputOption, write, write_facts, write_json
from dcf.cli.user_config import KEYS, check_key, config_path, read_user_config, write_user_config


def set_value(
    key: Annotated[str, typer.Argument(metavar="KEY", help=f"One of {', '.join(KEYS)}.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help='The new value; "" forgets it.')],
) -> None:
    """Set one value, such as the gateway's address.

    \b
    Example:
      dcf config set gateway gateway.example.org:32222
    """
    check_key(key)
    if key == "gateway" and value:
        from dcf.client.calls import check_address

        value = check_address(value)
    settings = read_user_config()
    settings.pop(key, None)
    path = write_user_config(settings | ({key: value} if value else {}))
    write(f"{key} is {value} ({path})" if value else f"{key} is not set any more ({path})")


def show(output: OutputOption = Form.TABLE) -> None:
    """Show what is set, and which gateway commands talk to.

    \b
    Example:
      dcf config show
    """
    settings = read_user_config()
    choice = choose_gateway(None, file_gateway_here())
    if output is Form.JSON:
        used = {"address": choice.address, "namedBy": choice.named_by}
        write_json({"file": str(config_path()), "settings": settings, "gateway": used})
        return
    write_facts(
        [
            ("file", str(config_path())),
            *((key, settings.get(key, "(not set)")) for key in KEYS),
            ("in use", f"gateway {choice.address} (from {choice.named_by})"),
        ]
    )


def add_to(group: typer.Typer) -> None:
    """The verbs of this file."""
    group.command("set")(set_value)
    group.command("show")(show)
