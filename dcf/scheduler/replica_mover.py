"""Make one function's replicas what they shall be, on a backend that starts and stops them one by one.

In:   spec, views of its replicas, what is remembered; reconciler.py decides.
Out:  starts and stops in the backend. A replica leaves the endpoints before it
      is stopped, and is in them only when it is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from dcf.domain.function import FunctionSpec
from dcf.errors import (
    BackendConflictError,
    BackendError,
    BackendUnavailableError,
    CapacityError,
    ImageNotFoundError,
    ImagePendingError,
)
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaPlan
from dcf.scheduler.function_memory import FunctionMemory
from dcf.scheduler.reconciler import Decision, ReplicaView, Start, reconcile
from dcf.scheduler.status_report import Failure

log = logging.getLogger(__name__)

Publish = Callable[[list[ReplicaView]], Awaitable[None]]
"""Makes the replicas that serve, or will, known to the gateways."""

Look = Callable[[list[ObservedReplica]], list[ReplicaView]]
"""Begins to watch replicas that were just started."""


STARTS_AT_ONCE = 4
"""Of one function in one turn: the others' calls wait for theirs."""


class ReplicaMover:
    """Touched only by the control loop."""

    def __init__(self, backend: ReplicaBackend) -> None:
        self._backend = backend

    def functions(self) -> set[str]:
        """Those that this backend knows beside their replicas: none."""
        return set()

    def is_at_rest(self, spec: FunctionSpec) -> bool:
        """Whether the backend itself has nothing under way for a function whose replicas are as they shall be."""
        return True

    async def move(
        self,
        spec: FunctionSpec,
        views: list[ReplicaView],
        memory: FunctionMemory,
        *,
        publish: Publish,
        look: Look,
        now_s: float,
    ) -> list[ReplicaView]:
        """One step; the views as they are after it."""
        decision = reconcile(spec, views, memory.backoff, now_s=now_s)
        views = _marked(views, decision)
        await publish(views)
        await self._stop(spec.name, decision, memory)
        memory.waiting = ""
        # Each is published before the next one is started, which takes a third of a second: calls wait for the first.
        for one in decision.starts[:STARTS_AT_ONCE]:
            started = await self._start(spec, one, memory)
            if started is None:
                return views
            views = views + look([started])
            await publish(views)
        memory.unfinished = len(decision.starts) > STARTS_AT_ONCE
        return views

    async def remove(self, name: str, views: list[ReplicaView], memory: FunctionMemory, *, now_s: float) -> bool:
        """Stop what is left of a function that was deleted; whether nothing is."""
        decision = reconcile(None, views, memory.backoff, now_s=now_s)
        await self._stop(name, decision, memory)
        return not views

    async def _stop(self, name: str, decision: Decision, memory: FunctionMemory) -> None:
        for one in decision.stops:
            log.info("replica is being stopped", extra={"function": name, "replica": one.name, "reason": one.reason})
            if one.overdue:
                memory.backoff = memory.backoff.after_exit(now_s=time.time(), ready_for_s=0.0)
                tail = await self._backend.log_tail(one.name)
                memory.failure = Failure(replica=one.name, cause=one.reason, log_tail=tail)
            await self._backend.stop(one.name, grace_s=one.grace_s)

    async def _start(self, spec: FunctionSpec, one: Start, memory: FunctionMemory) -> ObservedReplica | None:
        """None where it could not be started; then neither can the next one now."""
        plan = ReplicaPlan(spec=spec, ordinal=one.ordinal)
        fields = {"function": spec.name, "replica": plan.name}
        try:
            started = await self._backend.start(plan)
        except BackendUnavailableError:
            raise
        except (CapacityError, ImagePendingError, BackendConflictError) as error:
            # No failed start: it is placed as soon as it can be, and each turn looks.
            memory.waiting = str(error)
            return None
        except BackendError as error:
            if memory.failure is None or memory.failure.cause != str(error):
                log.warning("replica could not be started", extra={**fields, "cause": str(error)})
            before, now_s = memory.backoff, time.time()
            memory.backoff = (
                before.after_missing_image(now_s=now_s)
                if isinstance(error, ImageNotFoundError)
                else before.after_exit(now_s=now_s, ready_for_s=0)
            )
            memory.failure = Failure(replica=plan.name, cause=str(error))
            return None
        memory.backoff = memory.backoff.after_start()
        log.info("replica was started", extra={**fields, "reason": one.reason})
        return started


def _marked(views: list[ReplicaView], decision: Decision) -> list[ReplicaView]:
    """The views, with those that are to be stopped marked so."""
    stopped = {one.name for one in decision.stops}
    return [replace(view, stopping=True) if view.name in stopped else view for view in views]
