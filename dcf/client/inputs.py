"""Send the user's inputs while the answer comes: the other direction of a call.

In:   the user's iterable. Out: messages, each made when the one before it has
gone out. What the iterable raises is kept in `error`, and cancels the call;
whoever reads the answer raises it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import grpc.aio

from dcf.client import calls
from dcf.errors import InvalidInputError
from dcf.rpc import v1_gateway_pb2 as v1


def iterator_of(inputs: Any) -> Iterator[Any]:
    """Nothing of it is read yet. Raises InvalidInputError for what is one input, or no iterable."""
    if isinstance(inputs, (str, bytes, bytearray, memoryview, Mapping)):
        raise InvalidInputError(f"inputs: a {type(inputs).__name__} is one input; expected an iterable of them")
    try:
        return iter(inputs)
    except TypeError as error:
        raise InvalidInputError(f"inputs: expected an iterable of inputs, not a {type(inputs).__name__}") from error


def async_iterator_of(inputs: Any) -> AsyncIterator[Any] | Iterator[Any]:
    """The same, where the iterable may be async too."""
    return aiter(inputs) if isinstance(inputs, AsyncIterable) else iterator_of(inputs)


class ThreadInputs:
    """Inputs of one call of the sync client.

    gRPC reads `messages` in a thread of its own, in which the user's iterable runs therefore; `error` is read by
    the caller's thread once the call has ended. That gRPC thread ends with the call, except while it is inside
    the iterable: nothing can interrupt that, and to wait for it could be for ever (it may wait for what the
    caller does next). It is a daemon: a program can end beside it.
    """

    def __init__(self, first: Any, inputs: Iterator[Any]) -> None:
        self.error: BaseException | None = None
        """What the user's iterable raised."""
        self._first = first
        self._inputs = inputs
        self._cancel: Future[Callable[[], object]] = Future()

    def cancel_with(self, cancel: Callable[[], object]) -> None:
        """What ends the call; there is none before gRPC has begun to read."""
        self._cancel.set_result(cancel)

    def messages(self) -> Iterator[v1.InvokeInput]:
        """What gRPC sends, one after the other; a first one that names the function."""
        yield self._first
        while True:
            try:
                message = calls.next_input(next(self._inputs))
            except StopIteration:
                return
            except BaseException as error:
                # Kept from gRPC, which would log it and end the call with a status of its own making.
                self.error = error
                self._cancel.result()()
                return
            yield message


class TaskInputs:
    """Inputs of one call of the async client, sent by a task of their own. Touched only by its event loop."""

    def __init__(self, stream: Any, first: Any, inputs: AsyncIterator[Any] | Iterator[Any]) -> None:
        self.error: BaseException | None = None
        """What the user's iterable raised."""
        self._stream = stream
        self._inputs = inputs
        self._task = asyncio.get_running_loop().create_task(self._send_all(first), name="inputs of a call")

    async def close(self) -> None:
        """Stop reading the iterable; an async one that waits sees CancelledError."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _send_all(self, first: Any) -> None:
        try:
            await self._stream.wait_for_connection()
            message = first
            while message is not None:
                await self._send(message)
                message = await self._next()
            if self.error is None:
                await self._stream.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return  # the call has ended; who reads the answer sees why

    async def _next(self) -> v1.InvokeInput | None:
        """None: no more, or `error` says why not."""
        try:
            if isinstance(self._inputs, AsyncIterator):
                return calls.next_input(await anext(self._inputs))
            return calls.next_input(next(self._inputs))
        except (StopIteration, StopAsyncIteration):
            return None
        except BaseException as error:
            if self._task.cancelling():  # nobody asks any more
                raise
            self.error = error
            self._stream.cancel()
            if isinstance(error, Exception):
                return None
            raise

    async def _send(self, message: v1.InvokeInput) -> None:
        # Not `write`: where the call ends while a message is on its way, that one replaces the gateway's status by
        # "INTERNAL: Internal error from Core" (grpc/grpc#36066, open in 1.85), for one call in five that is refused.
        call = getattr(self._stream, "_cython_call", None)
        if call is None:
            await self._stream.write(message)
        else:
            await call.send_serialized_message(message.SerializeToString())
