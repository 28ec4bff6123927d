"""Know the functions, their replicas and their queues; choose a replica.

In:   specs, endpoints and statuses (endpoint_sync), states of the links.
Out:  `FunctionEntry.submit` sends a call to the least loaded replica with a
      free slot, or holds it in a bounded queue until there is one.
`pick` is the pure choice.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from dcf.domain.function import FunctionSpec
from dcf.domain.status import Endpoint, FunctionStatus
from dcf.errors import FunctionNotFoundError, InvocationError, NoReplicaError, OverloadedError
from dcf.gateway.call import PendingCall
from dcf.gateway.call_meter import CallMeter
from dcf.gateway.reply import GrowthBudget
from dcf.rpc.frames import MAX_UPLOADS


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
    def uploads(self) -> int:
        """Calls of this process whose input is still on its way there; they are not outstanding yet."""
        ...

    @property
    def takes_uploads(self) -> bool:
        """It has not refused one since it last told its state."""
        ...

    @property
    def concurrency(self) -> int:
        """Handlers that run at once in it."""
        ...


class Link(Target, Protocol):
    """A replica's stream; `watcher_link` implements it."""

    endpoint: Endpoint
    bidirectional: bool
    """Its handler takes streams of input."""

    @property
    def in_flight(self) -> int:
        """Calls of this process that are there, in any state."""
        ...

    def send(self, call: PendingCall) -> None:
        """Put a call on the stream."""
        ...

    def cancel(self, call: PendingCall) -> None:
        """Nobody waits for it any more."""
        ...

    def grant(self, call: PendingCall, number_bytes: int) -> None:
        """So much more of its answer may come."""
        ...

    def send_input(self, call: PendingCall, piece: bytes, flags: int) -> None:
        """One more piece of its input."""
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


def pick_for_upload(targets: Iterable[T]) -> T | None:
    """The one that takes another upload and has the fewest calls for its slots."""
    best: T | None = None
    best_load = math.inf
    for target in targets:
        room = max(MAX_UPLOADS, target.capacity)
        there = target.outstanding + target.uploads
        if target.open and target.takes_uploads and target.uploads < room and there < target.capacity + room:
            load = (target.outstanding + target.uploads) / target.concurrency
            if load < best_load:
                best, best_load = target, load
    return best


