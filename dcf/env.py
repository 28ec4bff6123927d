"""Environment variables to frozen settings, once, in each process's main.

A settings class is a frozen dataclass; field `tick_s` is read from
DCF_TICK_S. A bad value, and an unknown DCF_* name, stops the process with
name, value and what was expected.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dcf.errors import ConfigError

T = TypeVar("T")

USER_NAMES = frozenset(
    {"DCF_GATEWAY", "DCF_TOKEN", "DCF_TOKEN_FILE", "DCF_STATE", "DCF_BUNDLES", "DCF_CONFIG", "DCF_DEBUG", "DCF_IMAGE"}
)
"""Names that the CLI reads: every process may find them in its user's shell."""


def require(good: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError unless `good`."""
    if not good:
        raise ConfigError(f"{name}={value!r} is not allowed: expected {expected}")


def read_settings(cls: type[T], environ: Mapping[str, str]) -> T:
    """Build `cls` from `environ`. Raises ConfigError."""
    hints = typing.get_type_hints(cls)
    fields = {f"DCF_{f.name.upper()}": f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(
        name for name in environ if name.startswith("DCF_") and name not in fields and name not in USER_NAMES
    )
    if unknown:
        raise ConfigError(f"{unknown[0]}={environ[unknown[0]]!r} is not known: expected one of {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in environ:
            values[field.name] = _convert(name, environ[name], hints[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} is missing: expected {field.name}")
    return cls(**values)


def write_settings(settings: Any) -> dict[str, str]:
    """The environment from which `read_settings` builds `settings` again; None is left out."""
    environ: dict[str, str] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            text = ("1" if value else "0") if isinstance(value, bool) else str(value)
            environ[f"DCF_{field.name.upper()}"] = text
    return environ


def _convert(name: str, text: str, hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
    kind = kinds[0]
    if kind is bool:
        require(text in {"0", "1", "true", "false"}, name, text, "0 or 1")
        return text in {"1", "true"}
    if kind in (int, float):
        try:
            number = kind(text)
            require(math.isfinite(number), name, text, "a finite number")
            return number
        except ValueError:
            raise ConfigError(
                f"{name}={text!r} is not allowed: expected {'a whole number' if kind is int else 'a number'}"
            ) from None
    return kind(text)
