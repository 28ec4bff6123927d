"""Gateways' streams: `Watcher.Attach`, on a connection of its own or among other calls.

In:   frames of a gateway. Out: calls in the pool; answers and states back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import grpc.aio

from dcf import __version__
from dcf.errors import ProtocolError
from dcf.lifecycle import TaskSet
from dcf.rpc import frames
from dcf.rpc.frames import Frame, iter_frames, pack_json, unpack_json
from dcf.rpc.grpc_call import Rpc
from dcf.rpc.grpc_stream import ServerStream
from dcf.rpc.incomplete import Buffer
from dcf.watcher.caller_links import GatewayLink
from dcf.watcher.worker_pool import WorkerPool

log = logging.getLogger(__name__)

CLOSE_S = 1.0
"""For the last write to a gateway that goes; one that reads no more must not keep its stream here."""


class OtherVersionError(ProtocolError):
    """The gateway speaks a protocol that this watcher does not."""


class Gateways:
    """All streams of gateways. Touched only by the event loop of the watcher."""

    def __init__(self, pool: WorkerPool, replica: str, tasks: TaskSet) -> None:
        self.links: set[GatewayLink] = set()
        self.streams: set[AttachedStream] = set()
        self._pool = pool
        self._replica = replica
        self._tasks = tasks
        self._count = 0

    def tell(self, state: dict[str, Any]) -> None:
        """Say how we are to all of them."""
        for link in self.links:
            link.send_state(state)

    def add(self, link: GatewayLink, hello: Frame | None) -> None:
        """A gateway is here. Raises ProtocolError, OtherVersionError."""
        if hello is None or hello.kind != frames.HELLO:
            raise ProtocolError("the first frame of a stream must be HELLO")
        protocol = unpack_json(hello.payload).get("protocol")
        if protocol != frames.PROTOCOL:
            raise OtherVersionError(
                f"the gateway speaks protocol {protocol}; this watcher ({__version__}) speaks {frames.PROTOCOL}: "
                "update the older of the two"
            )
        answer = {"protocol": frames.PROTOCOL, "version": __version__, "replica": self._replica}
        link.send_first(pack_json(0, frames.HELLO, answer))
        link.send_state(self._pool.announce())
        self.links.add(link)
        self._pool.gateways.add(link)

    def take(self, link: GatewayLink, batch: Iterable[Frame]) -> None:
        """Frames of a gateway. Raises ProtocolError."""
        for frame in batch:
            if frame.kind == frames.OPEN and not frame.call_id & frames.MESH_BIT:
                self._pool.submit(link, frame)
            else:
                self._pool.on_caller_frame(link, frame)

    def drop(self, link: GatewayLink) -> None:
        """Its stream has ended: its calls are cancelled."""
        self.links.discard(link)
        self._pool.forget(link)

    # -- among other calls: any client of gRPC --------------------------------------

    async def attach(self, rpc: Rpc) -> None:
        """One gateway process, for as long as both live."""
        first: Any = await rpc.read()
        if first is grpc.aio.EOF:
            return
        dirty = asyncio.Event()
        link = GatewayLink(dirty.set)
        self._count += 1
        name = f"link-{self._count}-writer"
        broken: ProtocolError | None = None
        try:
            batch = iter_frames(first.data)
            self.add(link, next(batch, None))
            self._tasks.start(name, link.run_writer(rpc, dirty))
            await self._read(link, batch, rpc)
        except ProtocolError as error:
            broken = error
        finally:
            self.drop(link)
            # Not cancelled in the middle of a write: gRPC could not send the stream's status then.
            link.close()
            await self._tasks.join(name, limit_s=CLOSE_S)
            await self._tasks.stop(name)
        if broken:
            log.error("a gateway broke the protocol", extra={"error": str(broken)})
            await rpc.abort(_status_of(broken), str(broken))

    async def _read(self, link: GatewayLink, batch: Iterator[Frame], rpc: Rpc) -> None:
        """Take frames until the gateway closes its half. Raises ProtocolError."""
        while True:
            self.take(link, batch)
            message = await rpc.read()
            if message is grpc.aio.EOF:
                return
            batch = iter_frames(message.data)

    # -- by a connection of its own: our gateways -----------------------------------

    def make_stream(self) -> ServerStream:
        """The protocol of a connection that a gateway's ClientStream has opened."""
        return AttachedStream(self).stream

    def close(self) -> None:
        """The watcher ends."""
        for one in list(self.streams):
            one.stream.finish(grpc.StatusCode.UNAVAILABLE, "the replica has ended")


class AttachedStream:
    """One gateway on a ServerStream. Touched only by the event loop of the watcher."""

    def __init__(self, gateways: Gateways) -> None:
        self.stream = ServerStream(self._on_message)
        self.stream.on_half_closed = self._on_half_closed
        self.stream.on_writable = self._schedule
        self.stream.ended.add_done_callback(self._on_ended)
        self._gateways = gateways
        self._link = GatewayLink(self._schedule)
        self._greeted = self._scheduled = False
        gateways.streams.add(self)

    def _on_message(self, data: Buffer) -> None:
        try:
            batch = iter_frames(data)
            if not self._greeted:
                self._gateways.add(self._link, next(batch, None))
                self._greeted = True
            self._gateways.take(self._link, batch)
        except ProtocolError as error:
            log.error("a gateway broke the protocol", extra={"error": str(error)})
            self.stream.finish(_status_of(error), str(error))

    def _schedule(self) -> None:
        """What comes in one turn of the loop travels in one message."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self.stream.is_writable:
            for parts, length in self._link.take():
                self.stream.send_parts(parts, length)

    def _on_half_closed(self) -> None:
        """The gateway leaves."""
        for parts, length in self._link.take():
            self.stream.send_parts(parts, length)
        self.stream.finish()

    def _on_ended(self, ended: object) -> None:
        self._gateways.streams.discard(self)
        self._link.close()
        self._gateways.drop(self._link)


def _status_of(error: ProtocolError) -> grpc.StatusCode:
    if isinstance(error, OtherVersionError):
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INVALID_ARGUMENT
