"""What a function's container is started with, on any of the Docker backends.

In:   a spec, and what is chosen for one replica.
Out:  labels from which the whole state can be rebuilt, environment, limits.
Pure: no I/O.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.image import replica_environment
from dcf.domain.quantity import parse_cpu, parse_memory

CLUSTER = "dcf.cluster"
FUNCTION = "dcf.function"
REPLICA = "dcf.replica"
UID = "dcf.uid"
GENERATION = "dcf.generation"
DIGEST = "dcf.digest"
ORDINAL = "dcf.ordinal"
PORT = "dcf.port"
GRACE_S = "dcf.grace_s"
GPUS = "dcf.gpus"
CPU = "dcf.cpu"
MEMORY = "dcf.memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one replica may use; None where there is no limit."""

    cpus: float | None
    memory_bytes: int | None
    cpus_reserved: float | None
    memory_reserved_bytes: int | None

    @classmethod
    def of(cls, spec: FunctionSpec) -> Limits:
        """Limits and requests of a spec."""
        return cls(
            cpus=parse_cpu(spec.limits["cpu"]) if "cpu" in spec.limits else None,
            memory_bytes=parse_memory(spec.limits["memory"]) if "memory" in spec.limits else None,
            cpus_reserved=parse_cpu(spec.requests["cpu"]) if "cpu" in spec.requests else None,
            memory_reserved_bytes=parse_memory(spec.requests["memory"]) if "memory" in spec.requests else None,
        )


def function_labels(spec: FunctionSpec, cluster: str, *, grace_s: float) -> dict[str, str]:
    """What all replicas of a spec have in common."""
    limits = Limits.of(spec)
    return {
        CLUSTER: cluster,
        FUNCTION: spec.name,
        UID: spec.uid,
        GENERATION: str(spec.generation),
        DIGEST: replica_digest(spec),
        GRACE_S: f"{grace_s:g}",
        CPU: "" if limits.cpus is None else f"{limits.cpus:g}",
        MEMORY: "" if limits.memory_bytes is None else str(limits.memory_bytes),
    }


def container_environment(
    spec: FunctionSpec, *, replica: str, port: int, gpus: Sequence[str] | None = None
) -> list[str]:
    """`KEY=value` for the watcher; `gpus` where it is we who chose them."""
    environ = replica_environment(spec, replica=replica, listen=f"0.0.0.0:{port}")
    if gpus:
        environ["DCF_GPUS"] = ",".join(gpus)
    return [f"{key}={value}" for key, value in environ.items()]


def explain_exit(code: int | None, *, out_of_memory: bool, limit: str, said: str) -> str:
    """One clause: why a container ended.

    Args:
        limit: the function's memory limit as bytes, "" for none.
        said: the watcher's last word, "" where it had none.
    """
    if out_of_memory:
        allowed = f"its limit of {_mebibytes(int(limit))} (limits.memory)" if limit else "the machine's memory"
        return f"out of memory: it needed more than {allowed}"
    if code is not None and code > 128:
        return f"killed by {_signal_name(code - 128)}"
    if code == 0:
        return "it ended by itself"
    if said:
        return said
    return "its container is gone" if code is None else f"its container ended with exit status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mebibytes(number: int) -> str:
    return f"{number / 1024**2:.0f} MiB"


def grace_of(labels: Mapping[str, str]) -> float:
    """How long the replica with these labels may drain."""
    return float(labels.get(GRACE_S) or 0.0)
