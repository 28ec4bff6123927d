"""Keep one stream to each replica; put calls on it and take answers off it.

In:   endpoints of the functions (through Router.on_endpoints), calls.
Out:  answers, by the calls' own callbacks; calls that were not started go back to
      their function's queue; calls that may have run fail with
      ReplicaLostError. It never decides which replica: router.py does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable

import grpc

from dcf import __version__
from dcf.domain.status import Endpoint
from dcf.errors import ProtocolError, ReplicaLostError
from dcf.gateway.call import PendingCall, Sender
from dcf.gateway.mesh import MeshCalls, MeshInvoke
from dcf.gateway.router import FunctionEntry
from dcf.lifecycle import TaskSet
from dcf.rpc import frames
from dcf.rpc.frames import (
    END,
    HEADER,
    LAST,
    MESH_BIT,
    PIECE_BYTES,
    STREAM,
    iter_frames,
    messages_of,
    pack_credit,
    pack_json,
    pack_open,
)
from dcf.rpc.grpc_stream import ClientStream, GrpcEnd, open_client_stream
from dcf.rpc.incomplete import Buffer
from dcf.rpc.status import from_wire, status_of
from dcf.sockets import YOUNG_S, is_listening

log = logging.getLogger(__name__)

_ATTACH = "/dcf.v1.Watcher/Attach"
_USER_AGENT = f"dcf-gateway/{__version__}"
_GOES = frozenset({grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""How the stream of a replica ends that stops, or is gone."""
CONNECT_S = 5.0
"""A host that was switched off answers nothing."""
SILENT_S = 1.5
"""Three heartbeats missed: out of routing (a powered-off host breaks no TCP connection by itself)."""
LOST_S = 5.0
"""Silent for so long it is given up: what is there fails now, and not at its deadline. Ten heartbeats, because a
machine that is short of CPU may stand still for some, and its calls are worth waiting for."""
LIVENESS_S = 0.5
LOOK_S = (0.02, 0.25)
"""Between two looks whether a replica listens; the first for STARTS_WITHIN looks, a few seconds, the second after."""
STARTS_WITHIN = 250
DIAL_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Waits between dials: a replica that starts is reached at once, one that is gone costs little."""
GATHER_FROM = 8
GATHER_TURNS = 2
"""A message costs more than a call in it, at both ends. With GATHER_FROM calls there, most of them at the replica, it
is busy anyway: what waits is sent so many turns of the loop later, with what came in them. A few calls never wait."""
COUNTED = frozenset({"handler_error", "invalid_input"})
"""Errors that are the function's own answer."""
Counted = Callable[[FunctionEntry, float, int], None]
"""Called once for each call that the function has answered: seconds that it waited, and the size of its batch."""


