"""Average what gateways report over the scaler's two windows.

In:   LoadReports, one after the other, and when each was read.
Out:  LoadFacts of a function: means of the stable and the burst window, and
      what waits now. None where no gateway has a fresh word: no data is no zero.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from dcf.domain.load import FunctionLoad
from dcf.domain.scaling import LoadFacts

WORTHWHILE_S = 1.0
"""What waits and is worked off within so long asks for no more replicas: none would start in less. What takes half as
long counts half, so that nothing jumps."""
CLEARED_S = 2.0
"""A backlog shall be worked off within so long, beside the calls that come."""
NO_AGES: Mapping[str, float] = MappingProxyType({})
POINT_S = 0.5
"""Points that are nearer to each other become one: a burst of wake-ups makes no long history."""


@dataclass(slots=True)
class _Slice:
    """Totals of one gateway process, (seconds, busy_s, arrivals), oldest first."""

    points: deque[tuple[float, float, int]] = field(default_factory=deque)

    def add(self, at: float, busy_s: float, arrivals: int, keep_s: float) -> None:
        points = self.points
        if points and at <= points[-1][0]:
            points[-1] = (points[-1][0], busy_s, arrivals)  # the same word again, or clocks that were set
            return
        # The last point moves along until it is far enough from the one before it.
        if len(points) > 1 and at - points[-2][0] < POINT_S:
            points[-1] = (at, busy_s, arrivals)
        else:
            points.append((at, busy_s, arrivals))
        while len(points) > 2 and at - points[1][0] >= keep_s:
            points.popleft()

    def over(self, window_s: float) -> tuple[float, float]:
        """Growth of busy_s and arrivals in the window that ends with the last word, each divided by its length."""
        points = self.points
        if not points:
            return 0.0, 0.0
        end, busy_s, arrivals = points[-1]
        start_at = end - window_s
        for index in range(len(points) - 2, -1, -1):
            at, busy, came = points[index]
            if at <= start_at:
                later = points[index + 1]
                # Between two points it grew evenly, as far as anybody knows.
                share = (start_at - at) / (later[0] - at) if later[0] > at else 0.0
                busy, came_then = busy + share * (later[1] - busy), came + share * (later[2] - came)
                return (busy_s - busy) / window_s, (arrivals - came_then) / window_s
        at, busy, came = points[0]
        length_s = max(end - at, 1.0)
        return (busy_s - busy) / length_s, (arrivals - came) / length_s


class LoadWindow:
    """One function's history. Touched only by its owner."""

    def __init__(self, uid: str, *, stable_s: float, burst_s: float) -> None:
        self.uid = uid
        self._stable_s = stable_s
        self._burst_s = burst_s
        self._slices: dict[str, _Slice] = {}
        self.queued = 0
        self.handler_s = 0.0
        self.in_flight = 0
        self.oldest_wait_s = 0.0
        self.slots = 0
        self.came = False
        """Whether a call came between the last two times."""

    def add(
        self,
        reports: Sequence[tuple[str, FunctionLoad | None]],
        now_s: float,
        *,
        ages_s: Mapping[str, float] = NO_AGES,
    ) -> None:
        """Take in what the gateways with a fresh word say: each slice, and the function's load; None: nothing new.

        Args:
            ages_s: by slice, how old its word is; one that is not there has just come.
        """
        self.queued = self.in_flight = 0
        self.oldest_wait_s = 0.0
        came = False
        for name, load in reports:
            one = self._slices.get(name)
            said = load if load is not None and load.uid == self.uid else None
            if one is None:
                one = self._slices[name] = _Slice()
            # What it counted before it was heard first is no growth of this moment, however long it had nothing to say.
            _, busy_s, arrivals = one.points[-1] if one.points else (0.0, 0.0, 0)
            if said is None and not one.points:
                continue
            if said is not None:
                if said.busy_s < busy_s or said.arrivals < arrivals:
                    one.points.clear()  # the process began anew
                    arrivals = 0
                came = came or said.arrivals > arrivals
                busy_s, arrivals = said.busy_s, said.arrivals
                self.queued += said.queued
                self.handler_s = said.handler_s or self.handler_s
                self.in_flight += said.in_flight + said.uploads
                self.oldest_wait_s = max(self.oldest_wait_s, said.oldest_wait_s)
                self.slots = said.slots or self.slots
            one.add(now_s - ages_s.get(name, 0.0), busy_s, arrivals, self._stable_s)
        self.came = came
        for name in self._slices.keys() - {name for name, _ in reports}:
            del self._slices[name]

    def facts(self, *, ready: int, slots: int) -> LoadFacts:
        """Means over the windows; `slots` are those of one replica."""
        stable = burst = per_s = burst_per_s = 0.0
        for one in self._slices.values():
            busy, came = one.over(self._stable_s)
            stable, per_s = stable + busy, per_s + came
            busy, came = one.over(self._burst_s)
            burst, burst_per_s = burst + busy, burst_per_s + came
        return LoadFacts(
            in_flight=stable,
            burst=burst,
            now=self.in_flight,
            queued=self.queued,
            pressing=self._pressing(ready * slots),
            per_s=per_s,
            burst_per_s=burst_per_s,
            came=self.came,
            ready=ready,
        )

    def _pressing(self, slots: int) -> float:
        """Of what waits, the calls that more replicas would help.

        All of it where nothing is known of the replicas yet, or it has waited for less than a call takes. Later it is
        what came in the meantime, by Little's law, and what clears the backlog: a line of 1 000 calls of 0.1 s that
        grew in 1 s is a load of 100, not of 1 000.
        """
        queued, handler_s = self.queued, self.handler_s
        if not (queued and handler_s and slots):
            return float(queued)
        coming = queued * min(1.0, handler_s / max(self.oldest_wait_s, handler_s))
        backlog = queued * min(1.0, handler_s / CLEARED_S)
        worth = min(1.0, queued * handler_s / slots / WORTHWHILE_S)
        return min(float(queued), coming + backlog) * worth
