"""What programs import: `from dcf import Client, AsyncClient`.

Both speak dcf.v1.Gateway and raise the errors of `dcf.errors`. Neither
imports package pb: its descriptors would clash with those of the original
`dcfgrpc` package in one process.
"""

from dcf.client.aio import AsyncClient
from dcf.client.calls import DEFAULT_GATEWAY
from dcf.client.facts import (
    CallStats,
    Chunk,
    ClusterInfo,
    ColdStartFacts,
    Decision,
    Function,
    Load,
    LogLine,
    Node,
    ReplicaFacts,
    Reply,
    to_json,
)
from dcf.client.sync import Client

__all__ = [
    "DEFAULT_GATEWAY",
    "AsyncClient",
    "CallStats",
    "Chunk",
    "Client",
    "ClusterInfo",
    "ColdStartFacts",
    "Decision",
    "Function",
    "Load",
    "LogLine",
    "Node",
    "ReplicaFacts",
    "Reply",
    "to_json",
]
