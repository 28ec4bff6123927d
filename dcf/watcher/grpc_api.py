"""What a watcher answers: Attach for gateways, Watch, Call and Log for the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from dcf import __version__
from dcf.errors import ConfigError, InvocationError, ProtocolError
from dcf.lifecycle import TaskSet
from dcf.rpc import frames, v1_watcher_pb2
from dcf.rpc.frames import Frame, iter_frames, unpack_json
from dcf.rpc.services import OPTIONS, generic_handler
from dcf.rpc.status import status_of
from dcf.rpc.v1_watcher_pb2 import CallReply, CallRequest, Frames, ReplicaLogLine, ReplicaLogRequest, ReplicaState
from dcf.watcher.caller_links import GatewayLink, UnaryCall
from dcf.watcher.function_log import FunctionLog
from dcf.watcher.health import replica_state
from dcf.watcher.settings import WatcherSettings
from dcf.watcher.worker_pool import WorkerPool

log = logging.getLogger(__name__)

SERVICE = v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]
HEARTBEAT_S = 0.5
"""Three missed and a gateway takes the replica out of routing."""
WATCH_S = 1.0
POLL_S = 0.02
CLOSE_S = 1.0
"""For the last write to a gateway that goes; one that reads no more must not keep its stream here."""


class WatcherService:
    """Implements `dcf.v1.Watcher`."""

    def __init__(self, settings: WatcherSettings, pool: WorkerPool, function_log: FunctionLog, tasks: TaskSet) -> None:
        self._settings = settings
        self._pool = pool
        self._log = function_log
        self._tasks = tasks
        self._links: set[GatewayLink] = set()
        self._count = 0
        self._changed = asyncio.Event()
        self.failure_told = asyncio.Event()
        """Set once somebody who watches has been told that the replica has failed, and why."""
        pool.on_change = self._on_change

    # -- Attach ------------------------------------------------------------

    async def Attach(self, requests: Any, context: grpc.aio.ServicerContext[Frames, Frames]) -> None:
        """One gateway process, for as long as both live."""
        first: Any = await context.read()
        if first is grpc.aio.EOF:
            return
        link = GatewayLink()
        self._count += 1
        name = f"link-{self._count}-writer"
        broken: ProtocolError | None = None
        try:
            batch = iter_frames(first.data)
            await self._check_hello(next(batch, None), context)
            link.send_state(self._pool.announce())
            self._links.add(link)
            self._pool.gateways.add(link)
            hello = {"protocol": frames.PROTOCOL, "version": __version__, "replica": self._settings.replica}
            self._tasks.start(name, link.run_writer(context, hello))
            await self._read(link, batch, context)
        except ProtocolError as error:
            broken = error
        finally:
            self._links.discard(link)
            self._pool.forget(link)
            # Not cancelled in the middle of a write: gRPC could not send the stream's status then.
            link.close()
            await self._tasks.join(name, limit_s=CLOSE_S)
            await self._tasks.stop(name)
        if broken:
            log.error("a gateway broke the protocol", extra={"error": str(broken)})
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(broken))

    async def _read(
        self, link: GatewayLink, batch: Iterator[Frame], context: grpc.aio.ServicerContext[Frames, Frames]
    ) -> None:
        """Take frames until the gateway closes its half. Raises ProtocolError."""
        while True:
            for frame in batch:
                if frame.kind == frames.OPEN and not frame.call_id & frames.MESH_BIT:
                    self._pool.submit(link, frame)
                else:
                    self._pool.on_caller_frame(link, frame)
            message: Any = await cast("Any", context).read()
            if message is grpc.aio.EOF:
                return
            batch = iter_frames(message.data)

    async def _check_hello(self, frame: Frame | None, context: grpc.aio.ServicerContext[Frames, Frames]) -> None:
        if frame is None or frame.kind != frames.HELLO:
            raise ProtocolError("the first frame of a stream must be HELLO")
        protocol = unpack_json(frame.payload).get("protocol")
        if protocol != frames.PROTOCOL:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the gateway speaks protocol {protocol}; this watcher ({__version__}) speaks {frames.PROTOCOL}: "
                "update the older of the two",
            )

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        state = self._pool.announce()
        for link in self._links:
            link.send_state(state)

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
        while self._links and loop.time() < end:
            await asyncio.sleep(POLL_S)

    # -- the rest ----------------------------------------------------------

    async def Watch(self, request: object, context: object) -> AsyncIterator[ReplicaState]:
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

    async def Call(self, request: CallRequest, context: grpc.aio.ServicerContext[CallRequest, CallReply]) -> CallReply:
        """One call, without a gateway."""
        remaining_s = context.time_remaining()
        deadline_ms = int(remaining_s * 1000) if remaining_s is not None and remaining_s < 4e6 else 0
        try:
            return await UnaryCall(self._pool, self._settings.max_payload_bytes).run(request, deadline_ms)
        except InvocationError as error:
            code = grpc.StatusCode[status_of(error).grpc]
            details = f"{error.message}\n{error.traceback}" if error.traceback else error.message
            await context.abort(code, details)
            raise AssertionError("abort does not return") from None

    async def Log(self, request: ReplicaLogRequest, context: object) -> AsyncIterator[ReplicaLogLine]:
        """Kept lines, then, with follow, new ones."""
        tail = request.tail if request.HasField("tail") else None
        async for line in self._log.read(since_at=request.since_at, tail=tail, follow=request.follow):
            yield ReplicaLogLine(at=line.at, stream=line.stream, text=line.text)


@asynccontextmanager
async def open_grpc_api(service: WatcherService, listen: str) -> AsyncIterator[None]:
    """Serve on `listen`. Raises ConfigError where that cannot be."""
    if listen.startswith("unix:"):
        # A socket file of a killed predecessor would be in the way.
        Path(listen.removeprefix("unix:")).unlink(missing_ok=True)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((generic_handler(SERVICE, service),))
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ConfigError(f"DCF_LISTEN={listen!r}: cannot listen there: {error}") from error
    if not port:
        raise ConfigError(f"DCF_LISTEN={listen!r}: cannot listen there")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=0.5)
