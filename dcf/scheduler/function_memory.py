"""What the control loop remembers of one function from turn to turn.

In:   the spec of each turn; what failed.
Out:  how long to wait before the next try, and what to say meanwhile.
A new leader begins with an empty memory: nothing in it is needed to be right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.scaling import NO_COLD_START, ColdStart
from dcf.domain.status import FunctionStatus
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaExit
from dcf.scheduler.backoff import Backoff
from dcf.scheduler.reconciler import ReplicaView
from dcf.scheduler.status_report import Failure

MadeOf = tuple[str, int, str]
"""uid, generation, digest: of another one nothing that failed before says anything."""


def made_of(thing: FunctionSpec | ObservedReplica) -> MadeOf:
    """What a replica is, or shall be, made of."""
    digest = replica_digest(thing) if isinstance(thing, FunctionSpec) else thing.digest
    return thing.uid, thing.generation, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A function as a turn left it in which nothing was to be done: as long as nothing is new, nothing is."""

    spec: FunctionSpec
    replicas: list[ObservedReplica]
    views: list[ReplicaView]


@dataclass(slots=True)
class FunctionMemory:
    """Touched only by the control loop and its mover."""

    made_of: MadeOf = ("", 0, "")
    revision: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    failure: Failure | None = None
    waiting: str = ""
    """Why no more replicas can be placed now, such as "no GPU free: ..."; "" where nothing is in the way."""
    written: FunctionStatus | None = None
    service_revision: int = 0
    """Of the spec with which the service was written last; 0: not by this leader."""
    asked_at: float = 0.0
    """When more replicas than before were asked for last, unix seconds."""
    cold_start: ColdStart = NO_COLD_START
    """Of the replica that became ready last."""
    unfinished: bool = False
    """More starts are to be made; the others have their turn first."""
    tried_at: float = 0.0
    """When calls woke it last, and it was tried anew whatever had failed before."""
    steady: Steady | None = None
    deleted: bool = False
    """Its status and endpoints are out of the store."""

    def meet(self, spec: FunctionSpec, now_s: float) -> None:
        """Take note of what is wanted now."""
        if made_of(spec) != self.made_of:
            self.made_of, self.backoff, self.failure, self.waiting = made_of(spec), Backoff(), None, ""
        elif spec.revision != self.revision:
            self.backoff = self.backoff.after_new_wish(now_s=now_s)
        self.revision = spec.revision
        self.deleted = False

    def ask(self, before: int, after: int, now_s: float) -> None:
        """The number of replicas that shall run was decided."""
        if after > before:
            self.asked_at = now_s
            if before == 0 and (self.backoff.image_missing or now_s >= self.backoff.next_at):
                # Somebody calls. To look for an image costs nothing; a start that failed waits for its back-off.
                self.backoff, self.tried_at = self.backoff.after_new_wish(now_s=now_s), now_s

    @property
    def hopeless(self) -> bool:
        """Whether held calls should fail now: it is given up on, and the last try has failed."""
        return self.backoff.given_up and self.backoff.last_failed_at >= self.tried_at

    def forget(self) -> None:
        """The function was deleted."""
        self.deleted = True
        self.made_of, self.written, self.waiting = ("", 0, ""), None, ""

    def on_exit(self, one: ReplicaExit, *, ready_for_s: float, now_s: float) -> None:
        """A replica of ours ended that nobody had stopped."""
        if one.image_missing:
            self.backoff = self.backoff.after_missing_image(now_s=now_s)
        else:
            self.backoff = self.backoff.after_exit(now_s=now_s, ready_for_s=ready_for_s)
        self.failure = Failure(replica=one.replica.name, cause=one.cause, log_tail=one.log_tail)
