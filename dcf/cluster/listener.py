"""The one listening socket that all gateway processes of a cluster share.

Their parent makes it, so that no connection is reset when one of them ends.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path
from typing import cast

from dcf.errors import ConfigError

BACKLOG = 1024
"""Connections that wait for a gateway to accept them; while all restart, they wait here."""


def check_exposure(listen: str, *, token: str = "", token_file: Path | None, insecure: bool) -> None:
    """Raises ConfigError where anyone could deploy: no loopback address, no token, not allowed."""
    if token_file and not token:
        try:
            empty = not token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token file {token_file} cannot be read: {error}") from error
        if empty:
            raise ConfigError(f"the token file {token_file} is empty: expected one line with the cluster's token")
    if token or token_file or insecure:
        return
    address = _resolve(listen)[1][0]
    if not ipaddress.ip_address(str(address).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"{listen} can be reached from other machines, and without a token anyone could deploy there: "
            "give a token with --token-file FILE (DCF_TOKEN_FILE, DCF_TOKEN), listen on 127.0.0.1, or say --insecure"
        )


def open_listener(listen: str) -> socket.socket:
    """A socket that listens at `listen`. Raises ConfigError that says what to do."""
    family, address = _resolve(listen)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_explain(listen, error)) from error
    return listener


def listen_error(listen: str) -> str:
    """Why one cannot listen at `listen` now, and what to do; "" where one can. Raises ConfigError for its form."""
    _resolve(listen)
    try:
        open_listener(listen).close()
    except ConfigError as error:
        return str(error)
    return ""


def address_of(listener: socket.socket, *, dialled: bool = False) -> str:
    """host:port with its real port; `dialled`: as a client on this machine reaches it."""
    host, port = listener.getsockname()[:2]
    if dialled and ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(listen: str) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"--listen {listen!r} is not allowed: expected HOST:PORT, such as 127.0.0.1:32222")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--listen {listen}: the host {host!r} is not known ({error})") from error
    family, _, _, _, address = found[0]
    return family, cast("tuple[str | int, ...]", address)


def _explain(listen: str, error: OSError) -> str:
    choose = "choose another with --listen HOST:PORT"
    match error.errno:
        case errno.EADDRINUSE:
            return f"the address {listen} is taken by another program: stop it, or {choose}"
        case errno.EACCES | errno.EPERM:
            return f"the address {listen} needs a right that this user has not (ports below 1024 do): {choose}"
        case errno.EADDRNOTAVAIL:
            return f"the address {listen} is none of this machine: {choose}"
        case _:
            return f"the address {listen} cannot be listened on ({error.strerror}): {choose}"
