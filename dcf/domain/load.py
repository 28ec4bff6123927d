"""What gateways see of a function's calls, as running totals.

Each gateway process publishes a LoadReport of its own; the scheduler takes
differences over its windows, so that a report that was missed changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPORT_TTL_S = 5.0
"""A gateway that has said nothing for so long does not count any more; it reports once a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionLoad:
    """One function, as one gateway process sees it. Totals begin with the process."""

    uid: str
    busy_s: float = 0.0
    """Integral of calls that are at replicas over time: grows by 2 in a second with two."""
    arrivals: int = 0
    answered: int = 0
    errors: int = 0
    """Of what came, whatever was answered with 500 or above."""
    in_flight: int = 0
    """Calls at replicas now."""
    uploads: int = 0
    """Calls whose input is still on its way to a replica; they hold no slot yet."""
    queued: int = 0
    """Calls that wait now, those held for a first replica included."""
    held: int = 0
    """Those of them that wait for a first replica."""
    handler_s: float = 0.0
    """What a handler takes, mean of the last calls; 0 where none has ended yet."""
    oldest_wait_s: float = 0.0
    slots: int = 0
    """Handlers that run at once in a replica, as the replicas say; 0 where none has."""
    per_s: float = 0.0
    """Calls that came, mean of the last seconds."""
    durations: Mapping[int, int] = field(default_factory=dict)
    """Of the calls that ended in the last seconds: index in DURATION_S -> calls."""
    first_answer_s: float = 0.0
    """What the first call of the last activation waited for its answer; 0 where there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One gateway process's word."""

    slice_name: str
    age_s: float
    """By Redis' clock, so that no two machines' clocks are compared."""
    functions: Mapping[str, FunctionLoad]
    """By name; one that has no calls, and has had none for a while, is left out."""

    @property
    def is_fresh(self) -> bool:
        """Whether it still counts."""
        return self.age_s <= REPORT_TTL_S


def load_to_json(load: FunctionLoad) -> dict[str, Any]:
    """The store's form, without what is nothing."""
    return {name: value for name in _NAMES if (value := getattr(load, name))}


def load_from_json(data: Mapping[str, Any]) -> FunctionLoad:
    """The inverse of `load_to_json`; keys of a newer release are ignored."""
    known = {key: value for key, value in data.items() if key in _NAMES}
    if "durations" in known:
        known["durations"] = {int(index): number for index, number in known["durations"].items()}
    return FunctionLoad(**known)


_NAMES = tuple(one.name for one in dataclasses.fields(FunctionLoad))
