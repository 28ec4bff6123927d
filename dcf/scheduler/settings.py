"""What the scheduler is told at start."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dcf.domain.gpus import parse_setting
from dcf.env import require
from dcf.scheduler.backends.registry import NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Read from DCF_* variables, once, in main."""

    store_url: str
    """Where Redis is: `unix:///path/redis.sock` or `redis://host:port/0`."""

    scheduler_id: str
    """Owner of the lease. Stable over restarts, so that a scheduler that was killed takes over at once."""

    backend: str = "process"
    """What runs replicas."""

    state: str = ""
    """Folder of the cluster's state; the process backend's replicas live in `replicas/` below it."""

    bundles: str = ""
    """Folder of the built functions; for the process backend."""

    cluster: str = "dcf"
    """Marks what is this cluster's on a Docker engine; two clusters on one engine have two names."""

    network: str = ""
    """Docker network that replicas, gateways and scheduler are on; "": the one named as the cluster."""

    gpus: str = ""
    """Ids of this machine's GPUs, separated by commas, or "none"; "" looks for them."""

    tick_s: float = 1.0
    """Seconds between two looks with no hint of a change, > 0. One second: half of Knative's tick."""

    lease_ttl_s: float = 3.0
    """Seconds after which the lease of a scheduler that is gone goes to another, > 0; renewed three times within."""

    log_level: str = "info"
    """debug, info, warning or error."""

    ready_fd: int | None = None
    """Where a supervisor waits for a byte that says it is ready; None: nobody supervises."""

    def __post_init__(self) -> None:
        require(self.backend in NAMES, "DCF_BACKEND", self.backend, f"one of {', '.join(NAMES)}")
        require(self.scheduler_id != "", "DCF_SCHEDULER_ID", self.scheduler_id, "a name")
        if self.backend == "process":
            require(self.state != "", "DCF_STATE", self.state, "a folder")
            require(self.bundles != "", "DCF_BUNDLES", self.bundles, "a folder")
        good = re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.cluster) is not None
        require(good, "DCF_CLUSTER", self.cluster, "a lower-case letter, then lower-case letters, digits or '-'")
        parse_setting(self.gpus)
        require(self.tick_s > 0, "DCF_TICK_S", self.tick_s, "seconds above 0")
        require(self.lease_ttl_s > 0, "DCF_LEASE_TTL_S", self.lease_ttl_s, "seconds above 0")
        require(
            self.log_level in {"debug", "info", "warning", "error"},
            "DCF_LOG_LEVEL",
            self.log_level,
            "debug, info, warning or error",
        )
