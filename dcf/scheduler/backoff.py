"""Decide how long to wait before the next start after a failed one.

In:   when a replica ended, and how long it had been ready.
Out:  a Backoff; 0 s for one that had worked, else 1, 2, 4 ... 60 s.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

PROVEN_AFTER_S = 10.0
"""Ready for this long: the start was a good one, and what came later is no failed start."""
LONGEST_S = 60.0
GIVE_UP_AFTER = 3
"""Failed starts in a row after which the function counts as failed; it is still tried."""
IMAGE_LONGEST_S = 5.0
"""Looking for an image costs nothing, and somebody is most likely building it right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Of one generation of one function."""

    failures: int = 0
    """In a row."""
    next_at: float = 0.0
    last_failed_at: float = 0.0
    delay_s: float = 0.0
    """Between the last failure and the next start."""
    image_missing: bool = False

    @property
    def given_up(self) -> bool:
        """Whether held calls should fail: there is no hope that the next start works."""
        return self.image_missing or self.failures >= GIVE_UP_AFTER

    def after_exit(self, *, now_s: float, ready_for_s: float) -> Backoff:
        """The back-off once a replica ended that nobody had stopped."""
        if ready_for_s >= PROVEN_AFTER_S:
            return Backoff()
        return self._failed(now_s, LONGEST_S, image_missing=False)

    def after_missing_image(self, *, now_s: float) -> Backoff:
        """The back-off once there was nothing to start from."""
        return self._failed(now_s, IMAGE_LONGEST_S, image_missing=True)

    def after_start(self) -> Backoff:
        """The back-off once a process is up: an image that was missing is there."""
        return Backoff() if self.image_missing else self

    def after_proof(self, *, started_at: float) -> Backoff:
        """The back-off once a replica has been ready for PROVEN_AFTER_S: none, if it started after the failure."""
        return Backoff() if self.failures and started_at >= self.last_failed_at else self

    def after_new_wish(self, *, now_s: float) -> Backoff:
        """The user wrote the spec again: try at once, and forget nothing."""
        return Backoff(
            failures=self.failures,
            next_at=min(self.next_at, now_s),
            last_failed_at=self.last_failed_at,
            delay_s=0.0,
            image_missing=self.image_missing,
        )

    def _failed(self, now_s: float, longest_s: float, *, image_missing: bool) -> Backoff:
        failures = 1 + (self.failures if image_missing == self.image_missing else 0)
        delay_s = min(longest_s, 2.0 ** min(failures - 1, 10))
        return Backoff(
            failures=failures,
            next_at=now_s + delay_s,
            last_failed_at=now_s,
            delay_s=delay_s,
            image_missing=image_missing,
        )
