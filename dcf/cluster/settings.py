"""What a cluster on one machine is told at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcf.cluster.programs import name_of
from dcf.cluster.state import default_bundles, default_state
from dcf.domain.gpus import parse_setting
from dcf.env import read_settings, require

BACKENDS = ("process", "docker")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Read from DCF_* variables, once, in main."""

    state: str
    """Folder of the cluster's data, logs and sockets; one cluster at a time has it."""

    bundles: str
    """Folder of the built functions."""

    backend: str = "process"
    """What runs replicas: process or docker. (On a Swarm the cluster is a stack, and no process of this machine.)"""

    cluster: str = ""
    """Marks what is this cluster's on the engine; "": made from the state folder's path, so that two never meet."""

    listen: str = "127.0.0.1:32222"
    """host:port of the gateway; port 0 takes a free one."""

    processes: int = 1
    """Gateway processes, 1 to 64. They share one listening socket."""

    redis: str | None = None
    """URL of a Redis that is there; None: a private one is started."""

    token: str = ""
    """What management calls must bring; it counts before `token_file`. "": none."""

    token_file: str | None = None
    """File with the token that management calls must bring."""

    insecure: bool = False
    """Whether an address that others can reach is allowed without a token."""

    gpus: str = ""
    """GPUs of this machine that replicas may have: ids or indices with commas, or "none"; "" looks for them."""

    log_level: str = "info"
    """debug, info, warning or error; of every process."""

    ready_fd: int | None = None
    """Where a caller waits for the byte that says the cluster is ready; None: it runs in the foreground."""

    def __post_init__(self) -> None:
        require(self.state != "", "DCF_STATE", self.state, "a folder")
        require(self.bundles != "", "DCF_BUNDLES", self.bundles, "a folder")
        require(self.backend in BACKENDS, "DCF_BACKEND", self.backend, " or ".join(BACKENDS))
        require(1 <= self.processes <= 64, "DCF_PROCESSES", self.processes, "1 to 64 gateway processes")
        parse_setting(self.gpus)
        levels = ("debug", "info", "warning", "error")
        require(self.log_level in levels, "DCF_LOG_LEVEL", self.log_level, ", ".join(levels))

    @property
    def cluster_name(self) -> str:
        """`cluster`, or the one made from the state folder."""
        return self.cluster or name_of(self.state)


def read_cluster_settings(environ: Mapping[str, str]) -> ClusterSettings:
    """The settings in `environ`; folders that it does not name are the user's own. Raises ConfigError."""
    defaults = {"DCF_STATE": str(default_state(environ)), "DCF_BUNDLES": str(default_bundles(environ))}
    return read_settings(ClusterSettings, {**environ, **defaults})
