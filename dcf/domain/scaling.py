"""How a function may be scaled: its policy, and what was decided and why.

`parse_scaling` reads the `scaling` block of a deploy request, `from_labels`
the labels of the original's successor. All of it is pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from dcf.domain.quantity import format_duration, parse_duration
from dcf.errors import InvalidInputError

MAX_REPLICAS = 1000
DEFAULT_MAX_REPLICAS = 20
"""Where an elastic function names no `max`: OpenFaaS's default, and more than most clusters of this kind can place."""
Metric = Literal["concurrency", "rps"]
METRICS: tuple[Metric, ...] = ("concurrency", "rps")
LABELS = {"scale_min": "min", "scale_max": "max", "scale_factor": "factor"}
"""Labels of the original's successor, and the keys of `scaling` that say the same."""

LABEL_RANGES = {"scale_min": (0, MAX_REPLICAS), "scale_max": (1, MAX_REPLICAS), "scale_factor": (0, 100)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """What the user allows and aims at. Defaults are those of `templates/config.yaml`."""

    min_replicas: int = 1
    """0 lets an idle function end altogether."""
    max_replicas: int = DEFAULT_MAX_REPLICAS
    target: float | None = None
    """Calls in flight and queued (or calls per second) per replica, > 0; None: the function's concurrency."""
    utilization: float = 0.7
    """The share of `target` that is aimed at, in (0, 1]: the rest takes a burst while more replicas start."""
    metric: Metric = "concurrency"
    idle_s: float = 300.0
    """With `min_replicas` 0: how long without a call until the last replica ends."""
    initial_replicas: int | None = None
    """At the first deployment; None: `min_replicas`, at least 1."""
    factor: int | None = None
    """Percent of `max_replicas` that one step adds at most; None: ten times what is there."""

    @property
    def initial(self) -> int:
        """Replicas before anything is known of the calls."""
        return max(1, self.min_replicas) if self.initial_replicas is None else self.initial_replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """What a decision saw of a function, over all gateways."""

    in_flight: float = 0.0
    """Calls at replicas, mean of the stable window."""
    burst: float = 0.0
    """The same of the burst window."""
    now: int = 0
    """Calls at replicas now."""
    queued: int = 0
    """Calls that wait now, held ones included."""
    pressing: float = 0.0
    """Of them those that more replicas would help: not what is worked off before one could start."""
    per_s: float = 0.0
    """Calls that came, mean of the stable window."""
    burst_per_s: float = 0.0
    """The same of the burst window."""
    came: bool = False
    """Whether a call has come since the decision before."""
    ready: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDecision:
    """One decision, made or held, as people read it."""

    at: float
    """Unix seconds."""
    seen: LoadFacts
    before: int
    wanted: int
    """What the calls ask for, before any limit."""
    replicas: int
    """What it is: `wanted` within rate, min, max and supply."""
    reason: str
    """One sentence."""
    limit: str = ""
    """What held it back: min, max, supply, rate, window, burst, young, tolerance, idle or silence; "" where nothing."""

    @property
    def held(self) -> bool:
        """Nothing was changed."""
        return self.replicas == self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """How long the last start of a replica took, in seconds since it was asked for; 0: not known."""

    container_s: float = 0.0
    """Until its container or process was there."""
    watcher_s: float = 0.0
    """Until its watcher answered."""
    loaded_s: float = 0.0
    """Until its handler was loaded."""


NO_COLD_START = ColdStart()


def parse_scaling(data: Mapping[str, Any]) -> ScalingPolicy:
    """Read a `scaling` block. Raises InvalidInputError naming the field."""
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise InvalidInputError(f"scaling: unknown field {unknown[0]!r}; expected one of {', '.join(sorted(_FIELDS))}")
    lowest = _whole(data, "min", 0, 1)
    highest = _whole(data, "max", 1, max(lowest, DEFAULT_MAX_REPLICAS))
    if highest < lowest:
        raise InvalidInputError(f"scaling.max: {highest} is not allowed: expected at least min, which is {lowest}")
    metric = data.get("metric") or "concurrency"
    if metric not in METRICS:
        raise InvalidInputError(f"scaling.metric: {metric!r} is neither {' nor '.join(METRICS)}")
    if metric == "rps" and not data.get("target"):
        raise InvalidInputError("scaling.target: missing; metric rps needs it: calls per second of one replica")
    initial = data.get("initial")
    if initial is not None:
        initial = _whole(data, "initial", 0, 1)
        if not lowest <= initial <= highest:
            raise InvalidInputError(f"scaling.initial: {initial} is not allowed: expected {lowest} to {highest}")
    return ScalingPolicy(
        min_replicas=lowest,
        max_replicas=highest,
        target=_number(data, "target", math.inf),
        utilization=_default(_number(data, "utilization", 1.0), 0.7),
        metric=cast("Metric", metric),
        idle_s=_idle(data),
        initial_replicas=initial,
        factor=None if data.get("factor") is None else _whole(data, "factor", 1, 100, high=100),
    )


def from_labels(labels: Mapping[str, str]) -> dict[str, Any]:
    """The `scaling` block that these labels stand for; empty where there are none. Raises InvalidInputError."""
    found: dict[str, Any] = {}
    for label, key in LABELS.items():
        text = labels.get(label, "").strip()
        if not text:
            continue
        low, high = LABEL_RANGES[label]
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise InvalidInputError(f"labels: {label}={text!r} is not a whole number from {low} to {high}")
        found[key] = int(text)
    if found.get("factor") == 0:
        # The successor's way to say: do not scale.
        found["factor"], found["max"] = 100, max(1, found.get("min", 1))
        found["min"] = found["max"]
    return found


def scaling_to_request(policy: ScalingPolicy) -> dict[str, Any]:
    """The block that `parse_scaling` reads back."""
    block: dict[str, Any] = {
        "min": policy.min_replicas,
        "max": policy.max_replicas,
        "utilization": policy.utilization,
        "metric": policy.metric,
        "idle": format_duration(policy.idle_s),
    }
    if policy.target is not None:
        block["target"] = policy.target
    if policy.initial_replicas is not None:
        block["initial"] = policy.initial_replicas
    if policy.factor is not None:
        block["factor"] = policy.factor
    return block


def scaling_from_json(data: Mapping[str, Any]) -> ScalingPolicy:
    """The store's form; before there was an autoscaler that was the block as the user wrote it."""
    if "min_replicas" not in data:
        try:
            return parse_scaling(data)
        except InvalidInputError:
            return ScalingPolicy()  # it was never checked then, and one function must not stop all
    names = {field.name for field in dataclasses.fields(ScalingPolicy)}
    return ScalingPolicy(**{key: value for key, value in data.items() if key in names})


def decision_to_json(decision: ScaleDecision) -> dict[str, Any]:
    """The store's form."""
    return dataclasses.asdict(decision)


def decision_from_json(data: Mapping[str, Any]) -> ScaleDecision:
    """The inverse of `decision_to_json`; keys of a newer release are ignored."""
    names = {field.name for field in dataclasses.fields(ScaleDecision)}
    seen_names = {field.name for field in dataclasses.fields(LoadFacts)}
    seen = LoadFacts(**{key: value for key, value in data["seen"].items() if key in seen_names})
    return ScaleDecision(**{key: value for key, value in data.items() if key in names} | {"seen": seen})


_FIELDS = {"min", "max", "target", "utilization", "metric", "idle", "initial", "factor"}


def _whole(data: Mapping[str, Any], key: str, low: int, default: int, *, high: int = MAX_REPLICAS) -> int:
    value = data.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInputError(f"scaling.{key}: {value!r} is not a whole number from {low} to {high}")
    return value


def _number(data: Mapping[str, Any], key: str, high: float) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high or value == math.inf:
        limit = "" if high == math.inf else f" up to {high:g}"
        raise InvalidInputError(f"scaling.{key}: {value!r} is not a number above 0{limit}")
    return float(value)


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _idle(data: Mapping[str, Any]) -> float:
    value = data.get("idle")
    if value in ("", None):
        return 300.0
    try:
        seconds = parse_duration(cast("str", value))
    except InvalidInputError as error:
        raise InvalidInputError(f"scaling.idle: {error.message}") from error
    if seconds <= 0:
        raise InvalidInputError(f"scaling.idle: {value!r} must be above 0")
    return seconds
