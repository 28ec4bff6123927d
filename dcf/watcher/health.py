"""What a replica says about itself: state, calls, memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dcf import __version__
from dcf.rpc.v1_watcher_pb2 import ReplicaState
from dcf.watcher.worker_pool import WorkerPool

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def replica_state(pool: WorkerPool) -> ReplicaState:
    """The message of `Watcher.Watch`."""
    return ReplicaState(
        state=pool.state(),
        in_flight=pool.in_flight(),
        waiting=pool.waiting(),
        memory_bytes=sum(map(resident_bytes, [os.getpid(), *(worker.pid for worker in pool.workers)])),
        concurrency=pool.slots(),
        reason=pool.failed_because,
        worker_restarts=pool.restarts,
        version=__version__,
    )


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it cannot be read (gone, or no /proc)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
