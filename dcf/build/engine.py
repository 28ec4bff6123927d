"""The Docker engine of whoever builds: found as Docker's own programs find it.

In:   the environment (DOCKER_HOST and its like). Out: a client that has had an answer.
One client for one use and one thread: the SDK's is not safe across threads.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from dcf.errors import BuildError

ANSWER_S = 10
"""An engine answers a ping in milliseconds; one that loads its state may take seconds."""
SILENCE_S = 3600
"""A compiler may be silent for long; an engine that is gone breaks the connection at once."""


@contextmanager
def open_engine(environ: Mapping[str, str]) -> Iterator[docker.APIClient]:
    """A client of the engine, with its API's version agreed.

    Raises:
        BuildError: none answers, or we may not speak to it; with what to do. Also for what the block lets
            through of the SDK's errors.
    """
    where = environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        _try_socket(where)
        with closing(_client(environ, "1.24")) as unversioned:
            version = str(unversioned.version(api_version=False)["ApiVersion"])
    except (DockerException, RequestException, OSError, ValueError, KeyError) as error:
        raise BuildError(_no_engine(where, error)) from error
    client = _client(environ, version)
    client.timeout = SILENCE_S
    try:
        yield client
    except APIError as error:
        raise BuildError(f"the Docker engine at {where} refused: {error.explanation or error}") from error
    except (DockerException, RequestException) as error:
        raise BuildError(f"the Docker engine at {where} went away: {error}") from error
    finally:
        client.close()


def has_engine(environ: Mapping[str, str]) -> bool:
    """Whether one answers."""
    try:
        with open_engine(environ):
            return True
    except BuildError:
        return False


def _client(environ: Mapping[str, str], version: str) -> docker.APIClient:
    return docker.from_env(version=version, environment=dict(environ), timeout=ANSWER_S).api


def _try_socket(where: str) -> None:
    """Raises OSError where nobody listens: the SDK would leave its own socket open then."""
    if where.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(where.removeprefix("unix://"))


def inspect_image(engine: docker.APIClient, reference: str) -> dict[str, Any] | None:
    """What the engine says about an image; None where it has none of that name."""
    try:
        return dict(engine.inspect_image(reference))  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None


def _no_engine(where: str, error: BaseException) -> str:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return (
            f"no access to the Docker engine at {where}: become a member of its group "
            "(sudo usermod -aG docker $USER, then log in anew), or build a bundle: --backend process"
        )
    return (
        f"no Docker engine answers at {where}: start it (sudo systemctl start docker, or Docker Desktop), "
        f"name another one with DOCKER_HOST, or build a bundle: --backend process ({_innermost(error)})"
    )


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return str(error)
