"""Know the functions, their replicas and their queues; choose a replica.

In:   specs, endpoints and statuses (endpoint_sync), states of the links.
Out:  `FunctionEntry.submit` sends a call to the least loaded replica with a
      free slot, or holds it in a bounded queue until there is one.
`pick` is the pure choice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from dcf.domain.function import FunctionSpec
from dcf.domain.status import Endpoint, FunctionStatus
from dcf.errors import FunctionNotFoundError, InvocationError, NoReplicaError, OverloadedError
from dcf.gateway.call import PendingCall


class Target(Protocol):
    """What `pick` looks at: one replica as this gateway process sees it."""

    @property
    def open(self) -> bool:
        """Connected, loaded, not draining, heard of lately."""
        ...

    @property
    def outstanding(self) -> int:
        """Calls of this process that are there."""
        ...

    @property
    def capacity(self) -> int:
        """Calls of this process that may be there."""
        ...

    @property
    def concurrency(self) -> int:
        """Handlers that run at once in it."""
        ...


class Link(Target, Protocol):
    """A replica's stream; `watcher_link` implements it."""

    endpoint: Endpoint

    def send(self, call: PendingCall) -> None:
        """Put a call on the stream."""
        ...

    def cancel(self, call: PendingCall) -> None:
        """Nobody waits for it any more."""
        ...


T = TypeVar("T", bound=Target)


def pick(targets: Iterable[T]) -> T | None:
    """The one with room and the fewest calls for its slots; None when all are full."""
    best: T | None = None
    best_load = math.inf
    for target in targets:
        if target.open and target.outstanding < target.capacity:
            load = target.outstanding / target.concurrency
            if load < best_load:
                best, best_load = target, load
    return best


class FunctionEntry:
    """One function. Touched only by the event loop of the gateway."""

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self.status: FunctionStatus | None = None
        self.endpoints: tuple[Endpoint, ...] = ()
        self.links: dict[str, Link] = {}
        self.mean_handler_s = 0.0
        self._queue: deque[PendingCall] = deque()
        self.queued = 0
        """Calls that wait; `_queue` may also hold some that were given up."""

    def submit(self, call: PendingCall) -> None:
        """Send or hold a call. Raises OverloadedError or NoReplicaError when it is refused at once."""
        if not self.queued:
            link = pick(self.links.values())
            if link is not None:
                link.send(call)
                return
        self._admit(call)
        self._queue.append(call)
        self.queued += 1
        call.queued = True

    def _admit(self, call: PendingCall) -> None:
        """Raise where waiting makes no sense."""
        if error := self.hopeless():
            raise error
        spec = self.spec
        if self.queued >= spec.queue:
            raise OverloadedError(
                f"the queue of {spec.name} is full: {self.queued} calls wait (queue: {spec.queue})",
                retry_after_s=self.estimate_s() or 1.0,
            )
        estimate_s = self.estimate_s()
        if estimate_s > call.remaining_s():
            raise OverloadedError(
                f"{self.queued} calls of {spec.name} wait already, about {estimate_s:.1f} s of work; "
                f"this one has {max(call.remaining_s(), 0):.1f} s",
                retry_after_s=estimate_s,
            )

    def hopeless(self) -> NoReplicaError | None:
        """Why no replica will take a call, where that is known."""
        spec, status = self.spec, self.status
        if any(link.open for link in self.links.values()):
            return None
        if spec.desired == 0:
            return NoReplicaError(
                f"{spec.name} is scaled to 0 replicas; `dcf function scale {spec.name} 1` starts one",
            )
        if status and status.uid == spec.uid and status.generation == spec.generation and status.failed:
            return NoReplicaError(f"{spec.name} has no replica: {status.reason}", retry_after_s=5.0)
        return None

    def estimate_s(self) -> float:
        """Seconds until a call that comes now would begin; 0 where nothing is known."""
        slots = sum(link.concurrency for link in self.links.values() if link.open)
        return self.queued * self.mean_handler_s / slots if slots else 0.0

    def missing(self) -> str:
        """What a call waits for, for its error."""
        status = self.status
        if status and status.uid == self.spec.uid and status.reason:
            return status.reason
        return "no replica is ready yet" if self.endpoints else "the scheduler has not started a replica yet"

    def requeue(self, call: PendingCall) -> None:
        """Take back a call that a replica has not started: it goes first."""
        if call.future.done():
            return
        self._queue.appendleft(call)
        self.queued += 1
        call.queued = True

    def give_up(self, call: PendingCall) -> None:
        """The call was cancelled or its time is over, wherever it is."""
        if call.queued:
            call.queued = False
            self.queued -= 1
            # Left in the deque; dispatch skips it. Not for ever: a stuck function's queue is compacted here.
            if len(self._queue) > 2 * self.queued + 64:
                self._queue = deque(waiting for waiting in self._queue if waiting.queued)
        elif call.link is not None:
            call.link.cancel(call)

    def dispatch(self) -> None:
        """Send what waits, as far as there is room."""
        while self.queued:
            link = pick(self.links.values())
            if link is None:
                return
            call = self._queue.popleft()
            if call.queued:
                call.queued = False
                self.queued -= 1
                link.send(call)

    def fail_waiting(self, make_error: Callable[[], InvocationError]) -> None:
        """Answer every waiting call with an error."""
        waiting, self._queue = self._queue, deque()
        self.queued = 0
        for call in waiting:
            if call.queued:
                call.queued = False
                call.fail(make_error())


class Router:
    """All functions. Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self.functions: dict[str, FunctionEntry] = {}
        self.on_endpoints: Callable[[FunctionEntry], None] = lambda entry: None
        """Endpoints of a function changed: the links follow."""
        self.removed: set[str] = set()
        """Uids of functions that went since `endpoint_sync` began to read: what it read may still have them."""

    def apply_spec(self, spec: FunctionSpec) -> None:
        """A function is new or changed."""
        entry = self.functions.get(spec.name)
        if entry is not None and entry.spec.uid != spec.uid:
            self.remove(spec.name)
            entry = None
        if entry is None:
            self.functions[spec.name] = FunctionEntry(spec)
        elif spec.revision >= entry.spec.revision:
            entry.spec = spec

    def apply_status(self, name: str, status: FunctionStatus | None) -> None:
        """What the scheduler says. A failed function's held calls are answered at once."""
        entry = self.functions.get(name)
        if entry is None:
            return
        entry.status = status
        if entry.queued and (error := entry.hopeless()):
            message, retry_after_s = error.message, error.retry_after_s
            entry.fail_waiting(lambda: NoReplicaError(message, retry_after_s=retry_after_s))

    def apply_endpoints(self, name: str, endpoints: tuple[Endpoint, ...]) -> None:
        """Where its replicas are now."""
        entry = self.functions.get(name)
        if entry is not None and entry.endpoints != endpoints:
            entry.endpoints = endpoints
            self.on_endpoints(entry)

    def remove(self, name: str) -> None:
        """The function was deleted: waiting calls fail, running ones end."""
        entry = self.functions.pop(name, None)
        if entry is None:
            return
        self.removed.add(entry.spec.uid)
        entry.fail_waiting(lambda: FunctionNotFoundError(f"{name} was deleted while the call waited"))
        entry.endpoints = ()
        self.on_endpoints(entry)
