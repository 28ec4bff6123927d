"""Make one function's service what it shall be, on a backend that moves replicas by itself.

In:   spec, the service as it is, what is remembered.
Out:  one write of the service at a time: created, updated, scaled or removed.
Which replica goes and which comes next is the backend's: it starts the new
one first, stops the old one when the new one is healthy, and rolls back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dcf.domain.function import FunctionSpec
from dcf.errors import BackendConflictError, BackendError, BackendUnavailableError, CapacityError, ImageNotFoundError
from dcf.scheduler.backends.contract import ServiceBackend, ServiceState
from dcf.scheduler.function_memory import FunctionMemory, made_of
from dcf.scheduler.reconciler import ReplicaView, is_current
from dcf.scheduler.status_report import Failure

if TYPE_CHECKING:
    from dcf.scheduler.replica_mover import Look, Publish

log = logging.getLogger(__name__)


class ServiceMover:
    """Touched only by the control loop."""

    def __init__(self, backend: ServiceBackend) -> None:
        self._backend = backend

    def functions(self) -> set[str]:
        """Those that have a service, also one without replicas."""
        return set(self._backend.services())

    def is_at_rest(self, spec: FunctionSpec) -> bool:
        """Whether its service is as it was written, and nobody changes it, by hand either."""
        one = self._backend.services().get(spec.name)
        if one is None or one.updating or one.rolling_back or one.waiting:
            return False
        return (one.uid, one.generation, one.digest) == made_of(spec) and one.replicas == spec.desired

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
        """One step; the views as they are, for what follows from it is seen by a later turn."""
        await publish(views)
        if any(is_current(spec, view) for view in views):
            memory.backoff = memory.backoff.after_start()
        service = self._backend.services().get(spec.name)
        memory.waiting = service.waiting if service else ""
        try:
            await self._write(spec, service, memory, now_s)
        except BackendUnavailableError:
            raise
        except BackendConflictError as error:
            log.info("service was changed by others meanwhile", extra={"function": spec.name, "error": str(error)})
        except CapacityError as error:
            memory.waiting = str(error)
        except BackendError as error:
            if memory.failure is None or memory.failure.cause != str(error):
                log.warning("service could not be written", extra={"function": spec.name, "cause": str(error)})
            missing = isinstance(error, ImageNotFoundError)
            before = memory.backoff
            memory.backoff = (
                before.after_missing_image(now_s=now_s) if missing else before.after_exit(now_s=now_s, ready_for_s=0)
            )
            memory.failure = Failure(replica=spec.name, cause=str(error))
        return views

    async def _write(
        self, spec: FunctionSpec, service: ServiceState | None, memory: FunctionMemory, now_s: float
    ) -> None:
        fields = {"function": spec.name, "generation": spec.generation, "replicas": spec.desired}
        if service is None:
            if now_s >= memory.backoff.next_at:
                await self._backend.create(spec)
                memory.service_revision = spec.revision
                log.info("service was created", extra=fields)
        elif (service.uid, service.generation, service.digest) != made_of(spec):
            # A version that could not start is rolled back, and tried again, as any start that fails, but not at once;
            # a newer one need not wait. Meanwhile the older one serves, in the number that is wanted.
            # An update of a GPU function stops an old replica to have its GPU: that is not done again and again for a
            # version that has failed so often; the user's next deploy is the next try.
            hopeless = bool(spec.gpu_count) and memory.backoff.given_up and memory.backoff.delay_s > 0
            waits = now_s < memory.backoff.next_at or hopeless
            if waits or (service.rolling_back and memory.backoff.failures):
                if not service.rolling_back:
                    await self._scale(spec, service)
                return
            await self._backend.update(spec)
            memory.service_revision = spec.revision
            log.info("service was updated", extra=fields)
        elif memory.backoff.image_missing and spec.registry_auth and memory.service_revision != spec.revision:
            # Deployed again for its login alone, which no digest has: the machines pull with what was written last.
            await self._backend.update(spec)
            memory.service_revision = spec.revision
            log.info("service was given another login", extra=fields)
        elif service.waiting or not service.updating:
            # What is written while an update is under way is what its roll-back would go back to: better its end is
            # waited for. One that waits for a machine may have none before there are fewer replicas.
            await self._scale(spec, service)

    async def _scale(self, spec: FunctionSpec, service: ServiceState) -> None:
        if service.replicas != spec.desired:
            await self._backend.scale(spec.name, spec.desired)
            fields = {"function": spec.name, "before": service.replicas, "replicas": spec.desired}
            log.info("service was scaled", extra=fields)

    async def remove(self, name: str, views: list[ReplicaView], memory: FunctionMemory, *, now_s: float) -> bool:
        """Remove what is left of a function that was deleted; whether nothing is."""
        if name in self._backend.services():
            await self._backend.remove(name)
            log.info("service was removed", extra={"function": name})
        return not views and name not in self._backend.services()
