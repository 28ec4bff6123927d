"""Examine the machine itself: Python, Redis, the port, disk, Docker's commands."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dcf.cluster.doctor import Check, missing, ok, warning
from dcf.cluster.listener import listen_error
from dcf.errors import ConfigError
from dcf.store.embedded import find_redis_server, redis_version

OLDEST = (3, 11)
FREE_BYTES = 2 * 1024**3
"""A function's environment with a framework in it is about that large."""
COMMAND_S = 10.0
PORT = "port"


def check_host(environ: Mapping[str, str], *, backend: str | None, listen: str, own_address: str) -> list[Check]:
    """What does not depend on an engine, and the commands that people use one by."""
    checks = [check_python(), check_port(listen, own_address)]
    if backend != "swarm":
        checks.append(check_redis(environ))
    checks.append(check_disk(Path(environ.get("HOME") or Path.home())))
    if backend != "process":
        checks.append(check_compose(environ))
    if backend in {"swarm", None}:
        checks.append(check_docker_command(environ))
    return checks


def check_python() -> Check:
    """Of DCF itself; which ones functions may ask for is another question."""
    have = platform.python_version()
    if sys.platform != "linux":
        return missing("system", f"{sys.platform}", "run DCF on Linux, or in a virtual machine with Linux")
    if sys.version_info[:2] < OLDEST:
        return missing("python", have, "install Python 3.11 or 3.12, and DCF in an environment of it")
    return ok("python", f"{have} at {sys.executable}")


def check_redis(environ: Mapping[str, str]) -> Check:
    """The private one that `up` starts."""
    if url := environ.get("DCF_REDIS"):
        return ok("redis", f"DCF_REDIS={url} is used")
    try:
        binary = find_redis_server(environ.get("PATH"))
        version = ".".join(map(str, redis_version(binary)))
    except ConfigError as error:
        found, _, mend = str(error).partition(": ")
        return missing("redis", found, mend)
    return ok("redis", f"{version} at {binary}")


def check_port(listen: str, own_address: str) -> Check:
    """Whether the gateway could listen there now."""
    if own_address and own_address.rpartition(":")[2] == listen.rpartition(":")[2]:
        return ok(PORT, f"{listen}: the cluster that runs here has it")
    try:
        error = listen_error(listen)
    except ConfigError as refused:
        return missing(PORT, str(refused), "say --listen HOST:PORT, such as 127.0.0.1:32222")
    if error:
        found, _, mend = error.partition(": ")
        return missing(PORT, found, mend)
    return ok(PORT, f"{listen} is free")


def check_disk(folder: Path) -> Check:
    """Room for builds."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return missing("disk", f"{folder}: {error.strerror}", "give this user a home folder that he can write")
    text = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < FREE_BYTES:
        return warning("disk", text, f"make room: a function with a framework in it takes {FREE_BYTES >> 30} GiB")
    return ok("disk", text)


def check_compose(environ: Mapping[str, str]) -> Check:
    """For compose/local.yaml; `dcf up` does without."""
    for command in (["docker", "compose", "version", "--short"], ["docker-compose", "version", "--short"]):
        version = run_line(command, environ)
        if version is not None:
            name = " ".join(command[:-2])
            if version.lstrip("v").startswith(("1.", "0.")) and _numbers(version) < (1, 29):
                return warning("compose", f"{name} {version}", "install 1.29 or later for compose/local.yaml")
            return ok("compose", f"{name} {version}")
    mend = "install docker-compose-plugin (or docker-compose) for compose/local.yaml; dcf up does without"
    return warning("compose", "neither `docker compose` nor docker-compose is there", mend)


def check_docker_command(environ: Mapping[str, str]) -> Check:
    """`docker stack deploy` is what reads compose/swarm.yaml."""
    version = run_line(["docker", "version", "--format", "{{.Client.Version}}"], environ, good_only=False)
    if version is None:
        mend = "install Docker's command (docker-ce-cli; Debian: docker-cli): a stack is deployed with it"
        return missing("docker command", "docker is not on PATH", mend, backend="swarm")
    return ok("docker command", version or "there", backend="swarm")


def run_line(command: list[str], environ: Mapping[str, str], *, good_only: bool = True) -> str | None:
    """The first line that `command` writes; None where it cannot be run, or (with `good_only`) fails."""
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and good_only:
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else ""


def can_connect(host: str, port: int, timeout_s: float) -> bool:
    """Whether something accepts a connection there."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.lstrip("v").split(".")
    return tuple(int(part) for part in parts[:2] if part.isdigit())
