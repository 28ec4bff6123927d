"""Which gateway a command talks to, and a client for it.

Order: --gateway, DCF_GATEWAY, the function's config file, `dcf config set
gateway`, the cluster on this machine, 127.0.0.1:32222.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.user_config import read_user_config
from dcf.errors import ConfigError, DcfError, FunctionNotFoundError

if TYPE_CHECKING:
    from dcf.client import Client

DEFAULT_GATEWAY = "127.0.0.1:32222"

GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        "-g",
        metavar="HOST:PORT",
        help="Gateway to talk to; else DCF_GATEWAY, the function's config.yaml, dcf config, the cluster here.",
    ),
]


@dataclass(frozen=True, slots=True)
class Choice:
    """A gateway's address, and who named it."""

    address: str
    named_by: str


def choose_gateway(option: str | None, file_gateway: tuple[str, Path] | None = None) -> Choice:
    """The first address that somebody named.

    Args:
        file_gateway: what the function's config file says, and which file it is.
    """
    if option:
        return Choice(option, "--gateway")
    if named := os.environ.get("DCF_GATEWAY"):
        return Choice(named, "DCF_GATEWAY")
    if file_gateway and file_gateway[0]:
        return Choice(file_gateway[0], str(file_gateway[1]))
    if named := read_user_config().get("gateway"):
        return Choice(named, "dcf config")
    if named := local_gateway():
        return Choice(named, "the cluster on this machine")
    return Choice(DEFAULT_GATEWAY, "default")


def local_gateway() -> str | None:
    """The address of the cluster that runs on this machine with the default state folder."""
    from dcf.cli.cluster import running_address

    return running_address() or None


def read_token() -> str | None:
    """The token for management calls, from DCF_TOKEN, DCF_TOKEN_FILE or `dcf config set token_file`.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if token := os.environ.get("DCF_TOKEN"):
        return token
    name = os.environ.get("DCF_TOKEN_FILE") or read_user_config().get("token_file")
    if not name:
        return None
    try:
        token = Path(name).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {name} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"the token file {name} is empty: expected one line with the cluster's token")
    return token


def file_gateway_here(name: str | None = None) -> tuple[str, Path] | None:
    """`dcf.gateway` of ./config.yaml or ./NAME/config.yaml.

    A file that cannot be read is nobody's answer: `list` must work beside a broken config.yaml,
    and the verbs that do read the file say what is wrong with it.
    """
    for path in (Path("config.yaml"), *([Path(name) / "config.yaml"] if name else [])):
        if not path.is_file():
            continue
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            data: Any = YAML(typ="safe", pure=True).load(path.read_text())
        except (OSError, UnicodeDecodeError, YAMLError):
            continue
        if not isinstance(data, dict) or (name and name not in (data.get("functions") or {})):
            continue
        block = data.get("dcf")
        if isinstance(block, dict) and isinstance(block.get("gateway"), str) and block["gateway"]:
            return block["gateway"], path
    return None


@contextmanager
def open_gateway(
    option: str | None, *, name: str | None = None, file_gateway: tuple[str, Path] | None = None
) -> Iterator[Client]:
    """A client for the chosen gateway; an unknown function's error says which there are."""
    from dcf.client import Client

    choice = choose_gateway(option, file_gateway or file_gateway_here(name))
    try:
        client = Client(choice.address, token=read_token())
    except ConfigError as error:
        raise ConfigError(f"{error} (from {choice.named_by})") from error
    with client:
        try:
            yield client
        except FunctionNotFoundError as error:
            more = "" if "did you mean" in error.message else _suggestion(client, name or error.function)
            raise FunctionNotFoundError(error.message + more, function=error.function) from error


def _suggestion(client: Client, name: str) -> str:
    """The name that comes near, else what there is."""
    import difflib

    try:
        known = sorted(function.name for function in client.list())
    except DcfError:
        return ""
    if near := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]!r}?"
    if not known:
        return "; no function is deployed yet"
    return f"; deployed: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
