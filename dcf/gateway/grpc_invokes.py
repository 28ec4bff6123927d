"""Run pb.Gateway/Invokes: each message is a call, answers in their order.

In:   a stream of requests; the client need not wait between two.
Out:  a stream of outputs. At the first error those before it are delivered,
      then the stream ends with its status, whose detail names the message.
Bounded: IN_FLIGHT messages and HELD_BYTES of them; then nothing is read and
gRPC's flow control holds the client back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple, cast

import grpc.aio

from dcf.errors import ClusterUnavailableError, InternalError, InvocationError
from dcf.gateway.grpc_errors import Context, abort, remaining_s
from dcf.gateway.invoke import Invoker
from dcf.gateway.reply import Reply
from dcf.lifecycle import TaskSet, open_task_set
from dcf.rpc.pb_gateway_pb2 import InvokeServiceRequest, Messages

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Messages read and not yet answered. Enough to fill every slot that one video stream can use."""

HELD_BYTES = 64 * 1024 * 1024
"""Of inputs in flight and answers that wait for their turn; one message over it travels alone."""


class _Call(NamedTuple):
    """A message that was taken; its task never raises, it returns the error."""

    task: asyncio.Task[Any]
    input_bytes: int


class _Window:
    """How much more may be taken."""

    def __init__(self) -> None:
        self.count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def add(self, count: int, number_bytes: int) -> None:
        """Take, or give back with negative numbers."""
        self.count += count
        self._bytes += number_bytes
        if self.count < IN_FLIGHT and (self._bytes < HELD_BYTES or not self.count):
            self._room.set()
        else:
            self._room.clear()

    async def until_room(self) -> None:
        await self._room.wait()


class _End(NamedTuple):
    """No more messages are taken; `error` says why, None: the client has sent all."""

    error: InvocationError | None


async def run_invokes(invoker: Invoker, context: Context, stopping: asyncio.Event) -> None:
    """Serve one stream to its end. Cancelling it cancels the calls in flight.

    With `stopping` no more is read; what is in flight is delivered, then the
    client is told to connect again.
    """
    taken: asyncio.Queue[_Call | _End] = asyncio.Queue()  # bounded by the window
    window = _Window()
    async with open_task_set() as tasks:
        tasks.on_failure = lambda error: taken.put_nowait(_End(InternalError("the gateway failed on this stream")))
        tasks.start("reader", _read(invoker, context, tasks, taken, window))
        tasks.start("stop", _stop_reading(tasks, taken, stopping))
        index = 0
        while isinstance(item := await taken.get(), _Call):
            outcome = await item.task
            if isinstance(outcome, InvocationError):
                await abort(context, outcome, message_index=index)
            await context.write(Messages(Output=outcome.body))
            window.add(-1, -item.input_bytes - len(outcome.body))
            index += 1
        if item.error is not None:
            await abort(context, item.error, message_index=index)


async def _read(
    invoker: Invoker, context: Context, tasks: TaskSet, taken: asyncio.Queue[_Call | _End], window: _Window
) -> None:
    """Take messages while there is room, until the client has sent all."""
    count = 0
    while True:
        await window.until_room()
        message = await cast("Any", context).read()
        if message is grpc.aio.EOF:
            taken.put_nowait(_End(None))
            return
        size = len(message.Input)
        window.add(1, size)
        task = tasks.start(f"message-{count}", _call(invoker, message, window, remaining_s(context)))
        taken.put_nowait(_Call(task, size))
        count += 1


async def _call(
    invoker: Invoker, message: InvokeServiceRequest, window: _Window, timeout_s: float | None
) -> Reply | InvocationError:
    """One message's call; an error is a result here, because its turn may be later."""
    try:
        reply = await invoker.invoke(message.Service, message.Input, timeout_s=timeout_s)
    except InvocationError as error:
        return error
    except Exception:
        log.exception("a message of a stream failed on a bug of DCF", extra={"function": message.Service})
        return InternalError("the gateway failed on this message; its log says why", function=message.Service)
    window.add(0, len(reply.body))
    return reply


async def _stop_reading(tasks: TaskSet, taken: asyncio.Queue[_Call | _End], stopping: asyncio.Event) -> None:
    await stopping.wait()
    await tasks.stop("reader")
    # A message that was read at this very moment is not taken: no output, and its handler has not run.
    taken.put_nowait(
        _End(
            ClusterUnavailableError(
                "this gateway stops: what was in flight is answered; connect again for the messages from this one on",
                retry_after_s=1.0,
            )
        )
    )
