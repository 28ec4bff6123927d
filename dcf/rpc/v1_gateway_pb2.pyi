from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InvokeRequest(_message.Message):
    __slots__ = ("function", "input", "content_type", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    function: str
    input: bytes
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, function: _Optional[str] = ..., input: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class InvokeReply(_message.Message):
    __slots__ = ("output", "content_type", "metadata", "invocation_id")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    invocation_id: str
    def __init__(self, output: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., invocation_id: _Optional[str] = ...) -> None: ...

class InvokeChunk(_message.Message):
    __slots__ = ("output", "content_type", "metadata", "invocation_id")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    invocation_id: str
    def __init__(self, output: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., invocation_id: _Optional[str] = ...) -> None: ...

class InvokeInput(_message.Message):
    __slots__ = ("function", "input", "content_type", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    function: str
    input: bytes
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, function: _Optional[str] = ..., input: _Optional[bytes] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "function", "replica", "invocation_id", "retryable", "retry_after_s", "traceback", "message_index")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    function: str
    replica: str
    invocation_id: str
    retryable: bool
    retry_after_s: float
    traceback: str
    message_index: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., function: _Optional[str] = ..., replica: _Optional[str] = ..., invocation_id: _Optional[str] = ..., retryable: _Optional[bool] = ..., retry_after_s: _Optional[float] = ..., traceback: _Optional[str] = ..., message_index: _Optional[int] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("memory", "cpu", "gpu")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    memory: str
    cpu: str
    gpu: str
    def __init__(self, memory: _Optional[str] = ..., cpu: _Optional[str] = ..., gpu: _Optional[str] = ...) -> None: ...

class Scaling(_message.Message):
    __slots__ = ("min", "max", "target", "utilization", "metric", "idle", "initial", "factor")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    min: int
    max: int
    target: float
    utilization: float
    metric: str
    idle: str
    initial: int
    factor: int
    def __init__(self, min: _Optional[int] = ..., max: _Optional[int] = ..., target: _Optional[float] = ..., utilization: _Optional[float] = ..., metric: _Optional[str] = ..., idle: _Optional[str] = ..., initial: _Optional[int] = ..., factor: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("max_size", "max_wait")
    MAX_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    max_size: int
    max_wait: str
    def __init__(self, max_size: _Optional[int] = ..., max_wait: _Optional[str] = ...) -> None: ...

class DeployRequest(_message.Message):
    __slots__ = ("service", "image", "env_vars", "labels", "annotations", "constraints", "secrets", "registry_auth", "limits", "requests", "min_replicas", "max_replicas", "runtime", "description", "maintainer", "replicas", "concurrency", "workers", "timeout", "start_timeout", "kill_after", "queue", "max_payload", "debug", "scaling", "batch", "must_exist")
    class EnvVarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ENV_VARS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_AUTH_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MIN_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MAINTAINER_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    START_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    KILL_AFTER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DEBUG_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MUST_EXIST_FIELD_NUMBER: _ClassVar[int]
    service: str
    image: str
    env_vars: _containers.ScalarMap[str, str]
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    constraints: _containers.RepeatedScalarFieldContainer[str]
    secrets: _containers.RepeatedScalarFieldContainer[str]
    registry_auth: str
    limits: Resources
    requests: Resources
    min_replicas: int
    max_replicas: int
    runtime: str
    description: str
    maintainer: str
    replicas: int
    concurrency: int
    workers: int
    timeout: str
    start_timeout: str
    kill_after: str
    queue: int
    max_payload: str
    debug: bool
    scaling: Scaling
    batch: Batch
    must_exist: bool
    def __init__(self, service: _Optional[str] = ..., image: _Optional[str] = ..., env_vars: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., constraints: _Optional[_Iterable[str]] = ..., secrets: _Optional[_Iterable[str]] = ..., registry_auth: _Optional[str] = ..., limits: _Optional[_Union[Resources, _Mapping]] = ..., requests: _Optional[_Union[Resources, _Mapping]] = ..., min_replicas: _Optional[int] = ..., max_replicas: _Optional[int] = ..., runtime: _Optional[str] = ..., description: _Optional[str] = ..., maintainer: _Optional[str] = ..., replicas: _Optional[int] = ..., concurrency: _Optional[int] = ..., workers: _Optional[int] = ..., timeout: _Optional[str] = ..., start_timeout: _Optional[str] = ..., kill_after: _Optional[str] = ..., queue: _Optional[int] = ..., max_payload: _Optional[str] = ..., debug: _Optional[bool] = ..., scaling: _Optional[_Union[Scaling, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., must_exist: _Optional[bool] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("name", "state", "generation", "address", "in_flight", "memory_bytes", "started_at", "node", "gpus", "worker_restarts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    WORKER_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    generation: int
    address: str
    in_flight: int
    memory_bytes: int
    started_at: float
    node: str
    gpus: _containers.RepeatedScalarFieldContainer[str]
    worker_restarts: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., generation: _Optional[int] = ..., address: _Optional[str] = ..., in_flight: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., started_at: _Optional[float] = ..., node: _Optional[str] = ..., gpus: _Optional[_Iterable[str]] = ..., worker_restarts: _Optional[int] = ...) -> None: ...

class CallStats(_message.Message):
    __slots__ = ("queue_wait_mean_s", "queue_wait_p99_s", "batches", "batch_size_mean")
    QUEUE_WAIT_MEAN_S_FIELD_NUMBER: _ClassVar[int]
    QUEUE_WAIT_P99_S_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_MEAN_FIELD_NUMBER: _ClassVar[int]
    queue_wait_mean_s: float
    queue_wait_p99_s: float
    batches: int
    batch_size_mean: float
    def __init__(self, queue_wait_mean_s: _Optional[float] = ..., queue_wait_p99_s: _Optional[float] = ..., batches: _Optional[int] = ..., batch_size_mean: _Optional[float] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("in_flight", "queued", "oldest_wait_s", "per_s", "p50_s", "p99_s")
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PER_S_FIELD_NUMBER: _ClassVar[int]
    P50_S_FIELD_NUMBER: _ClassVar[int]
    P99_S_FIELD_NUMBER: _ClassVar[int]
    in_flight: int
    queued: int
    oldest_wait_s: float
    per_s: float
    p50_s: float
    p99_s: float
    def __init__(self, in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., oldest_wait_s: _Optional[float] = ..., per_s: _Optional[float] = ..., p50_s: _Optional[float] = ..., p99_s: _Optional[float] = ...) -> None: ...

class ScaleDecision(_message.Message):
    __slots__ = ("at", "before", "wanted", "replicas", "reason", "limit", "in_flight", "burst", "queued", "per_s", "ready")
    AT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PER_S_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    at: float
    before: int
    wanted: int
    replicas: int
    reason: str
    limit: str
    in_flight: float
    burst: float
    queued: int
    per_s: float
    ready: int
    def __init__(self, at: _Optional[float] = ..., before: _Optional[int] = ..., wanted: _Optional[int] = ..., replicas: _Optional[int] = ..., reason: _Optional[str] = ..., limit: _Optional[str] = ..., in_flight: _Optional[float] = ..., burst: _Optional[float] = ..., queued: _Optional[int] = ..., per_s: _Optional[float] = ..., ready: _Optional[int] = ...) -> None: ...

class ColdStart(_message.Message):
    __slots__ = ("container_s", "watcher_s", "loaded_s", "first_answer_s")
    CONTAINER_S_FIELD_NUMBER: _ClassVar[int]
    WATCHER_S_FIELD_NUMBER: _ClassVar[int]
    LOADED_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_ANSWER_S_FIELD_NUMBER: _ClassVar[int]
    container_s: float
    watcher_s: float
    loaded_s: float
    first_answer_s: float
    def __init__(self, container_s: _Optional[float] = ..., watcher_s: _Optional[float] = ..., loaded_s: _Optional[float] = ..., first_answer_s: _Optional[float] = ...) -> None: ...

class Function(_message.Message):
    __slots__ = ("name", "image", "invocation_count", "replicas", "available_replicas", "annotations", "labels", "status", "description", "maintainer", "reason", "runtime", "generation", "replica_states", "log_tail", "failed", "spec", "updated_at", "calls", "load", "decisions", "cold_start", "elastic", "scaled", "settled")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MAINTAINER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_STATES_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    COLD_START_FIELD_NUMBER: _ClassVar[int]
    ELASTIC_FIELD_NUMBER: _ClassVar[int]
    SCALED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    name: str
    image: str
    invocation_count: int
    replicas: int
    available_replicas: int
    annotations: _containers.ScalarMap[str, str]
    labels: _containers.ScalarMap[str, str]
    status: str
    description: str
    maintainer: str
    reason: str
    runtime: str
    generation: int
    replica_states: _containers.RepeatedCompositeFieldContainer[Replica]
    log_tail: _containers.RepeatedScalarFieldContainer[str]
    failed: bool
    spec: DeployRequest
    updated_at: float
    calls: CallStats
    load: Load
    decisions: _containers.RepeatedCompositeFieldContainer[ScaleDecision]
    cold_start: ColdStart
    elastic: bool
    scaled: str
    settled: bool
    def __init__(self, name: _Optional[str] = ..., image: _Optional[str] = ..., invocation_count: _Optional[int] = ..., replicas: _Optional[int] = ..., available_replicas: _Optional[int] = ..., annotations: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., status: _Optional[str] = ..., description: _Optional[str] = ..., maintainer: _Optional[str] = ..., reason: _Optional[str] = ..., runtime: _Optional[str] = ..., generation: _Optional[int] = ..., replica_states: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., log_tail: _Optional[_Iterable[str]] = ..., failed: _Optional[bool] = ..., spec: _Optional[_Union[DeployRequest, _Mapping]] = ..., updated_at: _Optional[float] = ..., calls: _Optional[_Union[CallStats, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[ScaleDecision, _Mapping]]] = ..., cold_start: _Optional[_Union[ColdStart, _Mapping]] = ..., elastic: _Optional[bool] = ..., scaled: _Optional[str] = ..., settled: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("functions",)
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    functions: _containers.RepeatedCompositeFieldContainer[Function]
    def __init__(self, functions: _Optional[_Iterable[_Union[Function, _Mapping]]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: str
    def __init__(self, function: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: str
    def __init__(self, function: _Optional[str] = ...) -> None: ...

class DeleteReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Range(_message.Message):
    __slots__ = ("min", "max")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    min: int
    max: int
    def __init__(self, min: _Optional[int] = ..., max: _Optional[int] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("function", "replicas", "auto", "range")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    AUTO_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    function: str
    replicas: int
    auto: bool
    range: Range
    def __init__(self, function: _Optional[str] = ..., replicas: _Optional[int] = ..., auto: _Optional[bool] = ..., range: _Optional[_Union[Range, _Mapping]] = ...) -> None: ...

class LogRequest(_message.Message):
    __slots__ = ("function", "since_at", "tail", "follow")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    SINCE_AT_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    function: str
    since_at: float
    tail: int
    follow: bool
    def __init__(self, function: _Optional[str] = ..., since_at: _Optional[float] = ..., tail: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("at", "replica", "stream", "text")
    AT_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    at: float
    replica: str
    stream: str
    text: str
    def __init__(self, at: _Optional[float] = ..., replica: _Optional[str] = ..., stream: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class NodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodesReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "ready", "note", "cpus", "cpus_used", "memory_bytes", "memory_used_bytes", "gpus", "gpus_used", "replicas")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    CPUS_USED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPUS_USED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    ready: bool
    note: str
    cpus: float
    cpus_used: float
    memory_bytes: int
    memory_used_bytes: int
    gpus: _containers.RepeatedScalarFieldContainer[str]
    gpus_used: _containers.RepeatedScalarFieldContainer[str]
    replicas: int
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., note: _Optional[str] = ..., cpus: _Optional[float] = ..., cpus_used: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., gpus: _Optional[_Iterable[str]] = ..., gpus_used: _Optional[_Iterable[str]] = ..., replicas: _Optional[int] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("version", "backend", "cluster", "bundles")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    version: str
    backend: str
    cluster: str
    bundles: str
    def __init__(self, version: _Optional[str] = ..., backend: _Optional[str] = ..., cluster: _Optional[str] = ..., bundles: _Optional[str] = ...) -> None: ...
