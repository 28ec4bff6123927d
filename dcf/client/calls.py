"""Each call of dcf.v1.Gateway: its request, its time, how its answer is read.

In:   what a program says. Out: a Call that either client sends. Pure: no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

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
)
from dcf.errors import ConfigError, InvalidInputError
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.services import OPTIONS

DEFAULT_GATEWAY = "127.0.0.1:32222"
MANAGEMENT_TIMEOUT_S = 30.0
"""No management call waits for a replica: half a minute without an answer is a gateway in trouble."""

CHANNEL_OPTIONS = (
    *OPTIONS,
    # A gateway that restarts is back within a second or two; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One RPC, ready to be sent."""

    method: str
    request: Message
    timeout_s: float | None
    read: Callable[[Any], R]
    """Makes facts of an answer, or of one message of a streamed answer."""


def check_address(address: str) -> str:
    """`host:port` from what people write, also with http:// before it. Raises ConfigError."""
    text = address.strip().removeprefix("http://").removeprefix("grpc://").rstrip("/")
    host, _, port = text.rpartition(":")
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"gateway address {address!r} is not allowed: expected host:port, such as {DEFAULT_GATEWAY}")
    return text


def call_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """gRPC metadata of every call. Raises ConfigError for a token that no header can carry."""
    if not token:
        return ()
    if not token.isascii() or not token.isprintable():
        raise ConfigError("the token holds characters that a header cannot carry: expected printable ASCII")
    return (("authorization", f"Bearer {token}"),)


def encode_input(data: Any, content_type: str | None) -> tuple[bytes, str]:
    """The body and its content type: bytes and str as they are, anything else as JSON. Raises InvalidInputError."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), content_type or "application/octet-stream"
    if isinstance(data, str):
        return data.encode(), content_type or "text/plain; charset=utf-8"
    try:
        body = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the input is neither bytes nor str nor JSON: {error}") from error
    return body, content_type or "application/json"


def invoke(
    name: str,
    data: Any,
    *,
    timeout_s: float | None,
    metadata: Mapping[str, str] | None,
    content_type: str | None,
) -> Call[Reply]:
    """Call a function."""
    return Call("Invoke", _invoke_request(name, data, metadata, content_type), timeout_s, _read_reply)


def stream(
    name: str,
    data: Any,
    *,
    timeout_s: float | None,
    metadata: Mapping[str, str] | None,
    content_type: str | None,
) -> Call[Chunk]:
    """Call a function for an answer in chunks."""
    return Call("InvokeStream", _invoke_request(name, data, metadata, content_type), timeout_s, _ChunkReader())


def converse(
    name: str, *, timeout_s: float | None, metadata: Mapping[str, str] | None, content_type: str | None
) -> Call[Chunk]:
    """Send inputs while the answer comes; the request is the first message, and `next_input` makes the others."""
    first = v1.InvokeInput(function=name, content_type=content_type or "", metadata=dict(metadata or {}))
    return Call("InvokeBidi", first, timeout_s, _ChunkReader())


def next_input(data: Any) -> v1.InvokeInput:
    """One more input of a conversation. Raises InvalidInputError."""
    return v1.InvokeInput(input=encode_input(data, None)[0])


def list_functions() -> Call[list[Function]]:
    """All functions, by name."""
    return Call("List", v1.ListRequest(), MANAGEMENT_TIMEOUT_S, _read_functions)


def describe(name: str) -> Call[Function]:
    """One function with its spec."""
    return Call("Describe", v1.DescribeRequest(function=name), MANAGEMENT_TIMEOUT_S, _read_function)


def deploy(request: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Call[Function]:
    """Create or replace a function from the deploy request's fields. Raises InvalidInputError naming the field."""
    message = v1.DeployRequest()
    try:
        json_format.ParseDict({**(request or {}), **fields}, message)
    except json_format.ParseError as error:
        raise InvalidInputError(f"the deploy request is wrong: {error}") from error
    return Call("Deploy", message, MANAGEMENT_TIMEOUT_S, _read_function)


def delete(name: str) -> Call[None]:
    """Remove a function, its replicas and its counts."""
    return Call("Delete", v1.DeleteRequest(function=name), MANAGEMENT_TIMEOUT_S, lambda _: None)


def scale(name: str, replicas: int | None) -> Call[Function]:
    """Pin a replica number; None: the spec's own number again."""
    if replicas is None:
        return Call("Scale", v1.ScaleRequest(function=name, auto=True), MANAGEMENT_TIMEOUT_S, _read_function)
    if not 0 <= replicas < 2**32:
        raise InvalidInputError(f"replicas: {replicas} is not allowed: expected 0 or more", function=name)
    return Call("Scale", v1.ScaleRequest(function=name, replicas=replicas), MANAGEMENT_TIMEOUT_S, _read_function)


def scale_range(name: str, lowest: int | None, highest: int | None) -> Call[Function]:
    """Change min, max or both of an elastic number."""
    within = v1.Range(min=lowest, max=highest)
    return Call("Scale", v1.ScaleRequest(function=name, range=within), MANAGEMENT_TIMEOUT_S, _read_function)


