"""Carry the calls that handlers make, between their worker and a gateway.

In:   frames with MESH_BIT in their id, of workers and of gateways.
Out:  the same frames on the other side, under an id that is unique there. A
      mesh call travels on the stream that its parent call came from.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from dcf.errors import ClusterUnavailableError, InvocationError, ProtocolError, ReplicaLostError
from dcf.rpc import frames
from dcf.rpc.frames import LAST, MESH_BIT, OPEN_PREFIX, Frame, pack, unpack_json, unpack_open
from dcf.rpc.status import to_wire

if TYPE_CHECKING:
    from dcf.watcher.invocation import CallerLink
    from dcf.watcher.worker_process import WorkerProcess

_FROM_WORKER = frozenset({frames.DATA, frames.CANCEL, frames.CREDIT})
_FROM_GATEWAY = frozenset({frames.REPLY, frames.DATA, frames.ERROR, frames.CREDIT})


class _Route(NamedTuple):
    worker: WorkerProcess
    worker_id: int
    link: CallerLink


class MeshRoutes:
    """Touched only by the event loop of the watcher."""

    def __init__(self, gateways: set[CallerLink]) -> None:
        self._gateways = gateways
        self._routes: dict[int, _Route] = {}
        self._ids: dict[tuple[WorkerProcess, int], int] = {}
        self._next_id = 0

    def on_worker_frame(self, worker: WorkerProcess, frame: Frame) -> None:
        """A handler opens a call, sends its input, cancels it. Raises ProtocolError."""
        if frame.kind == frames.OPEN:
            self._open(worker, frame)
            return
        if frame.kind not in _FROM_WORKER:
            raise ProtocolError(f"kind {frame.kind} is none that a mesh call sends")
        mesh_id = self._ids.get((worker, frame.call_id))
        if mesh_id is None:
            return  # its answer and this frame crossed
        self._routes[mesh_id].link.send(mesh_id, frame.kind, frame.payload, frame.flags)
        if frame.kind == frames.CANCEL:
            self._drop(mesh_id)

    def _open(self, worker: WorkerProcess, frame: Frame) -> None:
        if (worker, frame.call_id) in self._ids:
            raise ProtocolError(f"mesh call id {frame.call_id:#x} was opened twice")
        opened = unpack_open(frame.payload)
        metadata = unpack_json(opened.metadata)
        parent_id = metadata.get("parent", 0)
        if not isinstance(parent_id, int) or not isinstance(metadata.get("function"), str):
            raise ProtocolError("a mesh call names no function, or a parent that is no number")
        parent = worker.calls.get(parent_id)
        link = parent.link if parent else next(iter(self._gateways), None)
        if link is None or link.closed:
            error: InvocationError = ClusterUnavailableError("no gateway is connected, so a mesh call has no way out")
            if link:
                error = ReplicaLostError("the gateway of the call that this mesh call is made for went away")
            _answer(worker, frame.call_id, error)
            return
        self._next_id = (self._next_id + 1) % MESH_BIT
        mesh_id = MESH_BIT | self._next_id
        self._routes[mesh_id] = _Route(worker, frame.call_id, link)
        self._ids[worker, frame.call_id] = mesh_id
        encoded = json.dumps({**metadata, "parent": parent.call_id if parent else 0}).encode()
        payload = OPEN_PREFIX.pack(opened.deadline_ms, 0, len(encoded)) + encoded + opened.body
        link.send(mesh_id, frames.OPEN, payload, frame.flags)

    def on_answer(self, link: CallerLink, frame: Frame) -> None:
        """A gateway answers, or gives credit. Raises ProtocolError."""
        if frame.kind not in _FROM_GATEWAY:
            raise ProtocolError(f"kind {frame.kind} is no answer to a mesh call")
        route = self._routes.get(frame.call_id)
        if route is None or route.link is not link:
            return  # its cancel and this frame crossed
        route.worker.send_control(pack(route.worker_id, frame.kind, frame.payload, frame.flags))
        if frame.flags & LAST and frame.kind != frames.CREDIT:
            self._drop(frame.call_id)

    def on_link_lost(self, link: CallerLink) -> None:
        """The gateway that carried these calls is gone; their handlers must not wait for ever."""
        for mesh_id, route in list(self._routes.items()):
            if route.link is link:
                _answer(route.worker, route.worker_id, ReplicaLostError("the gateway went away during the mesh call"))
                self._drop(mesh_id)

    def on_worker_death(self, worker: WorkerProcess) -> None:
        """Nobody waits for what its handlers had called."""
        for mesh_id, route in list(self._routes.items()):
            if route.worker is worker:
                route.link.send(mesh_id, frames.CANCEL, b"", 0)
                self._drop(mesh_id)

    def _drop(self, mesh_id: int) -> None:
        route = self._routes.pop(mesh_id)
        del self._ids[route.worker, route.worker_id]


def _answer(worker: WorkerProcess, worker_id: int, error: InvocationError) -> None:
    worker.send_control(pack(worker_id, frames.ERROR, to_wire(error), LAST))
