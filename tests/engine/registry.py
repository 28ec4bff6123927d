"""A registry to push to and pull from: Debian's docker-registry, with a configuration of its own.

In:   the address that engines reach it at; a user and a password where it is to demand them.
Out:  Registry: its `address` is the first part of an image's name. Its storage is a folder that goes with it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import SESSION_PIDS
from tests.engine.commands import FOLDER, end_of, missing, run, wait_for

PROGRAM = "docker-registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that answers; plain HTTP."""

    address: str
    """host:port, as engines reach it."""

    user: str | None = None
    password: str | None = None

    def name_of(self, image: str) -> str:
        """The reference under which `image` ("echo:1") is pushed here."""
        return f"{self.address}/{image}"


@contextmanager
def running_registry(
    host: str, port: int = 0, *, user: str | None = None, password: str | None = None
) -> Iterator[Registry]:
    """A registry at `host`, at a free port where none is given; the user is let in by htpasswd.

    Raises:
        RuntimeError: it did not start; with the end of its log.
    """
    if shutil.which(PROGRAM) is None:
        missing(f"no {PROGRAM} on PATH: install the package {PROGRAM}")
    port = port or _free_port(host)
    folder = FOLDER / f"registry-{port}"
    folder.mkdir(parents=True)
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{host}:{port}"},
    }
    if user is not None and password is not None:
        settings["auth"] = {"htpasswd": {"realm": "dcf tests", "path": str(folder / "htpasswd")}}
        (folder / "htpasswd").write_text(f"{user}:{_bcrypt(password)}\n")
    # JSON is YAML.
    (folder / "config.yml").write_text(json.dumps(settings))
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", PROGRAM, "serve", str(folder / "config.yml")],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    SESSION_PIDS.add(process.pid)

    def listens() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{PROGRAM} ended {end_of(log)}")
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0

    try:
        wait_for(listens, within_s=10.0, what=f"{PROGRAM} at {host}:{port}", said=lambda: end_of(log))
        yield Registry(address=f"{host}:{port}", user=user, password=password)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _bcrypt(password: str) -> str:
    """The only hash that the registry takes; perl is on every Debian, and its crypt knows it."""
    salt = "$2b$05$abcdefghijklmnopqrstuu"
    return run("perl", "-e", "print crypt($ARGV[0], $ARGV[1])", password, salt)
