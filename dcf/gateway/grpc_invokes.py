"""Run pb.Gateway/Invokes: each message is a call, answers in their order.

In:   a stream of requests; the client need not wait between two.
Out:  a stream of outputs. At the first error those before it are delivered,
      then the stream ends with its status, whose detail names the message.
Bounded: IN_FLIGHT messages and HELD_BYTES of them; then nothing is read and
gRPC's flow control holds the client back. No task is made for a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import grpc.aio

from dcf.errors import ClusterUnavailableError, InternalError, InvocationError
from dcf.gateway.call import PendingCall
from dcf.gateway.grpc_errors import abort, remaining_s
from dcf.gateway.invoke import Invoker, located
from dcf.gateway.reply import ReplyStream
from dcf.gateway.router import FunctionEntry
from dcf.lifecycle import TaskSet, open_task_set
from dcf.rpc.grpc_call import Rpc
from dcf.rpc.pb_gateway_pb2 import InvokeServiceRequest, Messages

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Messages read and not yet answered. Enough to fill every slot that one video stream can use."""

AT_ONCE = 32
"""Messages that are taken in one turn of the loop: the replica begins with them while we go on with the next."""
TOGETHER_BYTES = 64 * 1024
"""Outputs that are ready are sent together."""

HELD_BYTES = 64 * 1024 * 1024
"""Of inputs in flight and answers that wait for their turn; one message over it travels alone."""


class _Message:
    """One that was taken."""

    __slots__ = ("call", "input_bytes", "outcome")

    def __init__(self, input_bytes: int) -> None:
        self.input_bytes = input_bytes
        self.call: PendingCall | None = None
        self.outcome: bytes | InvocationError | None = None
        """Its output or its error; None: it is on its way."""


class _Exchange:
    """One stream. Touched only by the event loop of the gateway."""

    def __init__(self, invoker: Invoker, rpc: Rpc, tasks: TaskSet) -> None:
        self._invoker = invoker
        self._rpc = rpc
        self._tasks = tasks
        self._line: deque[_Message] = deque()
        """In the order in which they came and are answered."""
        self._held_bytes = 0
        self._joins = 0
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        """The first of the line has its outcome, or no more are taken."""
        self._ended = False
        self._error: InvocationError | None = None
        """Why no more are taken; None: the client has sent all."""

    async def read(self) -> None:
        """Take messages while there is room, until the client has sent all."""
        taken = 0
        while True:
            while len(self._line) >= IN_FLIGHT or (self._held_bytes >= HELD_BYTES and self._line):
                self._room.clear()
                await self._room.wait()
            request = await self._rpc.read()
            if request is grpc.aio.EOF:
                self.end(None)
                return
            entry = self._invoker.known(request.Service)
            if entry is None:
                try:
                    entry = await self._invoker.entry(request.Service)
                except InvocationError as error:
                    self._set(self._append(request), error)
                    continue
            # Only now: the reader may be stopped while it waits for the store, and this message is not taken then.
            self._take(entry, request)
            taken += 1
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _append(self, request: InvokeServiceRequest) -> _Message:
        message = _Message(len(request.Input))
        self._line.append(message)
        self._held_bytes += message.input_bytes
        return message

    def _take(self, entry: FunctionEntry, request: InvokeServiceRequest) -> None:
        message = self._append(request)
        try:
            message.call = self._invoker.begin(
                entry,
                request.Input,
                encoded=b"",
                then=lambda call: self._on_settled(message, call),
                timeout_s=remaining_s(self._rpc),
            )
        except InvocationError as error:
            self._set(message, error)
        except Exception:
            log.exception("a message of a stream failed on a bug of DCF", extra={"function": request.Service})
            text = "the gateway failed on this message; its log says why"
            self._set(message, InternalError(text, function=request.Service))

    def _on_settled(self, message: _Message, call: PendingCall) -> None:
        answer = call.answer
        if isinstance(answer, ReplyStream):
            self._joins += 1
            self._tasks.start(f"join-{self._joins}", self._join(message, call, answer))
        elif answer is not None:
            self._set(message, answer.body)
        else:
            self._set(message, call.error)

    async def _join(self, message: _Message, call: PendingCall, stream: ReplyStream) -> None:
        try:
            with located(call.entry, call.invocation_id):
                self._set(message, (await stream.join(call.entry.spec.max_payload_bytes)).body)
        except InvocationError as error:
            self._set(message, error)
        except Exception:
            log.exception("a message of a stream failed on a bug of DCF", extra={"function": call.entry.spec.name})
            self._set(message, InternalError("the gateway failed on this message; its log says why"))

    def _set(self, message: _Message, outcome: bytes | InvocationError | None) -> None:
        message.outcome = outcome
        if isinstance(outcome, bytes):
            self._held_bytes += len(outcome)
        if self._line and self._line[0] is message:
            self._changed.set()

    def end(self, error: InvocationError | None) -> None:
        """No more are taken; what is in flight is answered."""
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.set()

    async def write(self) -> None:
        """Answer them in their order, to the end of the stream."""
        index = 0
        while self._line or not self._ended:
            outputs = self._outputs()
            if outputs:
                await self._rpc.write(*(Messages(Output=output) for output in outputs))
                for output in outputs:
                    self._held_bytes -= self._line.popleft().input_bytes + len(output)
                self._room.set()
                index += len(outputs)
            elif self._line and isinstance(error := self._line[0].outcome, InvocationError):
                abort(self._rpc, error, message_index=index)
            else:
                self._changed.clear()
                await self._changed.wait()
        if self._error is not None:
            abort(self._rpc, self._error, message_index=index)

    def _outputs(self) -> list[bytes]:
        """Those at the front of the line, about TOGETHER_BYTES of them."""
        outputs, size = [], 0
        for message in self._line:
            if not isinstance(message.outcome, bytes) or size >= TOGETHER_BYTES:
                break
            outputs.append(message.outcome)
            size += len(message.outcome)
        return outputs

    def close(self) -> None:
        """Whatever is in flight still, nobody waits for."""
        for message in self._line:
            if message.call is not None:
                self._invoker.abandon(message.call)


async def run_invokes(invoker: Invoker, rpc: Rpc, stopping: asyncio.Event) -> None:
    """Serve one stream to its end. Cancelling it cancels the calls in flight.

    With `stopping` no more is read; what is in flight is delivered, then the
    client is told to connect again.
    """
    async with open_task_set() as tasks:
        exchange = _Exchange(invoker, rpc, tasks)
        tasks.on_failure = lambda error: exchange.end(InternalError("the gateway failed on this stream"))
        tasks.start("reader", exchange.read())
        tasks.start("stop", _stop_reading(tasks, exchange, stopping))
        try:
            await exchange.write()
        finally:
            exchange.close()


async def _stop_reading(tasks: TaskSet, exchange: _Exchange, stopping: asyncio.Event) -> None:
    await stopping.wait()
    await tasks.stop("reader")
    # A message that was read at this very moment is not taken: no output, and its handler has not run.
    exchange.end(
        ClusterUnavailableError(
            "this gateway stops: what was in flight is answered; connect again for the messages from this one on",
            retry_after_s=1.0,
        )
    )
