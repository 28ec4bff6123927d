"""Run one replica in a container here, as a program that ends with it.

`python -m dcf.build.local_container '<json>'`: image, environment, port, gpus,
memory_bytes, cpus. The watcher's log goes to stdout; SIGTERM ends it. Nothing is
left of the container, whatever happens to it, or to who started this; only a SIGKILL
to this very process leaves it (docker ps --filter label=dcf.run=local).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from docker.errors import APIError
from docker.types import DeviceRequest
from requests import RequestException

from dcf.build.engine import open_engine
from dcf.domain.image import CONFINEMENT, STOP_SIGNAL, WATCHER_PORT
from dcf.errors import BuildError
from dcf.lifecycle import die_with_parent

STOP_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalContainer:
    """What is to run."""

    image: str
    environment: dict[str, str]
    port: int
    """On this machine's loopback."""
    gpus: list[str] = field(default_factory=list)
    memory_bytes: int | None = None
    cpus: float | None = None

    def command(self) -> list[str]:
        """Starts it; the process is the container's stand-in."""
        return [sys.executable, "-P", "-m", "dcf.build.local_container", json.dumps(asdict(self))]


@contextmanager
def _running(api: Any, wanted: LocalContainer) -> Iterator[str]:
    host = api.create_host_config(
        **CONFINEMENT,
        port_bindings={WATCHER_PORT: ("127.0.0.1", wanted.port)},
        mem_limit=wanted.memory_bytes,
        memswap_limit=wanted.memory_bytes,
        nano_cpus=round(wanted.cpus * 1e9) if wanted.cpus else None,
        device_requests=[DeviceRequest(device_ids=wanted.gpus, capabilities=[["gpu"]])] if wanted.gpus else None,
    )
    container = api.create_container(
        wanted.image,
        environment=wanted.environment,
        ports=[WATCHER_PORT],
        host_config=host,
        stop_signal=STOP_SIGNAL,
        labels={"dcf.run": "local"},
    )["Id"]
    try:
        api.start(container)
        yield container
    finally:
        with suppress(APIError, RequestException):  # an engine that is not quick about it
            api.stop(container, timeout=STOP_S)
        with suppress(APIError, RequestException):
            api.remove_container(container, force=True, v=True)


def main() -> int:
    """Run until the container ends or a signal comes; its exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    die_with_parent(signal.SIGTERM)
    wanted = LocalContainer(**json.loads(sys.argv[1]))
    try:
        with open_engine(os.environ) as api, _running(api, wanted) as container:
            try:
                for chunk in api.attach(container, stream=True, logs=True, stdout=True, stderr=True):
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
            except KeyboardInterrupt:
                return 0
            return int(api.wait(container)["StatusCode"])
    except BuildError as error:
        sys.stdout.write(f"dcf: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


def _on_signal(number: int, frame: object) -> NoReturn:
    # Once: what follows is the clean-up, which must not be cut short.
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
