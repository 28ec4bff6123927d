"""The images that builds start from: the real ones, or stand-ins made on the spot.

In:   an engine. Out: `python:3.11-slim` and `redis:7-alpine` in it.
A stand-in is a Debian with Python and Redis, made by debootstrap once a machine and kept as a tar in the
user's cache. It carries LABEL, and only stand-ins that this run brought are removed at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

from tests.engine.commands import missing, run
from tests.engine.host_engine import Engine

PYTHON = "python:3.11-slim"
REDIS = "redis:7-alpine"
LABEL = "dcf.stand-in"

_REDIS_COMMAND = ("redis-server", "--protected-mode", "no")  # the official image opens it up too

SUITE = "bookworm"  # its Python is 3.11, its Redis 7.0
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates", "redis-server")

BUILD_S = 300.0
"""debootstrap takes 52 s on two idle cores."""

PULL_S = 60.0
"""Where no registry can be reached, `docker pull` says so within a second or two."""

# The official image has `python`, an open site-packages, no manuals and no package lists.
_LIKE_THE_REAL_ONE = """
set -e
cd "$1"
ln -s /usr/bin/python3 usr/local/bin/python
rm -f usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/locale var/log/*.log
"""


def provide_base_images(engine: Engine) -> tuple[str, ...]:
    """Have PYTHON and REDIS in `engine`; returns the references that are stand-ins brought by this call."""
    absent = [reference for reference in (PYTHON, REDIS) if not _is_there(engine.client, reference)]
    if not engine.ours:
        # Where an engine of ours is started there is no user, and mostly no registry either.
        absent = [reference for reference in absent if not pull(engine, reference)]
    if PYTHON in absent:
        _import(engine.client, PYTHON, "python3")
    if REDIS in absent and PYTHON in absent:
        _derive(engine.client, REDIS, PYTHON, _REDIS_COMMAND)
    elif REDIS in absent:
        _import(engine.client, REDIS, *_REDIS_COMMAND)
    return tuple(absent)


def remove_stand_ins(client: docker.DockerClient, references: tuple[str, ...]) -> None:
    """Take stand-ins out of an engine again, those derived from others first."""
    for reference in sorted(references, key=(REDIS, PYTHON).index):
        # An image that a developer built on it and keeps needs its layers: the engine refuses.
        with suppress(APIError):
            client.images.remove(reference)


def stand_in() -> Path:
    """The stand-in's root filesystem as a tar; made where this machine has none yet."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, _LIKE_THE_REAL_ONE)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dcf-tests"
    tar = cache / f"base-{key}.tar"
    if tar.exists():
        return tar
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        missing(f"{PYTHON} can be neither pulled nor made: making it needs root and the package debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dcf-base-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        run(
            *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)),
            within_s=BUILD_S,
        )
        run("sh", "-c", _LIKE_THE_REAL_ONE, "sh", str(root))
        # A run that is killed half-way, or two at once, must not leave half a tar under the name.
        half = Path(tempfile.mkstemp(prefix="base-", suffix=".part", dir=cache)[1])
        try:
            run("tar", "--create", "--one-file-system", "--numeric-owner", f"--directory={root}", f"--file={half}", ".")
            half.rename(tar)
        finally:
            half.unlink(missing_ok=True)
    return tar


def _is_there(client: docker.DockerClient, reference: str) -> bool:
    try:
        client.images.get(reference)
    except ImageNotFound:
        return False
    return True


def pull(engine: Engine, reference: str) -> bool:
    """Try the registry; by the command, because the SDK has no limit for the whole of a pull."""
    if shutil.which("docker") is None:
        return False
    try:
        run("docker", "--host", engine.url, "pull", "--quiet", reference, within_s=PULL_S)
    except (RuntimeError, subprocess.TimeoutExpired):
        return False
    return True


def _import(client: docker.DockerClient, reference: str, *command: str) -> None:
    repository, tag = reference.split(":")
    changes = [f"LABEL {LABEL}=1", f"CMD {json.dumps(command)}"]
    client.api.import_image_from_file(str(stand_in()), repository=repository, tag=tag, changes=changes)
    client.images.get(reference)


def _derive(client: docker.DockerClient, reference: str, base: str, command: tuple[str, ...]) -> None:
    """A second name with another command on the same layers."""
    dockerfile = f"FROM {base}\nCMD {json.dumps(command)}\n"
    client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=reference, rm=True)
