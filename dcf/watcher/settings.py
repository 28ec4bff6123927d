"""What a watcher is told at start: DCF_* variables, see `domain/bundle.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dcf.domain.gpus import parse_ids
from dcf.env import require
from dcf.errors import ConfigError

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""What tells CUDA, and so every library on it, which devices there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherSettings:
    """One replica."""

    function: str
    replica: str
    listen: str
    """`unix:/path` or `host:port`."""
    runtime: str
    worker_command: str
    """JSON list: what starts the worker. An interpreter, to which the watcher adds its worker program, or a binary."""
    source: str
    """Absolute folder of the handler."""
    handler_file: str
    handler_name: str
    environment: str = "{}"
    """JSON object: the user's variables, for the worker alone; they never reach the watcher's own process."""
    concurrency: int = 0
    """Handlers at once over all workers; 0: 1 a worker for a sync handler, 100 for an async one."""
    workers: int = 1
    batch_max_size: int = 0
    """Requests that the handler takes at once, as a list; 0: it takes one."""
    batch_max_wait_s: float = 0.0
    """For more requests, after the first of a batch has come."""
    timeout_s: float = 60.0
    start_timeout_s: float = 60.0
    kill_after_s: float = 30.0
    max_payload_bytes: int = 64 * 1024 * 1024
    gpu_count: int = 0
    """GPUs that the function asks for."""
    gpus: str = ""
    """Those reserved for this replica: ids or indices with commas between them; after devices.py all are full ids.
    On Swarm it is empty, and the engine says it in a variable of its own."""
    debug: bool = False
    log_file: str = ""
    state_file: str = ""
    """Absolute path of the file that a container's health check reads (state_file.py); "": none is written."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        require(self.workers >= 1, "DCF_WORKERS", self.workers, "1 or more")
        require(self.concurrency >= 0, "DCF_CONCURRENCY", self.concurrency, "0 or more")
        require(self.batch_max_size >= 0, "DCF_BATCH_MAX_SIZE", self.batch_max_size, "0 or more")
        require(self.batch_max_wait_s >= 0, "DCF_BATCH_MAX_WAIT_S", self.batch_max_wait_s, "seconds, 0 or more")
        require(self.timeout_s > 0, "DCF_TIMEOUT_S", self.timeout_s, "seconds above 0")
        require(self.start_timeout_s > 0, "DCF_START_TIMEOUT_S", self.start_timeout_s, "seconds above 0")
        require(self.kill_after_s >= 0, "DCF_KILL_AFTER_S", self.kill_after_s, "seconds, 0 or more")
        require(self.max_payload_bytes > 0, "DCF_MAX_PAYLOAD_BYTES", self.max_payload_bytes, "bytes above 0")
        require(self.gpu_count >= 0, "DCF_GPU_COUNT", self.gpu_count, "0 or more")
        parse_ids("DCF_GPUS", self.gpus)
        self.command()
        self.worker_environment()

    def command(self) -> list[str]:
        """The worker's command line, without its two descriptors."""
        value = _read_json("DCF_WORKER_COMMAND", self.worker_command)
        if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
            raise ConfigError(f"DCF_WORKER_COMMAND={self.worker_command!r}: expected a JSON list of texts")
        return value

    def worker_environment(self) -> dict[str, str]:
        """The user's variables."""
        value = _read_json("DCF_ENVIRONMENT", self.environment)
        if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
            raise ConfigError(f"DCF_ENVIRONMENT={self.environment!r}: expected a JSON object of texts")
        return value

    def device_environment(self) -> dict[str, str]:
        """What holds the worker to its GPUs; without any the machine's own variables stand."""
        return {CUDA_VARIABLE: self.gpus} if self.gpus else {}


def _read_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text!r} is not JSON: {error}") from error
