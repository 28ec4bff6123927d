"""What a cluster on one machine is told at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcf.cluster.state import default_bundles, default_state
from dcf.env import read_settings, require


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Read from DCF_* variables, once, in main."""

    state: str
    """Folder of the cluster's data, logs and sockets; one cluster at a time has it."""

    bundles: str
    """Folder of the built functions."""

    listen: str = "127.0.0.1:32222"
    """host:port of the gateway; port 0 takes a free one."""

    processes: int = 1
    """Gateway processes, 1 to 64. They share one listening socket."""

    redis: str | None = None
    """URL of a Redis that is there; None: a private one is started."""

    token_file: str | None = None
    """File with the token that management calls must bring."""

    insecure: bool = False
    """Whether an address that others can reach is allowed without a token."""

    log_level: str = "info"
    """debug, info, warning or error; of every process."""

    ready_fd: int | None = None
    """Where a caller waits for the byte that says the cluster is ready; None: it runs in the foreground."""

    def __post_init__(self) -> None:
        require(self.state != "", "DCF_STATE", self.state, "a folder")
        require(self.bundles != "", "DCF_BUNDLES", self.bundles, "a folder")
        require(1 <= self.processes <= 64, "DCF_PROCESSES", self.processes, "1 to 64 gateway processes")
        levels = ("debug", "info", "warning", "error")
        require(self.log_level in levels, "DCF_LOG_LEVEL", self.log_level, ", ".join(levels))


def read_cluster_settings(environ: Mapping[str, str]) -> ClusterSettings:
    """The settings in `environ`; folders that it does not name are the user's own. Raises ConfigError."""
    defaults = {"DCF_STATE": str(default_state(environ)), "DCF_BUNDLES": str(default_bundles(environ))}
    return read_settings(ClusterSettings, {**environ, **defaults})
