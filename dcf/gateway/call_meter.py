"""Measure one function's calls in this gateway process.

In:   each call as it comes, goes to a replica, leaves it and ends.
Out:  running totals; load_publisher.py makes a FunctionLoad of them.
On the path of every call: a few additions, no task, nothing made.
"""

from __future__ import annotations


class CallMeter:
    """Touched only by the event loop of the gateway."""

    __slots__ = ("_busy_s", "_since", "answered", "arrivals", "at_replicas", "errors", "first_answer_s", "held_at")

    def __init__(self) -> None:
        self.arrivals = 0
        self.answered = 0
        self.errors = 0
        """Ended with 500 or above."""
        self.at_replicas = 0
        """Calls that hold a slot of a replica now."""
        self.held_at: float | None = None
        """Since when calls wait for a first replica; None: they do not."""
        self.first_answer_s = 0.0
        """What the first call that was held waited for its answer, the last time that there was one."""
        self._busy_s = 0.0
        self._since = 0.0

    def move(self, number: int, now: float) -> None:
        """So many calls came to a replica, or, below 0, left it."""
        self._busy_s += self.at_replicas * (now - self._since)
        self._since = now
        self.at_replicas += number

    def busy_s(self, now: float) -> float:
        """Integral of `at_replicas` over time."""
        return self._busy_s + self.at_replicas * (now - self._since)

    def hold(self, now: float) -> None:
        """A call waits, and no replica is there."""
        if self.held_at is None:
            self.held_at = now

    def end(self, code: int, now: float) -> float | None:
        """A call ended with this HTTP status; seconds of the cold start, where it was the first that was held."""
        if code >= 500:
            self.errors += 1
            return None
        self.answered += 1
        if self.held_at is None or code != 200:
            return None
        self.first_answer_s, self.held_at = now - self.held_at, None
        return self.first_answer_s

    def release(self) -> None:
        """Nobody waits for a first replica any more."""
        self.held_at = None
