"""Durations, memory and CPU as people write them."""

from __future__ import annotations

import re

from dcf.errors import InvalidInputError

_NUMBER = r"(?P<number>[0-9]{1,18}(\.[0-9]{1,18})?)"
_DURATION = re.compile(_NUMBER + r"(?P<unit>ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_MEMORY = re.compile(_NUMBER + r"(?P<unit>[KMGT]i?B?|B)?", re.IGNORECASE)
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}
_CPU = re.compile(_NUMBER + r"(?P<milli>m)?")

DURATION_FORM = "a duration such as 500ms, 30s, 5m or 1h"
MEMORY_FORM = "an amount such as 512Mi, 1G or 1073741824"
CPU_FORM = "a number of CPUs such as 1, 0.5 or 500m"


def parse_duration(text: str | float) -> float:
    """Seconds, >= 0; a bare number is seconds. Raises InvalidInputError."""
    match = _DURATION.fullmatch(str(text).strip())
    if not match or isinstance(text, bool):
        raise InvalidInputError(f"{text!r} is not {DURATION_FORM}")
    return float(match["number"]) * _SECONDS[match["unit"]]


def format_duration(seconds: float) -> str:
    """The shortest form that `parse_duration` reads back."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    number, unit = (seconds * 1000, "ms") if 0 < seconds < 1 else (seconds, "s")
    return f"{number:.9f}".rstrip("0").rstrip(".") + unit


def parse_memory(text: str | int) -> int:
    """Bytes, > 0. K, M, G and T are powers of 1000, with an i of 1024, as Kubernetes has them."""
    match = _MEMORY.fullmatch(str(text).strip())
    if not match or isinstance(text, bool):
        raise InvalidInputError(f"{text!r} is not {MEMORY_FORM}")
    unit = (match["unit"] or "").lower().rstrip("b")
    scale = (1024 if unit.endswith("i") else 1000) ** _POWER.get(unit[:1], 0)
    number = int(float(match["number"]) * scale)
    if number <= 0:
        raise InvalidInputError(f"{text!r} is not {MEMORY_FORM}: it must be above 0")
    return number


def format_memory(number_bytes: int) -> str:
    """The shortest form that `parse_memory` reads back."""
    for unit, power in (("Gi", 3), ("Mi", 2), ("Ki", 1)):
        if number_bytes and number_bytes % 1024**power == 0:
            return f"{number_bytes // 1024**power}{unit}"
    return str(number_bytes)


def parse_cpu(text: str | float) -> float:
    """CPUs, > 0. Raises InvalidInputError."""
    match = _CPU.fullmatch(str(text).strip())
    if not match or isinstance(text, bool):
        raise InvalidInputError(f"{text!r} is not {CPU_FORM}")
    number = float(match["number"]) / (1000 if match["milli"] else 1)
    if number <= 0:
        raise InvalidInputError(f"{text!r} is not {CPU_FORM}: it must be above 0")
    return number


def parse_gpu(text: str | int) -> int:
    """Whole GPUs, >= 0. Raises InvalidInputError."""
    if isinstance(text, bool) or not re.fullmatch("[0-9]{1,9}", str(text).strip()):
        raise InvalidInputError(f"{text!r} is not a whole number of GPUs such as 1")
    return int(text)
