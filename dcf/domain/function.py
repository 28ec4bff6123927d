"""What the user wants of a function: its spec, checked once at the border.

`parse_spec` reads the JSON form of a deploy request (camelCase, quantities
as people write them); `spec_to_json` and `spec_from_json` are the store's
form. Both are pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, cast

from dcf.domain.names import FunctionName, check_function_name
from dcf.domain.quantity import (
    format_duration,
    format_memory,
    parse_cpu,
    parse_duration,
    parse_gpu,
    parse_memory,
)
from dcf.domain.scaling import (
    MAX_REPLICAS,
    ScalingPolicy,
    from_labels,
    parse_scaling,
    scaling_from_json,
    scaling_to_request,
)
from dcf.errors import InvalidInputError

MAX_CONCURRENCY = 10_000
MAX_BATCH = 1024
MAX_ENVIRONMENT_BYTES = 120 * 1024
"""Of all variables as JSON: they travel in one, and Linux starts no program with one of 128 KiB."""
_CONSTRAINT = re.compile(r"(node|engine)\.[\w.-]+\s*(==|!=)\s*\S.*|spread=(node|engine)\.[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """One deployed function. Defaults are those of `templates/config.yaml`."""

    name: FunctionName
    image: str
    uid: str = ""
    """Made at the first deployment; a function that was deleted and made again has another, and its own counts."""
    generation: int = 1
    """Grows when what a replica is made of changes; replicas of an older one are replaced."""
    revision: int = 1
    """Grows with every write, also of a replica number alone."""
    runtime: str = ""
    description: str = ""
    maintainer: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    registry_auth: str = ""
    limits: dict[str, str] = field(default_factory=dict)
    """Keys memory, cpu, gpu; as written, checked."""
    requests: dict[str, str] = field(default_factory=dict)
    replicas: int = 1
    pinned_replicas: int | None = None
    """Set by hand with `scale NAME N`; None: `replicas` counts."""
    concurrency: int | None = None
    """Handlers that run at once in a replica; None: 1 for a sync handler, 100 for an async one."""
    workers: int = 1
    batch_max_size: int = 0
    """Requests that the handler takes at once, as a list; 0: it takes one."""
    batch_max_wait_s: float = 0.0
    """For more requests, after the first of a batch has come; 0: it takes what is there."""
    timeout_s: float = 60.0
    start_timeout_s: float = 60.0
    kill_after_s: float = 30.0
    queue: int = 1000
    max_payload_bytes: int = 64 * 1024 * 1024
    debug: bool = False
    scaling: ScalingPolicy | None = None
    """None: `replicas` is a fixed number; else it is what an elastic one begins with."""
    decided_replicas: int | None = None
    """What the scheduler decided for an elastic number; it has it in its own copies alone."""
    _digest: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    """What `replica_digest` has computed; shared with copies that differ in the decided number alone."""

    @property
    def elastic(self) -> bool:
        """Whether the number of replicas follows the calls."""
        return self.scaling is not None and self.pinned_replicas is None

    @property
    def desired(self) -> int:
        """Replicas that shall run, as far as this copy knows."""
        if self.pinned_replicas is not None:
            return self.pinned_replicas
        return self.replicas if self.decided_replicas is None else self.decided_replicas

    def scaled_to(self, replicas: int) -> FunctionSpec:
        """The same with a number that was decided."""
        if replicas == self.decided_replicas:
            return self
        scaled = dataclasses.replace(self, decided_replicas=replicas)
        object.__setattr__(scaled, "_digest", self._digest)
        return scaled

    @property
    def gpu_count(self) -> int:
        """GPUs that each replica gets for itself."""
        return parse_gpu(self.limits["gpu"]) if "gpu" in self.limits else 0


# A change of any of these needs new replicas; of the rest (description, replicas, queue, ...) none.
_REPLICA_FIELDS = (
    "image", "environment", "constraints", "secrets", "limits", "requests", "concurrency",
    "workers", "batch_max_size", "batch_max_wait_s", "timeout_s", "start_timeout_s", "kill_after_s",
    "max_payload_bytes", "debug",
)  # fmt: skip


def needs_new_replicas(old: FunctionSpec, new: FunctionSpec) -> bool:
    """Whether running replicas of `old` are not what `new` asks for."""
    return any(getattr(old, name) != getattr(new, name) for name in _REPLICA_FIELDS)


def replica_digest(spec: FunctionSpec) -> str:
    """12 hex digits over what a replica is made of; tells apart what a lost generation number does not."""
    if spec._digest:  # asked for several times for each replica in each turn of the scheduler
        return spec._digest[0]
    made_of = {name: getattr(spec, name) for name in _REPLICA_FIELDS}
    spec._digest.append(hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12])
    return spec._digest[0]


def succeed(old: FunctionSpec | None, new: FunctionSpec, *, uid: str) -> FunctionSpec:
    """`new` as the successor of `old`: uid, generation, revision and the pin carried on."""
    if old is None:
        return dataclasses.replace(new, uid=uid, generation=1, revision=1)
    grown = 1 if needs_new_replicas(old, new) else 0
    return dataclasses.replace(
        new,
        uid=old.uid,
        generation=old.generation + grown,
        revision=old.revision + 1,
        pinned_replicas=old.pinned_replicas,
    )


def spec_to_json(spec: FunctionSpec) -> dict[str, Any]:
    """The store's form."""
    data = dataclasses.asdict(spec)
    del data["_digest"]
    return data