class WatcherLink:
    """The stream to one replica. Touched only by the event loop of the gateway."""

    def __init__(self, entry: FunctionEntry, endpoint: Endpoint, counted: Counted, invoke: MeshInvoke) -> None:
        self.endpoint = endpoint
        self.entry = entry
        self.open = False
        self.outstanding = 0
        self.uploads = 0
        self.capacity = 0
        self.bidirectional = False
        self.takes_uploads = True
        self.concurrency = 1
        self.removed = False
        """Its endpoint is no longer published: no new calls, and closed when the last one has ended."""
        self.is_young = False
        """It has just been started."""
        self.heard_at = 0.0
        self._counted = counted
        self._mesh: MeshCalls | None = None
        self._invoke = invoke
        self._calls: dict[int, PendingCall] = {}
        self._next_id = 0
        self._out: list[bytes] = []
        self._unwritten: list[PendingCall] = []
        self._stream: ClientStream | None = None
        self._greeted = False
        self._broken: ProtocolError | None = None
        self._tasks: TaskSet | None = None
        self._due = False
        """What waits is written at the end of this turn of the loop."""
        self._turns = 0
        """That it has waited for more."""
        self._serving = False
        self._draining = False
        self._alarm: asyncio.Timeout | None = None
        """Ends the stream that is open."""

    @property
    def in_flight(self) -> int:
        """Calls that are here, in any state."""
        return len(self._calls)

    # -- calls in ----------------------------------------------------------

    def send(self, call: PendingCall) -> None:
        """Put a call on the stream; `open` and that there is room was checked by the caller."""
        self._next_id = call_id = (self._next_id + 1) % MESH_BIT or 1
        call.link, call.call_id = self, call_id
        self._calls[call_id] = call
        body = call.body
        whole = len(body) <= PIECE_BYTES and call.rest is None
        if call.upload:
            self.uploads += 1
        else:
            self._hold(1, call)
        self._out.append(
            pack_open(
                call_id,
                deadline_ms=call.deadline_ms(),
                invocation_id=call.invocation_id.encode(),
                metadata=call.metadata,
                body=body if whole else body[:PIECE_BYTES],
                flags=STREAM if call.bidirectional else LAST if whole else 0,
            )
        )
        self._unwritten.append(call)
        if not whole or call.bidirectional:
            call.sender = Sender(call, PIECE_BYTES)
            call.sender.pump()
            call.wake()
        self._mark()

    def send_input(self, call: PendingCall, piece: bytes, flags: int) -> None:
        """One more piece of a call's input."""
        self.write(call.call_id, frames.DATA, piece, flags)
        if flags & LAST and call.upload:
            call.upload = False
            self.uploads -= 1
            self._hold(1, call)

    def grant(self, call: PendingCall, number_bytes: int) -> None:
        """So much more of a call's answer may come."""
        self._out.append(pack_credit(call.call_id, number_bytes))
        self._mark()

    def call(self, call_id: int) -> PendingCall | None:
        """A call that is here: a mesh call names its parent so."""
        return self._calls.get(call_id)

    def write(self, call_id: int, kind: int, payload: bytes, flags: int = 0) -> None:
        """Queue one frame; all that wait travel in one message."""
        self._out.append(HEADER.pack(len(payload), call_id, kind, flags))
        if payload:
            self._out.append(payload)
        self._mark()

    def cancel(self, call: PendingCall) -> None:
        """Nobody waits; its place here is free when the watcher says so."""
        call.sender = None
        self.write(call.call_id, frames.CANCEL, b"")

    # -- answers out -------------------------------------------------------

    def _on_message(self, data: Buffer) -> None:
        self.heard_at = time.monotonic()
        finished = False
        for call_id, kind, flags, payload in iter_frames(data):
            if call_id == 0:
                self._on_state(kind, payload)
            elif call_id & MESH_BIT:
                if self._mesh:
                    self._mesh.on_frame(call_id, kind, flags, payload)
            else:
                call = self._calls.get(call_id)
                if call is not None:
                    finished |= self._on_answer(call, kind, flags, payload)
        if finished:
            self.entry.dispatch()
            self._leave_if_done()

    def _on_answer(self, call: PendingCall, kind: int, flags: int, payload: bytes) -> bool:
        """Whether the call has ended here."""
        if kind == frames.CREDIT:
            if call.sender:
                call.sender.on_credit(int.from_bytes(payload, "big"))
            return False
        entry, stream = self.entry, call.stream
        if kind == frames.REPLY:
            waited_for = not call.settled
            reply = call.on_reply(payload, flags)
            entry.note_handler_s(reply.handler_us / 1e6)
            if not flags & (LAST | STREAM) and not call.leaving:
                # The handler has returned: the rest of its answer holds no slot, however slow its reader is.
                call.leaving = True
                self._hold(-1, call)
            if waited_for:
                self._counted(entry, call.wait_s + reply.wait_us / 1e6, reply.batch)
        elif kind == frames.DATA and stream is not None:
            if payload or flags & END:
                stream.feed(payload, flags)
            if flags & LAST:
                stream.end()
                if stream.streaming:
                    entry.note_handler_s(call.loop.time() - stream.opened_at)
        if not flags & LAST:
            return kind == frames.REPLY and call.leaving
        self._leave(call)
        if kind == frames.REFUSED:
            # Until the next STATE says more.
            self.capacity = min(self.capacity, self.outstanding)
            self.takes_uploads = self.takes_uploads and call.rest is None
            entry.requeue(call)
        elif kind == frames.ERROR:
            error = from_wire(payload)
            error.replica = self.endpoint.replica
            if not call.settled and status_of(error).code in COUNTED:
                self._counted(entry, call.wait_s, 0)
            call.fail(error)
        call.wake()
        return True

    def _leave(self, call: PendingCall) -> None:
        """The call is no longer here."""
        del self._calls[call.call_id]
        if call.upload:
            self.uploads -= 1
        elif not call.leaving:
            self._hold(-1, call)
        call.link, call.sender = None, None

    def _hold(self, number: int, call: PendingCall) -> None:
        """So many slots more, or less, are held here."""
        self.outstanding += number
        self.entry.meter.move(number, call.loop.time())

    def _on_state(self, kind: int, payload: bytes) -> None:
        if kind == frames.STATE:
            state = json.loads(payload)
            self.capacity = state["capacity"]
            self.concurrency = max(1, state["concurrency"])
            self.bidirectional = bool(state.get("bidirectional"))
            self.takes_uploads = True
            self._serving = state["state"] in ("ready", "busy")
            self._update_open()
            if state["state"] == "draining":
                self._draining = True
                self._leave_if_done()
            if self.open:
                self.entry.note_change()
                self.entry.dispatch()

    def _leave_if_done(self) -> None:
        """Close our half once nothing of ours is in a replica that goes."""
        if not self._calls and (self._draining or self.removed):
            self._mark()

    def _update_open(self) -> None:
        self.open = self._serving and not self.removed

    def check_liveness(self, now: float) -> None:
        """Take a silent replica out of routing; its next message brings it back."""
        if self._serving and now - self.heard_at > SILENT_S:
            self._serving = self.open = False
            log.warning("a replica is silent", extra={"replica": self.endpoint.replica})
        if self._alarm is not None and now - self.heard_at > LOST_S:
            self._alarm.reschedule(asyncio.get_running_loop().time())

    def remove(self) -> None:
        """The endpoint is gone: finish what is there, take nothing new."""
        self.removed = True
        self._update_open()
        self._leave_if_done()

    # -- the stream --------------------------------------------------------

    async def run(self, tasks: TaskSet) -> None:
        """Dial, serve, dial again, until the endpoint is gone."""
        self._tasks = tasks
        failures = 0
        while not self.removed or self._calls:
            await self._until_listening()
            if self.removed:
                return
            try:
                end = await self._serve()
                failures = 0 if self._greeted else failures + 1
                if end.code not in _GOES:
                    extra = {"replica": self.endpoint.replica, "error": end.details}
                    log.warning("a replica refused the stream", extra=extra)
            except TimeoutError:  # also an OSError
                log.warning("a replica is lost", extra={"replica": self.endpoint.replica, "silent_s": LOST_S})
                failures += 1
            except OSError:
                failures += 1
            except ProtocolError as error:
                log.error("a replica broke the protocol", extra={"replica": self.endpoint.replica, "error": str(error)})
                failures += 1
            finally:
                self._on_broken()
            if self.removed:
                return
            await asyncio.sleep(DIAL_S[min(failures, len(DIAL_S) - 1)])

    async def _until_listening(self) -> None:
        """Look often while it starts: what is held waits for this."""
        if self.is_young and not self.endpoint.address.startswith("unix:"):
            await asyncio.sleep(YOUNG_S)
        self.is_young = False
        looks = 0
        while not self.removed and not await is_listening(self.endpoint.address):
            await asyncio.sleep(LOOK_S[looks >= STARTS_WITHIN])
            looks += 1

    async def _serve(self) -> GrpcEnd:
        """One stream, from its opening to its end."""
        assert self._tasks is not None
        self._greeted, self._broken = False, None
        async with asyncio.timeout(CONNECT_S):
            stream = await open_client_stream(self.endpoint.address, _ATTACH, _USER_AGENT, self._on_stream_message)
        mesh = self._mesh = MeshCalls(self, self._invoke, self._tasks)
        self.heard_at = time.monotonic()  # of this stream: its first message has as long as any other
        self._stream, stream.on_writable = stream, self._mark
        stream.send(pack_json(0, frames.HELLO, {"protocol": frames.PROTOCOL, "version": __version__}))
        try:
            # One alarm for the stream's whole life: one for each message would cost each message.
            async with asyncio.timeout(None) as self._alarm:
                end = await stream.ended
        finally:
            self._alarm = self._stream = None
            mesh.close()
            stream.cancel()
        if self._broken is not None:
            raise self._broken
        return end

    def _on_stream_message(self, data: Buffer) -> None:
        """Called by the stream, which ends where this raises ProtocolError."""
        try:
            if not self._greeted:
                hello = next(iter_frames(data), None)
                if hello is None or hello.kind != frames.HELLO:
                    raise ProtocolError("the first frame was not HELLO")
                if json.loads(hello.payload).get("protocol") != frames.PROTOCOL:
                    raise ProtocolError(f"it speaks protocol {json.loads(hello.payload).get('protocol')}")
                self._greeted = True
                self._mark()  # the endpoint may have gone meanwhile
            self._on_message(data)
        except ProtocolError as error:
            self._broken = error
            raise

    def _mark(self) -> None:
        """Something waits to be written: all that comes in this turn of the loop travels in one message."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what waits; half-close when the replica goes and nothing of ours is there."""
        if (
            self._turns < GATHER_TURNS
            and len(self._unwritten) < self.outstanding // 2
            and self.outstanding >= GATHER_FROM
        ):
            self._turns += 1
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._turns, self._due = 0, False
        stream = self._stream
        if stream is None or stream.ended.done() or not self._greeted or not stream.is_writable:
            return  # until it is greeted, until it takes more, or for ever
        if self._out:
            out, self._out = self._out, []
            self._unwritten.clear()
            for parts, length in messages_of(out):
                stream.send_parts(parts, length)
        if not self._calls and (self._draining or self.removed):
            stream.half_close()

    def _on_broken(self) -> None:
        """The stream ended: what was never written is sent elsewhere, the rest may have run."""
        self._serving = self.open = self._draining = False
        self.capacity = 0
        unwritten = set(map(id, self._unwritten))
        calls, self._calls = list(self._calls.values()), {}
        self._out.clear()
        self._unwritten.clear()
        self.entry.meter.move(-self.outstanding, asyncio.get_running_loop().time())
        self.outstanding = self.uploads = 0
        for call in reversed(calls):
            call.link, call.sender = None, None
            if id(call) in unwritten:
                self.entry.requeue(call)
            else:
                call.fail(
                    ReplicaLostError(
                        f"replica {self.endpoint.replica} was lost while the call was there; its handler may have run",
                        replica=self.endpoint.replica,
                    )
                )
            call.wake()
        self.entry.dispatch()
