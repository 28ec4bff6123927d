"""Where a cluster's Unix sockets are: in its state folder, if the path fits; whether anybody listens somewhere; and how
much they hold.

In:   the state folder and a socket's name.
Out:  a path that every process of the cluster computes alike, in a folder
      that is there and is its user's own.

The kernel takes 107 bytes of path. A deeper state folder has its sockets in
/tmp instead. Neither TMPDIR nor XDG_RUNTIME_DIR is asked: `dcf down` may run
in another shell than `dcf up` did and must find the same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
from pathlib import Path

from dcf.errors import ConfigError

MAX_PATH_BYTES = 100
"""sockaddr_un has 108 with its final zero; redis and gRPC append a few characters to temporary names."""

YOUNG_S = 0.3
"""How long a container that was just started is not asked whether it listens. Its address answers nobody before its
interface is up, and a first question that is lost is asked again by Linux after a whole second (ARP)."""
PROBE_S = 0.25
"""On one network; a host that is off answers nothing at all."""
SEND_BYTES = 512 * 1024
"""A piece of a large body and more: written in part, it costs another turn of both loops. Linux allows the double of
what is asked for, up to net.core.wmem_max, and a Unix socket has 208 KiB by itself."""


def socket_path(state: Path, name: str) -> Path:
    """The path of socket `name`; its folder exists afterwards. Raises ConfigError where the folder is not ours."""
    state = state.absolute()
    path = state / "sockets" / name
    if len(os.fsencode(path)) >= MAX_PATH_BYTES:
        folder = _folder_in_tmp(state)
        path = folder / name
        if len(os.fsencode(path)) >= MAX_PATH_BYTES:
            path = folder / f"{_digest(name)}.sock"
    _own(path.parent)
    return path


def why_refused(path: str) -> OSError | None:
    """Why nobody answers at a Unix socket, asked by connecting to it; None where somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error
    return None


async def is_listening(address: str) -> bool:
    """Whether somebody accepts connections at a gRPC target, `unix:/path` or `host:port`; it takes at most PROBE_S.

    A try to dial costs gRPC a thousand times as much, and a replica that starts is tried many times.
    """
    loop = asyncio.get_running_loop()
    where: str | tuple[str, int]
    if address.startswith("unix:"):
        family, where = socket.AF_UNIX, address.removeprefix("unix:")
    else:
        host, _, port = address.rpartition(":")
        family, where = socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port))
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            async with asyncio.timeout(PROBE_S):
                await loop.sock_connect(probe, where)
    except (OSError, TimeoutError):  # also where this process has no descriptor left: it is asked again
        return False
    return True


def widen(sock: socket.socket) -> None:
    """Let a Unix socket take a large message at once; TCP grows by itself."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)


def leave_sockets(state: Path) -> None:
    """Remove the cluster's folder in /tmp, if it has one and nothing is in it any more."""
    with contextlib.suppress(OSError):
        _folder_in_tmp(state.absolute()).rmdir()


def _folder_in_tmp(state: Path) -> Path:
    return Path("/tmp") / f"dcf-{os.getuid()}-{_digest(str(state))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _own(folder: Path) -> None:
    # /tmp is everybody's: a folder that somebody else put there would give him our replicas.
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made for the cluster's sockets ({error.strerror})") from error
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise ConfigError(f"{folder} belongs to somebody else: remove it, or choose another state folder")
    if facts.st_mode & 0o077:
        folder.chmod(0o700)
