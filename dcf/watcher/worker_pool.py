"""Own the replica's slots: which call goes to which worker, and when.

In:   calls of the callers' links (`submit`, `on_caller_frame`), frames of the
      workers (`on_worker_frames`).
Out:  answers on the link that each call came from; `announce()`, what the
      gateways are told.
The watcher hands a fast handler more than it can run, so that it never waits
for the next call, but only as much as it does in HAND_AHEAD_S. Workers come
and go in worker_keeper.py, the handlers' own calls pass through mesh.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from dcf.errors import ClientGoneError, DeadlineError, InvocationError, ProtocolError, ReplicaLostError
from dcf.rpc import frames
from dcf.rpc.frames import LAST, MAX_UPLOADS, MESH_BIT, REPLY_PREFIX, STREAM, Frame, pack, unpack_credit
from dcf.rpc.status import to_wire
from dcf.watcher.batcher import Batcher
from dcf.watcher.invocation import CallerLink, Invocation
from dcf.watcher.mesh import MeshRoutes
from dcf.watcher.worker_process import WorkerProcess

HAND_AHEAD_S = 0.002
"""Committed to a worker beyond its slots: what its handler does in this time (architecture, decision 3a)."""
MAX_HAND_AHEAD = 64
"""Bounds the damage when a handler that was fast is suddenly slow."""
READ_AHEAD_S = 0.005
"""A gateway may keep this much more work here, so that the watcher never waits for the network."""
MAX_READ_AHEAD = 128
SLOW_S = 0.05
"""A handler that takes longer has its calls wait at the gateway, which can still send them elsewhere."""
MAX_WAITING = 10_000
"""Over all callers; a gateway keeps to its capacity, so only unary calls can come near."""

TOO_LATE = "the call's time ended before its handler could start"

_FROM_CALLER = frozenset({frames.DATA, frames.CANCEL, frames.CREDIT})
_FROM_WORKER = frozenset({frames.REPLY, frames.DATA, frames.ERROR, frames.CREDIT})


class WorkerPool:
    """Touched only by the event loop of the watcher."""

    def __init__(self, *, kill_after_s: float, batcher: Batcher | None = None) -> None:
        self.draining = False
        self.failed_because = ""
        """Set when the handler cannot be loaded (any more) and the watcher ends."""
        self.restarts = 0
        self.on_change: Callable[[], None] = lambda: None
        """State or capacity changed."""
        self.on_condemned: Callable[[WorkerProcess, int], None] = lambda worker, overdue: None
        """Nothing but overdue calls runs in the worker: it is to be ended."""
        self.workers: list[WorkerProcess] = []
        self.gateways: set[CallerLink] = set()
        self._kill_after_s = kill_after_s
        self._batcher = batcher
        self._timer: asyncio.TimerHandle | None = None
        """Ends the wait for a batch that is not full."""
        self._mesh = MeshRoutes(self.gateways)
        self._waiting: deque[Invocation] = deque()
        self._next_id = 0
        self._told_capacity = 0

    # -- state -------------------------------------------------------------

    def state(self) -> str:
        """starting, ready, busy, draining or failed."""
        if self.failed_because:
            return "failed"
        if self.draining:
            return "draining"
        if not self.slots():
            return "starting"
        return "busy" if self.in_flight() >= self.places() else "ready"

    def slots(self) -> int:
        """Handlers that can run at once now."""
        return sum(worker.slots for worker in self.workers if worker.ready and not worker.condemned)

    def places(self) -> int:
        """Calls that can run at once now: a handler of batches takes several."""
        return sum(worker.places for worker in self.workers if worker.ready and not worker.condemned)

    def bidirectional(self) -> bool:
        """Whether the handler takes streams of input."""
        return any(worker.bidirectional for worker in self.workers)

    def in_flight(self) -> int:
        """Calls that were handed to a worker and are not answered."""
        return sum(len(worker.calls) for worker in self.workers)

    def waiting(self) -> int:
        """Calls that are still ours."""
        return len(self._waiting)

    def capacity(self) -> int:
        """Calls that one gateway may have here, running and waiting."""
        places = self.places()
        if not places or self.draining:
            return 0
        mean_s = max((worker.mean_handler_s for worker in self.workers if worker.ready), default=0.0)
        # One call in reserve hides the round trip.
        ahead = 0 if not mean_s or mean_s > SLOW_S else max(1, min(MAX_READ_AHEAD, int(READ_AHEAD_S / mean_s)))
        if any(worker.batch > 1 for worker in self.workers):
            ahead = max(ahead, places)  # the next batch waits here, complete
        return places + ahead

    def announce(self) -> dict[str, Any]:
        """The STATE that gateways are told; they may send this capacity from now on."""
        self._told_capacity = self.capacity()
        return {
            "state": self.state(),
            "capacity": self._told_capacity,
            "concurrency": self.places(),
            "in_flight": self.in_flight(),
            "bidirectional": self.bidirectional(),
        }

    def note_change(self) -> None:
        """Tell the gateways at once where capacity halved, doubled, came or went; else the heartbeat does."""
        now, told = self.capacity(), self._told_capacity
        if (not now) != (not told) or now >= 2 * told or 2 * now <= told:
            self.on_change()

    # -- from the callers --------------------------------------------------

    def submit(self, link: CallerLink, frame: Frame) -> None:
        """Take a call, or refuse it before anything has happened. Raises ProtocolError."""
        if frame.call_id in link.calls:
            raise ProtocolError(f"call id {frame.call_id} was opened twice")
        if not 0 < frame.call_id < MESH_BIT:
            raise ProtocolError(f"call id {frame.call_id:#x} is none that a caller may open")
        call = Invocation(link, frame.call_id, frame.payload, frame.flags)
        # Twice: what it was told and what it sends cross on the way.
        told = max(self._told_capacity, 1)
        outstanding = len(link.calls) - link.uploads - link.leaving
        if call.whole:
            full = outstanding >= 2 * told
        else:
            full = outstanding + link.uploads >= 2 * (told + max(told, MAX_UPLOADS))
        if (
            self.draining
            or not self.slots()
            or full
            or len(self._waiting) >= MAX_WAITING
            or (frame.flags & STREAM and not self.bidirectional())
        ):
            reason = self.state() if self.draining or not self.slots() else "busy"
            link.send(frame.call_id, frames.REFUSED, reason.encode(), LAST)
            return
        link.calls[frame.call_id] = call
        if not call.whole:
            # It takes no slot until all of it is there: a slow sender must not keep a handler from its work.
            link.uploads += 1
            self._hand_over(call, self._emptiest_worker())
            return
        worker = None if self._waiting or self._batcher else self._free_worker()
        if worker:
            self._hand_over(call, worker)
        else:
            self._wait(call)

    def _wait(self, call: Invocation) -> None:
        call.waiting, call.arrived_at = True, time.monotonic()
        self._waiting.append(call)
        if self._batcher:
            self._dispatch_batches(self._batcher)

    def on_caller_frame(self, link: CallerLink, frame: Frame) -> None:
        """A frame of a call that is here, or of a mesh call's answer. Raises ProtocolError."""
        if frame.call_id & MESH_BIT:
            self._mesh.on_answer(link, frame)
            return
        if frame.kind not in _FROM_CALLER:
            raise ProtocolError(f"kind {frame.kind} is none that a caller sends")
        call = link.calls.get(frame.call_id)
        if call is None:
            return  # its answer and this frame crossed
        if frame.kind == frames.CANCEL:
            self.cancel(call)
            return
        if frame.kind == frames.CREDIT:
            unpack_credit(frame.payload)
        worker, became_whole = call.worker, False
        if frame.kind == frames.DATA:
            became_whole = call.note_input(len(frame.payload), frame.flags)
        if worker is None:
            call.frames.append((frame.kind, frame.payload, frame.flags))
            return
        self._send(worker, call, frame.kind, frame.payload, frame.flags)
        if frame.kind == frames.CREDIT:
            return
        if became_whole:
            link.uploads -= 1
            worker.note_whole(call)
            if self._batcher:
                self._wait(call)

    def cancel(self, call: Invocation) -> None:
        """Nobody waits any more. The slot is free when the handler returns."""
        call.cancelled = True
        if call.worker is None:
            self._leave_line(call)
            self._fail(call, ClientGoneError("cancelled before the handler started"))
        else:
            call.worker.send_control(pack(call.id, frames.CANCEL))
            if call.deadline is None:
                call.deadline = time.monotonic()  # a stream had none; from now on kill_after runs

    def forget(self, link: CallerLink) -> None:
        """The caller is gone: cancel all that came from it."""
        self.gateways.discard(link)
        self._mesh.on_link_lost(link)
        for call in list(link.calls.values()):
            self.cancel(call)

    # -- to and from the workers -------------------------------------------

    def _free_worker(self) -> WorkerProcess | None:
        best: WorkerProcess | None = None
        for worker in self.workers:
            if not worker.ready or worker.condemned:
                continue
            mean_s = worker.mean_handler_s
            ahead = min(MAX_HAND_AHEAD, int(HAND_AHEAD_S / mean_s)) if mean_s and not worker.streams else 0
            if worker.whole < worker.places + ahead and (best is None or worker.whole < best.whole):
                best = worker
        return best

    def _emptiest_worker(self) -> WorkerProcess:
        return min(
            (worker for worker in self.workers if worker.ready and not worker.condemned),
            key=lambda worker: len(worker.calls),
        )

    def _hand_over(self, call: Invocation, worker: WorkerProcess) -> None:
        # Here, so that ids grow within a worker: it tells by them which calls it has seen.
        call.id = self._next_id = (self._next_id + 1) % MESH_BIT or 1
        call.worker = worker
        worker.add(call)
        for kind, payload, flags in call.frames:
            self._send(worker, call, kind, payload, flags)
        call.frames.clear()

    @staticmethod
    def _send(worker: WorkerProcess, call: Invocation, kind: int, payload: bytes, flags: int) -> None:
        if kind == frames.CREDIT:  # has to reach it while a handler runs
            worker.send_control(pack(call.id, kind, payload, flags))
        else:
            worker.send_data(call.id, kind, payload, flags)

    def _leave_line(self, call: Invocation) -> None:
        self._waiting.remove(call)
        call.waiting = False

    def _note_start(self, call: Invocation, now: float) -> None:
        call.waiting = False
        call.wait_us = int((now - call.arrived_at) * 1e6)

    def dispatch(self) -> None:
        """Hand over what waits, as far as there is room."""
        if self._batcher:
            self._dispatch_batches(self._batcher)
            return
        while self._waiting and (worker := self._free_worker()):
            call = self._waiting.popleft()
            now = time.monotonic()
            self._note_start(call, now)
            if call.is_late(now):
                self._fail(call, DeadlineError(TOO_LATE))
            else:
                self._hand_over(call, worker)

    def _dispatch_batches(self, batcher: Batcher) -> None:
        """The same for a handler of batches: only as many as it runs now, for the next ones are still being cut."""
        now = time.monotonic()
        for call in [call for call in self._waiting if call.is_late(now)]:
            self._leave_line(call)
            if call.worker is None:
                self._fail(call, DeadlineError(TOO_LATE))
            else:
                self.cancel(call)
        for worker in sorted(self.workers, key=lambda worker: worker.batches):
            while worker.ready and not worker.condemned and worker.batches < worker.slots:
                batch, wait_s = batcher.cut(self._waiting, worker, now)
                if wait_s and self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_time)
                if not batch:
                    break
                for call in batch:
                    self._note_start(call, now)
                    if call.worker is None:
                        self._hand_over(call, worker)
                worker.start_batch(batch)

    def _on_time(self) -> None:
        self._timer = None
        self.dispatch()

    def on_worker_frames(self, worker: WorkerProcess, batch: list[Frame]) -> None:
        """Answers, credit and mesh calls. Raises ProtocolError."""
        finished = False
        for frame in batch:
            call_id, kind, flags, payload = frame
            if call_id & MESH_BIT:
                self._mesh.on_worker_frame(worker, frame)
                continue
            if kind not in _FROM_WORKER:
                raise ProtocolError(f"kind {kind} is none that a worker sends")
            call = worker.calls.get(call_id)
            if call is None:
                continue
            if kind == frames.CREDIT:
                call.unread_bytes -= unpack_credit(payload)
            else:
                if kind == frames.REPLY:
                    payload = self._on_reply(worker, call, flags, payload)
                    finished |= call.leaving
                if flags & LAST:
                    worker.remove(call)
                    if call.started_at:
                        worker.note_handler_time(int((time.monotonic() - call.started_at) * 1e6))
                    if call.waiting:  # cancelled
                        self._leave_line(call)
                    _drop(call)
                    finished = True
            call.link.send(call.call_id, kind, payload, flags)
        if finished:
            if worker.condemned:
                self._judge(worker)
            self.dispatch()
            self.note_change()

    def _on_reply(self, worker: WorkerProcess, call: Invocation, flags: int, payload: bytes) -> bytes:
        """Learn from an answer's head, and add the time that the call waited here. Raises ProtocolError."""
        if len(payload) < REPLY_PREFIX.size:
            raise ProtocolError("a REPLY frame is shorter than its prefix")
        if flags & STREAM:
            worker.streams = True
            call.started_at = time.monotonic()
            # A stream has none. One that was cancelled meanwhile has kill_after to end, from now.
            call.deadline = call.started_at if call.cancelled else None
        else:
            worker.note_handler_time(REPLY_PREFIX.unpack_from(payload)[0])
            if not flags & LAST and not call.leaving:
                worker.free_slot(call)
                call.leaving = True
                call.link.leaving += 1
                call.deadline = None  # the gateway looks that its reader goes on
        if call.wait_us or call.batch:
            handler_us, _, _, *rest = REPLY_PREFIX.unpack_from(payload)
            size = call.batch.size if call.batch and not call.batch.told else 0
            if call.batch:
                call.batch.told = True
            wait_us = min(call.wait_us, 0xFFFF_FFFF)
            payload = REPLY_PREFIX.pack(handler_us, wait_us, size, *rest) + payload[REPLY_PREFIX.size :]
        return payload

    def _fail(self, call: Invocation, error: InvocationError) -> None:
        _drop(call)
        call.link.send(call.call_id, frames.ERROR, to_wire(error), LAST)

    def refuse_waiting(self) -> None:
        """Give back what no worker has seen: the gateways send it elsewhere."""
        reason = self.state().encode()
        for call in [call for call in self._waiting if call.worker is None]:
            self._leave_line(call)
            _drop(call)
            call.link.send(call.call_id, frames.REFUSED, reason, LAST)

    # -- workers come, run late and go ---------------------------------------

    def on_worker_ready(self) -> None:
        """There is room."""
        self.dispatch()
        self.note_change()

    def on_worker_death(self, worker: WorkerProcess, how: str) -> None:
        """Answer what was in it: nobody knows how far its handlers came."""
        worker.ready = False
        self.workers.remove(worker)
        calls, worker.calls, worker.whole = worker.calls, {}, 0
        for call in calls.values():
            if call.waiting:
                self._leave_line(call)
        limit = time.monotonic() - self._kill_after_s
        for call in calls.values():
            if worker.condemned and call.is_late(limit):
                text = "the handler ran past its deadline and kill_after; its worker was ended"
                self._fail(call, DeadlineError(text))
            else:
                self._fail(
                    call, ReplicaLostError(f"the worker {how} while the call was in it; its handler may have run")
                )
        self._mesh.on_worker_death(worker)
        if self.slots():
            self.dispatch()
        else:
            self.refuse_waiting()
        self.note_change()

    def judge(self) -> None:
        """Find handlers that run past their deadline and grace; called now and then."""
        for worker in list(self.workers):
            self._judge(worker)

    def _judge(self, worker: WorkerProcess) -> None:
        """Condemn a worker with an overdue call; end it once nothing else runs in it."""
        limit = time.monotonic() - self._kill_after_s
        overdue = [call for call in worker.calls.values() if call.is_late(limit)]
        for call in overdue:
            if not call.whole:  # it cannot have started: its caller stopped in the middle
                self.cancel(call)
        overdue = [call for call in overdue if call.whole]
        if bool(overdue) != worker.condemned:
            worker.condemned = bool(overdue)
            if overdue and not self.slots():
                self.refuse_waiting()
            self.note_change()
        # What was handed ahead is behind these and waits for them, not they for it.
        running = list(
            islice(
                (call for call in worker.calls.values() if call.whole and not call.waiting and not call.leaving),
                worker.places,
            )
        )
        if overdue and all(call.is_late(limit) for call in running):
            self.on_condemned(worker, len(overdue))


def _drop(call: Invocation) -> None:
    """Its caller has its answer."""
    del call.link.calls[call.call_id]
    if not call.whole:
        call.link.uploads -= 1
    if call.leaving:
        call.link.leaving -= 1
