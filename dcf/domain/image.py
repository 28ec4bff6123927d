"""What a function's image promises, and how the watcher in a container is told.

An image that DCF built carries LABELS and, as ENV, what belongs to the code in
it (runtime, worker command, handler). What belongs to one replica is given to
its container at the start: `replica_environment`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dcf.domain.function import FunctionSpec

FORMAT = "1"
FORMAT_LABEL = "dcf.image"
"""Its value is FORMAT: what tells a function's image from any other."""
VERSION_LABEL = "dcf.version"
"""Release of the watcher in the image, which is that of the CLI that built it."""
RUNTIME_LABEL = "dcf.runtime"
FUNCTION_LABEL = "dcf.function"

WATCHER_PORT = 32223
"""Where the watcher in a container listens; one after the gateway's own."""

PIDS_LIMIT = 4096
"""Processes and threads: a large model with its thread pools stays far below, a fork bomb does not."""
SHM_BYTES = 1024**3
"""Of /dev/shm; Docker's own 64 MiB are too little for PyTorch's data loaders. It counts as memory once it is used."""
TMP_OPTIONS = "rw,exec,nosuid,nodev,mode=1777"
"""Of /tmp, the one writable folder: with exec, for what compiles kernels at run time."""
CONFINEMENT: Mapping[str, Any] = MappingProxyType(
    {
        "read_only": True,
        "tmpfs": {"/tmp": TMP_OPTIONS},
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "pids_limit": PIDS_LIMIT,
        "shm_size": SHM_BYTES,
    }
)
"""What a function's container may do, in the words of the Docker SDK; its user is the image's."""
STOP_SIGNAL = "SIGTERM"
"""Tells a watcher to drain."""


def replica_environment(spec: FunctionSpec, *, replica: str, listen: str, log_file: str = "") -> dict[str, str]:
    """The variables of one replica's watcher that do not depend on how its code got there.

    Args:
        listen: a gRPC address, `unix:/path` or `host:port`.
        log_file: where the watcher also writes the function's output, size-bounded; "" for nowhere.
    """
    environ = {
        "DCF_FUNCTION": spec.name,
        "DCF_REPLICA": replica,
        "DCF_LISTEN": listen,
        "DCF_ENVIRONMENT": json.dumps(spec.environment, ensure_ascii=False),
        "DCF_WORKERS": str(spec.workers),
        "DCF_BATCH_MAX_SIZE": str(spec.batch_max_size),
        "DCF_BATCH_MAX_WAIT_S": repr(spec.batch_max_wait_s),
        "DCF_TIMEOUT_S": repr(spec.timeout_s),
        "DCF_START_TIMEOUT_S": repr(spec.start_timeout_s),
        "DCF_KILL_AFTER_S": repr(spec.kill_after_s),
        "DCF_MAX_PAYLOAD_BYTES": str(spec.max_payload_bytes),
        "DCF_DEBUG": "1" if spec.debug else "0",
        "DCF_LOG_FILE": log_file,
    }
    if spec.concurrency is not None:
        environ["DCF_CONCURRENCY"] = str(spec.concurrency)
    if gpus := spec.gpu_count:
        environ["DCF_GPU_COUNT"] = str(gpus)
    return environ