def spec_from_json(data: dict[str, Any]) -> FunctionSpec:
    """The inverse of `spec_to_json`; keys of a newer release are ignored."""
    names = {f.name for f in dataclasses.fields(FunctionSpec) if f.init}
    known = {key: value for key, value in data.items() if key in names}
    for key in ("constraints", "secrets"):
        known[key] = tuple(known.get(key, ()))
    if known.get("scaling") is not None:
        known["scaling"] = scaling_from_json(known["scaling"])
    return FunctionSpec(**known)


def parse_limits(data: dict[str, Any]) -> dict[str, str]:
    """Check memory, cpu and gpu; "" and absent mean no limit. Raises InvalidInputError naming the key."""
    checks = {"memory": parse_memory, "cpu": parse_cpu, "gpu": parse_gpu}
    limits: dict[str, str] = {}
    for key, value in data.items():
        if key not in checks:
            raise InvalidInputError(f"limits.{key}: unknown key; expected memory, cpu or gpu")
        if value in ("", None):
            continue
        try:
            checks[key](value)
        except InvalidInputError as error:
            raise InvalidInputError(f"limits.{key}: {error.message}") from error
        limits[key] = str(value)
    return limits


def parse_spec(data: dict[str, Any]) -> FunctionSpec:
    """Read a deploy request's JSON form. Raises InvalidInputError naming the field."""
    unknown = sorted(set(data) - _KNOWN_FIELDS)
    if unknown:
        raise InvalidInputError(f"unknown field {unknown[0]!r}; expected one of {', '.join(sorted(_KNOWN_FIELDS))}")
    name = check_function_name(_text(data, "service"))
    image = _text(data, "image")
    if not image:
        raise InvalidInputError("image: empty; build the function first (dcf function build)")
    labels = _mapping(data, "labels")
    scaling = _scaling(data, labels)
    replicas = _whole(data, "replicas", 0, MAX_REPLICAS)
    if replicas is None:
        minimum = _whole(data, "minReplicas", 0, MAX_REPLICAS) or 0
        replicas = scaling.initial if scaling else max(1, minimum)
    environment = _mapping(data, "envVars")
    for key, value in environment.items():
        if "\0" in value:
            raise InvalidInputError(f"envVars: the value of {key!r} holds a NUL character, which no environment can")
        if key.startswith("DCF_") or not key or "=" in key or "\0" in key:
            raise InvalidInputError(f"envVars: {key!r} is not allowed; names that begin with DCF_ are DCF's own")
    if (size := len(json.dumps(environment, ensure_ascii=False).encode())) > MAX_ENVIRONMENT_BYTES:
        raise InvalidInputError(
            f"envVars: {size} bytes in all; expected at most {MAX_ENVIRONMENT_BYTES}: give large values as a file"
        )
    limits = parse_limits(_dict(data, "limits"))
    if "CUDA_VISIBLE_DEVICES" in environment and limits.get("gpu", "0") != "0":
        raise InvalidInputError(
            "envVars: CUDA_VISIBLE_DEVICES is not allowed beside limits.gpu: "
            "DCF sets it to the GPUs that each replica gets for itself"
        )
    batch_max_size, batch_max_wait_s = _batch(_dict(data, "batch"))
    return FunctionSpec(
        name=name,
        image=image,
        runtime=_text(data, "runtime"),
        description=_text(data, "description"),
        maintainer=_text(data, "maintainer"),
        environment=environment,
        labels=labels,
        annotations=_mapping(data, "annotations"),
        constraints=_constraints(data),
        secrets=_texts(data, "secrets"),
        registry_auth=_text(data, "registryAuth"),
        limits=limits,
        requests=parse_limits(_dict(data, "requests")),
        replicas=replicas,
        concurrency=_whole(data, "concurrency", 1, MAX_CONCURRENCY),
        workers=_whole(data, "workers", 1, 256) or 1,
        batch_max_size=batch_max_size,
        batch_max_wait_s=batch_max_wait_s,
        timeout_s=_seconds(data, "timeout", 60.0),
        start_timeout_s=_seconds(data, "startTimeout", 60.0),
        kill_after_s=_seconds(data, "killAfter", 30.0),
        queue=_default(_whole(data, "queue", 0, 1_000_000), 1000),
        max_payload_bytes=_bytes(data, "maxPayload", 64 * 1024 * 1024),
        debug=_flag(data, "debug"),
        scaling=scaling,
    )


