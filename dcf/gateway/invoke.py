"""Take one call from admission to its answer.

In:   a function's name, bytes, metadata, a deadline.
Out:  a Reply, a ReplyStream or a Conversation, or an InvocationError that
      says where and why.
One time limit covers all of it: queue, start of a replica, handler, answer. A
stream's answer has to begin within it, and then must not stand still so long.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dcf.errors import (
    ClientGoneError,
    DeadlineError,
    FunctionNotFoundError,
    InternalError,
    InvocationError,
    MeshCycleError,
    NoReplicaError,
    PayloadTooLargeError,
)
from dcf.gateway.call import PendingCall
from dcf.gateway.conversation import Conversation
from dcf.gateway.reply import Reply, ReplyStream
from dcf.gateway.router import FunctionEntry, Router
from dcf.lifecycle import open_task_set
from dcf.rpc.status import STATUS, status_of

OK = 200
GONE = STATUS[ClientGoneError].http
"""What a call ended with that was cancelled: nobody has seen it."""


class Invoker:
    """Touched only by the event loop of the gateway."""

    def __init__(self, router: Router) -> None:
        self.find: Callable[[str], Awaitable[None]] | None = None
        """Looks a function up in the store: it may have been deployed through another gateway just now."""
        self.in_flight = 0
        """Calls that were admitted or wait, of all protocols."""
        self.on_end: Callable[[FunctionEntry, int, float, float], None] = lambda entry, code, came_at, now: None
        """A call ended, or its stream began: with which HTTP status; when it came, and now, on the loop's clock."""
        self._router = router
        self._prefix = secrets.token_hex(6)
        self._count = 0

    def new_invocation_id(self) -> str:
        """Unique over all gateways; short, because it travels with every call."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def known(self, function: str) -> FunctionEntry | None:
        """The function, where this gateway has heard of it; else `entry` may find it."""
        return self._router.functions.get(function)

    async def entry(self, function: str) -> FunctionEntry:
        """The function. Raises FunctionNotFoundError."""
        entry = self.known(function)
        if entry is None:
            if self.find:
                await self.find(function)
            entry = self.known(function)
            if entry is None:
                raise FunctionNotFoundError(f"no function {function!r} is deployed", function=function)
        return entry

    async def invoke(
        self,
        function: str,
        body: bytes,
        *,
        metadata: dict[str, Any] | None = None,
        invocation_id: str | None = None,
        timeout_s: float | None = None,
        chain: tuple[str, ...] = (),
    ) -> Reply:
        """Call a function and wait for all of its answer; a stream's chunks are joined.

        Cancelling the task cancels the call.

        Args:
            metadata: method, path, query, headers; the handler's `req.metadata`.
            timeout_s: the caller's own limit, > 0; the function's `timeout` is the most.
            chain: functions that wait for this call, outermost first.

        Raises:
            InvocationError: with function and invocation_id set, the replica where one was reached.
        """
        entry = await self.entry(function)
        answer = await self.call(
            entry,
            body,
            encoded=encode_metadata(metadata),
            invocation_id=invocation_id,
            timeout_s=timeout_s,
            chain=chain,
        )
        if isinstance(answer, Reply):
            return answer
        with located(entry, answer.invocation_id):
            return await answer.join(entry.spec.max_payload_bytes)

    async def call(
        self,
        entry: FunctionEntry,
        body: bytes,
        *,
        encoded: bytes,
        rest: AsyncIterator[bytes] | None = None,
        invocation_id: str | None = None,
        timeout_s: float | None = None,
        chain: tuple[str, ...] = (),
    ) -> Reply | ReplyStream:
        """The same for a caller that has the entry and the metadata's JSON, and takes the answer in pieces.

        Args:
            rest: what of the input comes after `body`, in pieces of at most PIECE_BYTES. It is read as the replica
                takes it, and may raise an InvocationError, which then is the call's.

        Returns:
            A ReplyStream where the answer is a stream or large; whoever gets it closes it.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(call: PendingCall) -> None:
            if not future.done():
                future.set_result(None)

        call = self.begin(
            entry,
            body,
            encoded=encoded,
            then=wake,
            rest=rest,
            invocation_id=invocation_id,
            timeout_s=timeout_s,
            chain=chain,
        )
        try:
            if rest is None:
                await future
            else:
                async with open_task_set() as tasks:
                    tasks.on_failure = lambda error: call.fail(InternalError("the input could not be passed on"))
                    tasks.start("input", call.send_rest())
                    await future
        except BaseException:
            self.abandon(call)
            raise
        if (error := call.error) is not None:
            # Its traceback holds this frame, and with it the input: were it held in turn, they would stay.
            call.error = None
            try:
                raise error
            finally:
                del error
        assert call.answer is not None
        return call.answer

    def begin(
        self,
        entry: FunctionEntry,
        body: bytes,
        *,
        encoded: bytes,
        then: Callable[[PendingCall], None],
        rest: AsyncIterator[bytes] | None = None,
        invocation_id: str | None = None,
        timeout_s: float | None = None,
        chain: tuple[str, ...] = (),
    ) -> PendingCall:
        """The same without waiting: `then` is called with the call once it has its answer or its error.

        Whoever stops waiting before says so by `abandon`.

        Raises:
            InvocationError: it is refused at once; `then` is not called.
        """
        call, limit_s = self._make(entry, body, encoded, invocation_id, timeout_s, chain, rest=rest)
        self.in_flight += 1
        entry.meter.arrivals += 1
        call.then = then
        try:
            self._check(call)
            entry.submit(call)
        except InvocationError as error:
            call.settled = True
            self._end(call, self._place(error, call))
            raise
        except BaseException:
            self.in_flight -= 1
            raise
        call.on_settled = self._on_settled
        call.timer = call.loop.call_at(call.deadline, _expire, call, limit_s)
        return call

    def abandon(self, call: PendingCall) -> None:
        """Nobody waits for its answer any more. Safe to call twice, and late."""
        if not call.settled:
            call.settled = True
            self._give_up(call)
            call.body = b""
            self._end(call, GONE)
        elif isinstance(call.answer, ReplyStream):
            call.answer.close()

    def _on_settled(self, call: PendingCall) -> None:
        answer = call.answer
        if isinstance(answer, Reply) and call.loop.time() >= call.deadline:
            # Its timer is due, and only a fraction of a millisecond late.
            limit_s = call.deadline - call.came_at
            call.answer, call.error = None, DeadlineError(f"no answer within {round(limit_s, 2):g} s")
        if isinstance(answer, ReplyStream):
            self.in_flight += 1  # until its reader closes it
            self._hand_on(answer, call.entry)
        elif call.error is not None:
            self._give_up(call)
        self._end(call, OK if call.error is None else self._place(call.error, call))
        call.then(call)

    def _place(self, error: InvocationError, call: PendingCall) -> int:
        """Say in an error which call it is of; its HTTP status."""
        error.function, error.invocation_id = call.entry.spec.name, call.invocation_id
        return status_of(error).http

    def _give_up(self, call: PendingCall) -> None:
        if call.queued or call.link is not None:
            call.entry.give_up(call)

    def _end(self, call: PendingCall, code: int) -> None:
        """Its books are closed; a stream that has begun goes on."""
        if call.timer is not None:
            call.timer.cancel()
        self.in_flight -= 1
        self.on_end(call.entry, code, call.came_at, call.loop.time())

    async def converse(
        self, entry: FunctionEntry, *, encoded: bytes, invocation_id: str | None = None, timeout_s: float | None = None
    ) -> Conversation:
        """Open a call whose input is a stream; `entry.bidirectional` was checked. Whoever gets it closes it.

        Raises:
            InvocationError: no replica took it within the function's `timeout`, or it is refused.
        """
        call, limit_s = self._make(entry, b"", encoded, invocation_id, timeout_s, (), bidirectional=True)
        conversation = Conversation(call, limit_s)
        self.in_flight += 1
        conversation.on_close = self._end_one
        came_at, code = call.loop.time(), GONE
        entry.meter.arrivals += 1
        try:
            self._check(call)
            entry.submit(call)
            await conversation.until_taken(_expire)
            code = OK
        except BaseException as error:
            conversation.close()
            if isinstance(error, InvocationError):
                code = status_of(error).http
                error.function, error.invocation_id = entry.spec.name, call.invocation_id
            raise
        finally:
            self.on_end(entry, code, came_at, call.loop.time())
        return conversation

    async def is_bidirectional(self, entry: FunctionEntry, timeout_s: float | None = None) -> bool:
        """Whether the handler takes streams of input; held until a replica is ready to say so.

        Raises:
            InvocationError: none will be, or none is within the function's `timeout`.
        """
        if (known := entry.bidirectional) is not None:
            return known
        spec = entry.spec
        limit_s = spec.timeout_s if timeout_s is None or timeout_s > spec.timeout_s else timeout_s
        entry.check_queue()
        entry.asking += 1
        entry.note_waiting(asyncio.get_running_loop().time())
        self.in_flight += 1
        try:
            async with asyncio.timeout(limit_s):
                while (known := entry.bidirectional) is None:
                    if entry.removed:
                        raise entry.gone()
                    if error := entry.hopeless():
                        error.function = spec.name
                        raise error
                    await entry.changed.wait()
        except TimeoutError:
            raise no_replica(entry, limit_s) from None
        finally:
            entry.asking -= 1
            self.in_flight -= 1
            if not (entry.queued or entry.asking):
                entry.meter.release()
        return known

    def _make(
        self,
        entry: FunctionEntry,
        body: bytes,
        encoded: bytes,
        invocation_id: str | None,
        timeout_s: float | None,
        chain: tuple[str, ...],
        *,
        rest: AsyncIterator[bytes] | None = None,
        bidirectional: bool = False,
    ) -> tuple[PendingCall, float]:
        loop = asyncio.get_running_loop()
        spec, now = entry.spec, loop.time()
        limit_s = spec.timeout_s if timeout_s is None or timeout_s > spec.timeout_s else timeout_s
        call = PendingCall(
            entry,
            body,
            metadata=encoded,
            invocation_id=invocation_id or self.new_invocation_id(),
            deadline=now + limit_s,
            chain=chain,
            loop=loop,
            rest=rest,
            bidirectional=bidirectional,
        )
        call.came_at = now
        return call, limit_s

    def _check(self, call: PendingCall) -> None:
        spec, chain = call.entry.spec, call.chain
        if spec.name in chain:
            raise MeshCycleError(
                f"{spec.name} waits for this call itself ({' -> '.join((*chain, spec.name))}); "
                "with its slots taken it would wait for ever"
            )
        if len(call.body) > spec.max_payload_bytes:
            raise PayloadTooLargeError(
                f"the body has {len(call.body)} bytes; {spec.name} takes {spec.max_payload_bytes} (max_payload)"
            )

    def _hand_on(self, stream: ReplyStream, entry: FunctionEntry) -> None:
        """From here on the stream's reader has it."""
        stream.on_close = self._end_one
        stream.watch_idle(entry.spec.timeout_s)

    def _end_one(self) -> None:
        self.in_flight -= 1


def encode_metadata(metadata: dict[str, Any] | None) -> bytes:
    """As it travels."""
    return json.dumps(metadata).encode() if metadata else b""


@contextmanager
def located(entry: FunctionEntry, invocation_id: str) -> Iterator[None]:
    """An error that a stream breaks off with says where."""
    try:
        yield
    except InvocationError as error:
        error.function, error.invocation_id = entry.spec.name, invocation_id
        raise


def no_replica(entry: FunctionEntry, limit_s: float) -> NoReplicaError:
    """None was ready in time."""
    name = entry.spec.name
    return NoReplicaError(
        f"{name} had no replica ready within {round(limit_s, 2):g} s: {entry.missing()}",
        function=name,
        retry_after_s=5.0,
    )


def _expire(call: PendingCall, limit_s: float) -> None:
    entry = call.entry
    if call.stream is not None:
        return  # it has begun; from here on it may not stand still
    if not call.queued:
        call.fail(DeadlineError(f"no answer within {round(limit_s, 2):g} s"))
    elif any(link.open for link in entry.links.values()):
        call.fail(DeadlineError(f"waited {round(limit_s, 2):g} s in the queue of {entry.spec.name} for a free slot"))
    else:
        call.fail(no_replica(entry, limit_s))
