"""Which backends there are, by the name that `DCF_BACKEND` gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from dcf.scheduler.backends.contract import ReplicaBackend, ServiceBackend

NAMES = ("process", "docker", "swarm")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What a backend is opened with; each takes of it what it needs."""

    state: Path
    """Absolute; process."""
    bundles: Path
    """Absolute; process."""
    cluster: str
    """Marks what is this cluster's on an engine; docker and swarm."""
    network: str
    """That the replicas are on; docker and swarm."""
    gpus: str
    """The setting DCF_GPUS; process and docker."""
    environ: Mapping[str, str]
    """Of the scheduler."""
    on_change: Callable[[], None]
    """Is called when a replica ended, or something else changed that `observe` would show."""


def open_backend(name: str, options: BackendOptions) -> AbstractAsyncContextManager[ReplicaBackend | ServiceBackend]:
    """The backend called `name`, one of NAMES."""
    # Each is imported when it is wanted: the Docker SDK alone costs a laptop's cluster a tenth of a second.
    if name == "process":
        from dcf.scheduler.backends.process import open_process_backend

        return open_process_backend(
            state=options.state,
            bundles=options.bundles,
            gpus=options.gpus,
            environ=options.environ,
            on_change=options.on_change,
        )
    if name == "docker":
        from dcf.scheduler.backends.docker import open_docker_backend

        return open_docker_backend(
            cluster=options.cluster,
            network=options.network,
            gpus=options.gpus,
            environ=options.environ,
            on_change=options.on_change,
        )
    if name == "swarm":
        from dcf.scheduler.backends.swarm import open_swarm_backend

        return open_swarm_backend(
            cluster=options.cluster, network=options.network, environ=options.environ, on_change=options.on_change
        )
    raise ValueError(f"no backend is called {name!r}")