def spec_to_request(spec: FunctionSpec) -> dict[str, Any]:
    """The deploy request that `parse_spec` reads back: what `describe` shows."""
    request: dict[str, Any] = {
        "service": spec.name,
        "image": spec.image,
        "envVars": spec.environment,
        "labels": spec.labels,
        "annotations": spec.annotations,
        "constraints": list(spec.constraints),
        "secrets": list(spec.secrets),
        "limits": spec.limits,
        "requests": spec.requests,
        "runtime": spec.runtime,
        "description": spec.description,
        "maintainer": spec.maintainer,
        "workers": spec.workers,
        "timeout": format_duration(spec.timeout_s),
        "startTimeout": format_duration(spec.start_timeout_s),
        "killAfter": format_duration(spec.kill_after_s),
        "queue": spec.queue,
        "maxPayload": format_memory(spec.max_payload_bytes),
        "debug": spec.debug,
    }
    if spec.concurrency is not None:
        request["concurrency"] = spec.concurrency
    if spec.batch_max_size:
        request["batch"] = {"maxSize": spec.batch_max_size, "maxWait": format_duration(spec.batch_max_wait_s)}
    request |= {"scaling": scaling_to_request(spec.scaling)} if spec.scaling else {"replicas": spec.replicas}
    return request


_KNOWN_FIELDS = {
    "service", "image", "envVars", "labels", "annotations", "constraints", "secrets", "registryAuth",
    "limits", "requests", "minReplicas", "maxReplicas", "runtime", "description", "maintainer", "replicas",
    "concurrency", "workers", "timeout", "startTimeout", "killAfter", "queue", "maxPayload", "debug", "scaling",
    "batch",
}  # fmt: skip


def _constraints(data: dict[str, Any]) -> tuple[str, ...]:
    texts = _texts(data, "constraints")
    for text in texts:
        if not _CONSTRAINT.fullmatch(text.strip()):
            raise InvalidInputError(
                f"constraints: {text!r} is not allowed: expected such as node.labels.zone==a, node.hostname!=box3 "
                "or spread=node.labels.rack"
            )
    return texts


def _scaling(data: dict[str, Any], labels: dict[str, str]) -> ScalingPolicy | None:
    """From the block, else the labels, else the original's maxReplicas; None for a fixed number."""
    block, source = data.get("scaling"), "scaling"
    if block is not None and not isinstance(block, dict):
        raise InvalidInputError(f"scaling: {block!r} is not a mapping")
    said = from_labels(labels)
    if said and block and labels.get("scale_factor", "").strip() == "0":
        raise InvalidInputError("labels: scale_factor=0 says not to scale, and scaling is given: give one of them")
    if said:
        block, source = said | (block or {}), "labels scale_*"
    highest = _whole(data, "maxReplicas", 0, MAX_REPLICAS)
    if block is None and highest:
        block, source = {"min": _whole(data, "minReplicas", 0, MAX_REPLICAS) or 1, "max": highest}, "maxReplicas"
    if block is None:
        return None
    if data.get("replicas") is not None:
        raise InvalidInputError(f"replicas and {source}: give one of them, a fixed number or an elastic one")
    return parse_scaling(block)


def _batch(data: dict[str, Any]) -> tuple[int, float]:
    """max_size and max_wait of a `batch` block; (0, 0) where there is none."""
    if not data:
        return 0, 0.0
    unknown = sorted(set(data) - {"maxSize", "maxWait"})
    if unknown:
        raise InvalidInputError(f"batch: unknown field {unknown[0]!r}; expected maxSize or maxWait")
    try:
        size = _whole(data, "maxSize", 1, MAX_BATCH)
        wait = data.get("maxWait")
        wait_s = parse_duration(cast("str", wait)) if wait not in ("", None) else 0.0
    except InvalidInputError as error:
        raise InvalidInputError(f"batch: {error.message}") from error
    if size is None:
        raise InvalidInputError(f"batch: maxSize is missing; expected a whole number from 1 to {MAX_BATCH}")
    return size, wait_s


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{key}: {value!r} is not a text")
    return value


def _texts(data: dict[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInputError(f"{key}: {value!r} is not a list of texts")
    return tuple(value)


def _dict(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"{key}: {value!r} is not a mapping")
    return cast("dict[str, Any]", value)


def _mapping(data: dict[str, Any], key: str) -> dict[str, str]:
    value = _dict(data, key)
    if not all(isinstance(item, str) for item in value.values()):
        raise InvalidInputError(f"{key}: every value must be a text, got {value!r}")
    return value


def _whole(data: dict[str, Any], key: str, low: int, high: int) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInputError(f"{key}: {value!r} is not a whole number from {low} to {high}")
    return value


def _seconds(data: dict[str, Any], key: str, default: float) -> float:
    value = data.get(key)
    if value in ("", None):
        return default
    try:
        seconds = parse_duration(cast("str", value))
    except InvalidInputError as error:
        raise InvalidInputError(f"{key}: {error.message}") from error
    if seconds <= 0:
        raise InvalidInputError(f"{key}: {value!r} must be above 0")
    return seconds


def _bytes(data: dict[str, Any], key: str, default: int) -> int:
    value = data.get(key)
    if value in ("", None):
        return default
    try:
        return parse_memory(cast("str", value))
    except InvalidInputError as error:
        raise InvalidInputError(f"{key}: {error.message}") from error


def _flag(data: dict[str, Any], key: str) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise InvalidInputError(f"{key}: {value!r} is neither true nor false")
    return value
