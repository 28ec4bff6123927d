"""What gateways count of each function, as running totals by measure.

`invocations`; calls by the HTTP status that they ended with, `code/<status>`,
refusals too; and histograms: `seconds` (from arrival to answer), `queue_wait`
(seconds a call waited before its handler), `batch_size`, and `cold_start`
(seconds that the first of the calls held for a replica waited). A histogram's
measures are `<name>/le_<bound>`, not cumulative, and `<name>/sum`. Totals only
grow, so slices of several gateways, and of one that was restarted, add up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Totals = Mapping[str, int]
"""Measure -> running total."""

INVOCATIONS = "invocations"
CODE = "code/"
DURATION_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
                600.0, 3600.0, math.inf)  # fmt: skip
"""Prometheus' own bounds, from a gateway's turnaround to the longest timeouts."""
BATCH_SIZE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, math.inf)


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("_scale", "bounds", "counts", "name", "total")

    def __init__(self, name: str, bounds: tuple[float, ...], *, scale: int = 1) -> None:
        """`scale`: the sum is stored as a whole number of 1/scale."""
        self.name = name
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0
        self._scale = scale

    def observe(self, value: float) -> None:
        """One more, >= 0."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """0 where there is none."""
        return self.total / count if (count := self.count) else 0.0

    def quantile(self, share: float) -> float:
        """Upper bound of the bucket in which that share of them ends; 0 where there is none."""
        left = share * self.count
        for bound, count in zip(self.bounds, self.counts, strict=True):
            left -= count
            if left <= 0:
                return bound if count else 0.0
        return 0.0

    def totals(self) -> dict[str, int]:
        """Its measures, without empty buckets."""
        measures = {f"{self.name}/le_{bound:g}": n for bound, n in zip(self.bounds, self.counts, strict=True) if n}
        return measures | {f"{self.name}/sum": round(self.total * self._scale)} if measures else {}

    def add(self, totals: Totals) -> None:
        """Take the measures of another in."""
        for index, bound in enumerate(self.bounds):
            self.counts[index] += totals.get(f"{self.name}/le_{bound:g}", 0)
        self.total += totals.get(f"{self.name}/sum", 0) / self._scale


@dataclass(slots=True)
class CallTotals:
    """One function's totals."""

    invocations: int
    queue_wait: Histogram
    batch_size: Histogram
    seconds: Histogram
    cold_start: Histogram
    codes: dict[int, int]
    """HTTP status -> calls."""

    @classmethod
    def empty(cls) -> CallTotals:
        """Nothing counted yet."""
        return cls(
            0,
            Histogram("queue_wait", DURATION_S, scale=1_000_000),
            Histogram("batch_size", BATCH_SIZE),
            Histogram("seconds", DURATION_S, scale=1_000_000),
            Histogram("cold_start", DURATION_S, scale=1_000_000),
            {},
        )

    @classmethod
    def of(cls, slices: Iterable[Totals]) -> CallTotals:
        """The sum of all slices."""
        total = cls.empty()
        for one in slices:
            total.add(one)
        return total

    def add(self, totals: Totals) -> None:
        """Take a slice's totals in."""
        self.invocations += totals.get(INVOCATIONS, 0)
        for histogram in self._histograms():
            histogram.add(totals)
        for measure, total in totals.items():
            if measure.startswith(CODE):
                code = int(measure.removeprefix(CODE))
                self.codes[code] = self.codes.get(code, 0) + total

    def count(self, wait_s: float, batch: int) -> None:
        """One more invocation, which waited so long. `batch`: calls in its batch, said by one of them; else 0."""
        self.invocations += 1
        self.queue_wait.observe(wait_s)
        if batch:
            self.batch_size.observe(batch)

    def totals(self) -> dict[str, int]:
        """The store's form."""
        totals = {INVOCATIONS: self.invocations} | {f"{CODE}{code}": number for code, number in self.codes.items()}
        for histogram in self._histograms():
            totals |= histogram.totals()
        return totals

    def count_end(self, code: int, seconds: float) -> None:
        """A call ended so, and so long after it came."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.seconds.observe(seconds)

    def _histograms(self) -> tuple[Histogram, ...]:
        return self.queue_wait, self.batch_size, self.seconds, self.cold_start