def log(name: str, *, since_at: float, tail: int | None, follow: bool) -> Call[LogLine]:
    """Lines of all replicas, oldest first."""
    request = v1.LogRequest(function=name, since_at=since_at, tail=tail, follow=follow)
    return Call("Log", request, None if follow else MANAGEMENT_TIMEOUT_S, _read_line)


def info(timeout_s: float = MANAGEMENT_TIMEOUT_S) -> Call[ClusterInfo]:
    """Version and backend of the cluster."""
    return Call("Info", v1.InfoRequest(), timeout_s, _read_info)


def nodes(timeout_s: float = MANAGEMENT_TIMEOUT_S) -> Call[list[Node]]:
    """The machines that replicas run on."""
    return Call("Nodes", v1.NodesRequest(), timeout_s, _read_nodes)


def _invoke_request(
    name: str, data: Any, metadata: Mapping[str, str] | None, content_type: str | None
) -> v1.InvokeRequest:
    body, kind = encode_input(data, content_type)
    return v1.InvokeRequest(function=name, input=body, content_type=kind, metadata=dict(metadata or {}))


def _read_reply(reply: v1.InvokeReply) -> Reply:
    return Reply(
        output=reply.output,
        content_type=reply.content_type,
        metadata=dict(reply.metadata),
        invocation_id=reply.invocation_id,
    )


class _ChunkReader:
    """Reads the chunks of one call: the id that the first one says is every chunk's."""

    def __init__(self) -> None:
        self._invocation_id = ""

    def __call__(self, chunk: v1.InvokeChunk) -> Chunk:
        # A handler that takes no stream is called for each input, and each of these calls has an id of its own.
        self._invocation_id = chunk.invocation_id or self._invocation_id
        return Chunk(
            output=chunk.output,
            content_type=chunk.content_type,
            metadata=dict(chunk.metadata),
            invocation_id=self._invocation_id,
        )


def _read_functions(reply: v1.ListReply) -> list[Function]:
    return [_read_function(function) for function in reply.functions]


def _read_function(function: v1.Function) -> Function:
    return Function(
        name=function.name,
        image=function.image,
        invocation_count=function.invocation_count,
        replicas=function.replicas,
        available_replicas=function.available_replicas,
        status=function.status,
        description=function.description,
        maintainer=function.maintainer,
        reason=function.reason,
        runtime=function.runtime,
        generation=function.generation,
        settled=function.settled,
        failed=function.failed,
        log_tail=tuple(function.log_tail),
        labels=dict(function.labels),
        annotations=dict(function.annotations),
        replica_states=tuple(
            ReplicaFacts(
                name=replica.name,
                state=replica.state,
                generation=replica.generation,
                address=replica.address,
                in_flight=replica.in_flight,
                memory_bytes=replica.memory_bytes,
                worker_restarts=replica.worker_restarts,
                started_at=replica.started_at,
                node=replica.node,
                gpus=tuple(replica.gpus),
            )
            for replica in function.replica_states
        ),
        updated_at=function.updated_at,
        calls=CallStats(
            queue_wait_mean_s=function.calls.queue_wait_mean_s,
            queue_wait_p99_s=function.calls.queue_wait_p99_s,
            batches=function.calls.batches,
            batch_size_mean=function.calls.batch_size_mean,
        ),
        elastic=function.elastic,
        scaled=function.scaled,
        load=Load(
            in_flight=function.load.in_flight,
            queued=function.load.queued,
            oldest_wait_s=function.load.oldest_wait_s,
            per_s=function.load.per_s,
            p50_s=function.load.p50_s,
            p99_s=function.load.p99_s,
        ),
        cold_start=ColdStartFacts(
            container_s=function.cold_start.container_s,
            watcher_s=function.cold_start.watcher_s,
            loaded_s=function.cold_start.loaded_s,
            first_answer_s=function.cold_start.first_answer_s,
        ),
        decisions=tuple(
            Decision(
                at=one.at,
                before=one.before,
                wanted=one.wanted,
                replicas=one.replicas,
                reason=one.reason,
                limit=one.limit,
                in_flight=one.in_flight,
                burst=one.burst,
                queued=one.queued,
                per_s=one.per_s,
                ready=one.ready,
            )
            for one in function.decisions
        ),
        spec=json_format.MessageToDict(function.spec) if function.HasField("spec") else None,
    )


def _read_line(line: v1.LogLine) -> LogLine:
    return LogLine(at=line.at, replica=line.replica, stream=line.stream, text=line.text)


def _read_nodes(reply: v1.NodesReply) -> list[Node]:
    return [
        Node(
            name=node.name,
            ready=node.ready,
            note=node.note,
            cpus=node.cpus,
            cpus_used=node.cpus_used,
            memory_bytes=node.memory_bytes,
            memory_used_bytes=node.memory_used_bytes,
            gpus=tuple(node.gpus),
            gpus_used=tuple(node.gpus_used),
            replicas=node.replicas,
        )
        for node in reply.nodes
    ]


def _read_info(reply: v1.InfoReply) -> ClusterInfo:
    return ClusterInfo(version=reply.version, backend=reply.backend, cluster=reply.cluster, bundles=reply.bundles)