class FunctionEntry:
    """One function. Touched only by the event loop of the gateway."""

    def __init__(self, spec: FunctionSpec, growth: GrowthBudget | None = None) -> None:
        """`growth` is shared by all functions of the process."""
        self.spec = spec
        self.growth = growth or GrowthBudget()
        self.status: FunctionStatus | None = None
        self.removed = False
        """It was deleted."""
        self.endpoints: tuple[Endpoint, ...] = ()
        self.links: dict[str, Link] = {}
        self.mean_handler_s = 0.0
        self.meter = CallMeter()
        self.on_queue: Callable[[FunctionEntry], None] = lambda entry: None
        """Calls wait; told of the first, and each time that they are twice as many."""
        self.changed = asyncio.Event()
        """Set, and replaced, when a replica came into routing or the scheduler said something."""
        self._queue: deque[PendingCall] = deque()
        self._uploads: deque[PendingCall] = deque()
        """Those whose input is still on its way. In a line of their own: they need no slot to begin."""
        self._streams: deque[PendingCall] = deque()
        """Those whose input is a stream. In a line of their own: not every replica may take them during an update."""
        self.queued = 0
        """Calls that wait, in all lines, which may also hold some that were given up."""
        self.asking = 0
        """Streams that wait to learn what kind of handler it is."""

    def submit(self, call: PendingCall) -> None:
        """Send or hold a call. Raises OverloadedError or NoReplicaError when it is refused at once."""
        line = self._line(call)
        if not line or not self.queued:
            link = self._pick(call)
            if link is not None:
                link.send(call)
                return
        self._admit(call)
        line.append(call)
        self._note_queued(call)

    def _line(self, call: PendingCall) -> deque[PendingCall]:
        return self._streams if call.bidirectional else self._uploads if call.upload else self._queue

    def _pick(self, call: PendingCall) -> Link | None:
        if call.bidirectional:  # during an update some replicas may be of a version that takes no streams
            return pick(link for link in self.links.values() if link.bidirectional)
        return (pick_for_upload if call.upload else pick)(self.links.values())

    def _note_queued(self, call: PendingCall) -> None:
        self.queued += 1
        call.queued = True
        call.queued_at = call.loop.time()
        if self.queued & (self.queued - 1) == 0:  # 1, 2, 4, 8 ...: many that come at once are few words
            self.note_waiting(call.queued_at)

    def note_waiting(self, now: float) -> None:
        """Somebody waits: the scheduler is told."""
        if not self.slots():
            self.meter.hold(now)
        self.on_queue(self)

    def _leave_queue(self, call: PendingCall) -> None:
        self.queued -= 1
        call.queued = False
        call.wait_s += call.loop.time() - call.queued_at

    @property
    def bidirectional(self) -> bool | None:
        """Whether the handler takes streams of input; None while no replica has said."""
        known = [link.bidirectional for link in self.links.values() if link.open]
        return any(known) if known else None

    def note_change(self) -> None:
        """Wake who waits for `changed`."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _admit(self, call: PendingCall) -> None:
        """Raise where waiting makes no sense."""
        if self.removed:
            raise self.gone()
        if error := self.hopeless():
            raise error
        spec = self.spec
        self.check_queue()
        estimate_s = self.estimate_s()
        if estimate_s > call.remaining_s():
            raise OverloadedError(
                f"{self.queued} calls of {spec.name} wait already, about {estimate_s:.1f} s of work; "
                f"this one has {max(call.remaining_s(), 0):.1f} s",
                retry_after_s=estimate_s,
            )

    def check_queue(self) -> None:
        """Raise OverloadedError where no more may wait."""
        waiting, limit = self.queued + self.asking, self.spec.queue
        if waiting >= limit:
            raise OverloadedError(
                f"the queue of {self.spec.name} is full: {waiting} calls wait (queue: {limit})",
                retry_after_s=self.estimate_s() or 1.0,
            )

    def gone(self) -> FunctionNotFoundError:
        """It was deleted."""
        return FunctionNotFoundError(f"{self.spec.name} was deleted while the call waited", function=self.spec.name)

    def hopeless(self) -> NoReplicaError | None:
        """Why no replica will take a call, where that is known."""
        spec, status = self.spec, self.status
        if any(link.open for link in self.links.values()):
            return None
        if spec.desired == 0 and not spec.elastic:
            return NoReplicaError(
                f"{spec.name} is scaled to 0 replicas; `dcf function scale {spec.name} 1` starts one",
            )
        if status and status.uid == spec.uid and status.generation == spec.generation and status.failed:
            return NoReplicaError(f"{spec.name} has no replica: {status.reason}", retry_after_s=5.0)
        return None

    def note_handler_s(self, handler_s: float) -> None:
        """A handler took so long; follow the mean."""
        self.mean_handler_s += 0.1 * (handler_s - self.mean_handler_s)

    def slots(self) -> int:
        """Handlers that may run at once in the replicas that take calls; 0 where none does."""
        return sum(link.concurrency for link in self.links.values() if link.open)

    def oldest_wait_s(self, now: float) -> float:
        """Of the calls that wait; 0 where none does."""
        since = (next((call.queued_at for call in line if call.queued), now) for line in self._lines())
        return now - min(since)

    def _lines(self) -> tuple[deque[PendingCall], ...]:
        return self._uploads, self._streams, self._queue

    def estimate_s(self) -> float:
        """Seconds until a call that comes now would begin; 0 where nothing is known."""
        slots = self.slots()
        if slots and self.spec.elastic and self.spec.scaling is not None:
            # More replicas come while it waits; how soon, nobody here knows, and its deadline is its own.
            each = max(link.concurrency for link in self.links.values() if link.open)
            slots = max(slots, each * self.spec.scaling.max_replicas)
        return self.queued * self.mean_handler_s / slots if slots else 0.0

    def missing(self) -> str:
        """What a call waits for, for its error."""
        status = self.status
        if status and status.uid == self.spec.uid and status.reason:
            return status.reason
        return "no replica is ready yet" if self.endpoints else "the scheduler has not started a replica yet"

    def requeue(self, call: PendingCall) -> None:
        """Take back a call that a replica has not started: it goes first."""
        if call.settled:
            return
        if self.removed:
            call.fail(self.gone())
            return
        call.rewind()
        self._line(call).appendleft(call)
        self._note_queued(call)

    def give_up(self, call: PendingCall) -> None:
        """The call was cancelled or its time is over, wherever it is."""
        if call.queued:
            self._leave_queue(call)
            # Left in the deque; dispatch skips it. Not for ever: a stuck function's queue is compacted here.
            line = self._line(call)
            if len(line) > 2 * self.queued + 64:
                waiting = [one for one in line if one.queued]
                line.clear()
                line.extend(waiting)
        elif call.link is not None:
            call.link.cancel(call)

    def dispatch(self) -> None:
        """Send what waits, as far as there is room."""
        if self.queued:
            for line in self._lines():
                self._dispatch(line)

    def _dispatch(self, line: deque[PendingCall]) -> None:
        while line:
            call = line[0]
            if not call.queued:
                line.popleft()
                continue
            link = self._pick(call)
            if link is None:
                return
            line.popleft()
            self._leave_queue(call)
            link.send(call)

    def fail_waiting(self, make_error: Callable[[], InvocationError]) -> None:
        """Answer every waiting call with an error."""
        waiting = [call for line in self._lines() for call in line]
        for line in self._lines():
            line.clear()
        for call in waiting:
            if call.queued:
                self._leave_queue(call)
                call.fail(make_error())


class Router:
    """All functions. Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self.functions: dict[str, FunctionEntry] = {}
        self._growth = GrowthBudget()
        self.on_endpoints: Callable[[FunctionEntry], None] = lambda entry: None
        """Endpoints of a function changed: the links follow."""
        self.on_queue: Callable[[FunctionEntry], None] = lambda entry: None
        """Calls of a function wait: the scheduler is told."""
        self.removed: set[str] = set()
        """Uids of functions that went since `endpoint_sync` began to read: what it read may still have them."""

    def apply_spec(self, spec: FunctionSpec) -> None:
        """A function is new or changed."""
        entry = self.functions.get(spec.name)
        if entry is not None and entry.spec.uid != spec.uid:
            self.remove(spec.name)
            entry = None
        if entry is None:
            entry = self.functions[spec.name] = FunctionEntry(spec, self._growth)
            entry.on_queue = self.on_queue
        elif spec.revision >= entry.spec.revision:
            entry.spec = spec

    def apply_status(self, name: str, status: FunctionStatus | None) -> None:
        """What the scheduler says. A failed function's held calls are answered at once."""
        entry = self.functions.get(name)
        if entry is None:
            return
        entry.status = status
        entry.note_change()
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
        entry.fail_waiting(entry.gone)
        entry.removed = True
        entry.note_change()
        entry.endpoints = ()
        self.on_endpoints(entry)
