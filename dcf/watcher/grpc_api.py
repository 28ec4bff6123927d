"""What a watcher answers: Attach for gateways, Watch, Call and Log for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc

from dcf.errors import InvocationError
from dcf.lifecycle import TaskSet
from dcf.rpc import v1_watcher_pb2
from dcf.rpc.grpc_call import Rpc
from dcf.rpc.grpc_server import GrpcServer
from dcf.rpc.services import generic_handler
from dcf.rpc.status import status_of
from dcf.rpc.v1_watcher_pb2 import CallReply, CallRequest, ReplicaLogLine, ReplicaLogRequest, ReplicaState
from dcf.watcher.attached import Gateways
from dcf.watcher.caller_links import UnaryCall
from dcf.watcher.function_log import FunctionLog
from dcf.watcher.health import replica_state
from dcf.watcher.settings import WatcherSettings
from dcf.watcher.worker_pool import WorkerPool

SERVICE = v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]
HEARTBEAT_S = 0.5
"""Three missed and a gateway takes the replica out of routing."""
WATCH_S = 1.0
POLL_S = 0.02
GRACE_S = 0.5
"""At the end, for what is being answered still."""


class WatcherService:
    """Implements `dcf.v1.Watcher`."""

    def __init__(
        self, settings: WatcherSettings, pool: WorkerPool, function_log: FunctionLog, gateways: Gateways
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._log = function_log
        self._gateways = gateways
        self._changed = asyncio.Event()
        self.failure_told = asyncio.Event()
        """Set once somebody who watches has been told that the replica has failed, and why."""
        pool.on_change = self._on_change

    async def Attach(self, requests: object, rpc: Rpc) -> None:
        """One gateway process whose connection has other calls too, for as long as both live."""
        await self._gateways.attach(rpc)

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._gateways.tell(self._pool.announce())

    async def changed(self) -> None:
        """Return when something may have changed: at the next heartbeat at the latest."""
        await self._changed.wait()

    async def run_heartbeat(self) -> NoReturn:
        """Tell every gateway that we live, and what we have room for."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._on_change()

    async def until_detached(self, limit_s: float) -> None:
        """Wait until every gateway has gone: then nothing that one sent can be lost."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while self._gateways.links and loop.time() < end:
            await asyncio.sleep(POLL_S)

    # -- the rest ----------------------------------------------------------

    async def Watch(self, request: object, rpc: object) -> AsyncIterator[ReplicaState]:
        """State on every change and once a second."""
        loop = asyncio.get_running_loop()
        while True:
            changed = self._changed
            state = replica_state(self._pool)
            yield state
            if state.state == "failed":
                self.failure_told.set()
            end = loop.time() + WATCH_S
            # Heartbeats wake this too; only a new state is worth a message before its second is over.
            while self._pool.state() == state.state and loop.time() < end:
                try:
                    async with asyncio.timeout(end - loop.time()):
                        await changed.wait()
                    changed = self._changed
                except TimeoutError:
                    break

    async def Call(self, request: CallRequest, rpc: Rpc) -> CallReply:
        """One call, without a gateway."""
        remaining_s = rpc.time_remaining()
        deadline_ms = int(remaining_s * 1000) if remaining_s is not None and remaining_s < 4e6 else 0
        try:
            return await UnaryCall(self._pool, self._settings.max_payload_bytes).run(request, deadline_ms)
        except InvocationError as error:
            code = grpc.StatusCode[status_of(error).grpc]
            details = f"{error.message}\n{error.traceback}" if error.traceback else error.message
            await rpc.abort(code, details)

    async def Log(self, request: ReplicaLogRequest, rpc: object) -> AsyncIterator[ReplicaLogLine]:
        """Kept lines, then, with follow, new ones."""
        tail = request.tail if request.HasField("tail") else None
        async for line in self._log.read(since_at=request.since_at, tail=tail, follow=request.follow):
            yield ReplicaLogLine(at=line.at, stream=line.stream, text=line.text)


@asynccontextmanager
async def open_grpc_api(service: WatcherService, tasks: TaskSet) -> AsyncIterator[GrpcServer]:
    """Answers connections that the listener hands over, for the life of the block."""
    server = GrpcServer(tasks)
    server.add_generic_rpc_handlers((generic_handler(SERVICE, service),))
    try:
        yield server
    finally:
        await server.stop(GRACE_S)
