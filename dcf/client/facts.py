"""What a gateway tells, as plain data; no gRPC in sight.

`to_json` is the JSON of `--output json`: proto3 names, numbers as numbers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer of a function."""

    output: bytes
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the handler set beside its output."""
    invocation_id: str = ""

    @property
    def text(self) -> str:
        """The output as UTF-8. Raises UnicodeDecodeError where it is not."""
        return self.output.decode()

    def json(self) -> Any:
        """The output read as JSON. Raises ValueError where it is not."""
        return json.loads(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Reply):
    """A part of an answer, as the handler made it.

    `content_type` is the chunk's own; only the first chunk of an answer has `metadata`; `invocation_id` is that of the
    call, on every chunk. A piece may end inside a letter: then `text` raises UnicodeDecodeError.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStats:
    """What was counted of all calls since the function was deployed first."""

    queue_wait_mean_s: float = 0.0
    """Before the handler: in gateway, watcher and worker."""
    queue_wait_p99_s: float = 0.0
    """99 % waited at most so long."""
    batches: int = 0
    batch_size_mean: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What gateways saw in the last seconds."""

    in_flight: int = 0
    """Calls at replicas now."""
    queued: int = 0
    """Calls that wait now."""
    oldest_wait_s: float = 0.0
    per_s: float = 0.0
    """Calls that came."""
    p50_s: float = 0.0
    """From arrival to answer; the upper bound of a histogram's bucket, 0 where no call ended."""
    p99_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why an elastic function has the number of replicas that it has."""

    at: float
    """Unix seconds."""
    before: int
    wanted: int
    """By its calls, before any limit."""
    replicas: int
    reason: str
    limit: str = ""
    """What held it back: min, max, supply, rate, window, burst, young, tolerance, idle or silence; "" where nothing."""
    in_flight: float = 0.0
    """Mean of the stable window."""
    burst: float = 0.0
    """Mean of the burst window."""
    queued: int = 0
    per_s: float = 0.0
    ready: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartFacts:
    """How long the last start of a replica took, in seconds since it was asked for; 0: not known."""

    container_s: float = 0.0
    watcher_s: float = 0.0
    loaded_s: float = 0.0
    first_answer_s: float = 0.0
    """What the first held call of the last activation waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """One replica of a function."""

    name: str
    state: str
    """starting, ready, busy, draining or failed"""
    generation: int = 0
    address: str = ""
    in_flight: int = 0
    memory_bytes: int = 0
    worker_restarts: int = 0
    started_at: float = 0.0
    """Unix seconds."""
    node: str = ""
    """Host name of its machine; "" where there is only one."""
    gpus: tuple[str, ...] = ()
    """Ids of the devices that are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine that replicas run on; `used` is what was given to replicas, not what they use."""

    name: str
    ready: bool
    note: str = ""
    """Its role, or what is wrong with it."""
    cpus: float = 0.0
    cpus_used: float = 0.0
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    gpus: tuple[str, ...] = ()
    gpus_used: tuple[str, ...] = ()
    replicas: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One deployed function: what was asked for and what is observed."""

    name: str
    image: str
    invocation_count: int = 0
    replicas: int = 0
    """Replicas that shall run."""
    available_replicas: int = 0
    """Replicas that can answer now."""
    status: str = ""
    """Ready or Not Ready"""
    description: str = ""
    maintainer: str = ""
    reason: str = ""
    """Why it is not ready, or what is going on; "" when all is well."""
    runtime: str = ""
    generation: int = 0
    settled: bool = False
    """The newest spec is what runs, in full."""
    failed: bool = False
    """Given up on for now; retried with back-off."""
    log_tail: tuple[str, ...] = ()
    """Last lines of what failed, oldest first."""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    replica_states: tuple[ReplicaFacts, ...] = ()
    updated_at: float = 0.0
    """Unix seconds."""
    calls: CallStats = CallStats()
    elastic: bool = False
    """The number of replicas follows the calls."""
    scaled: str = ""
    """Why it has as many replicas as it has."""
    load: Load = Load()
    cold_start: ColdStartFacts = ColdStartFacts()
    decisions: tuple[Decision, ...] = ()
    """Oldest first; `describe` alone has them."""
    spec: dict[str, Any] | None = None
    """The deploy request in its JSON form; `describe` alone has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a replica wrote."""

    at: float
    """Unix seconds."""
    replica: str
    stream: str
    """stdout, stderr or dcf"""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """The cluster behind the gateway."""

    version: str
    backend: str
    cluster: str = ""
    bundles: str = ""
    """Process backend: the folder that bundles are read from, on the gateway's machine."""


def to_json(value: Any) -> Any:
    """`value` (facts, lists of them, plain data) with camelCase field names; keys of mappings stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {_camel(name): to_json(item) for name, item in fields.items() if item is not None}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
