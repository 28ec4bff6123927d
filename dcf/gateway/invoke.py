"""Take one call from admission to its answer.

In:   a function's name, bytes, metadata, a deadline.
Out:  a Reply, or an InvocationError that says where and why.
One time limit covers all of it: queue, start of a replica, handler, answer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from dcf.errors import (
    DeadlineError,
    FunctionNotFoundError,
    InvocationError,
    MeshCycleError,
    NoReplicaError,
    PayloadTooLargeError,
)
from dcf.gateway.call import PendingCall, Reply
from dcf.gateway.router import FunctionEntry, Router

__all__ = ["Invoker", "Reply"]


class Invoker:
    """Touched only by the event loop of the gateway."""

    def __init__(self, router: Router) -> None:
        self.find: Callable[[str], Awaitable[None]] | None = None
        """Looks a function up in the store: it may have been deployed through another gateway just now."""
        self.in_flight = 0
        """Calls that were admitted or wait, of all protocols."""
        self._router = router
        self._prefix = secrets.token_hex(6)
        self._count = 0

    def new_invocation_id(self) -> str:
        """Unique over all gateways; short, because it travels with every call."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    async def entry(self, function: str) -> FunctionEntry:
        """The function. Raises FunctionNotFoundError."""
        entry = self._router.functions.get(function)
        if entry is None:
            if self.find:
                await self.find(function)
            entry = self._router.functions.get(function)
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
        """Call a function and wait. Cancelling the task cancels the call.

        Args:
            metadata: method, path, query, headers; the handler's `req.metadata`.
            timeout_s: the caller's own limit, > 0; the function's `timeout` is the most.
            chain: functions that wait for this call, outermost first.

        Raises:
            InvocationError: with function and invocation_id set, the replica where one was reached.
        """
        entry = await self.entry(function)
        encoded = json.dumps(metadata).encode() if metadata else b""
        return await self.call(
            entry, body, encoded=encoded, invocation_id=invocation_id, timeout_s=timeout_s, chain=chain
        )

    async def call(
        self,
        entry: FunctionEntry,
        body: bytes,
        *,
        encoded: bytes,
        invocation_id: str | None = None,
        timeout_s: float | None = None,
        chain: tuple[str, ...] = (),
    ) -> Reply:
        """The same for a caller that has the entry and the metadata's JSON."""
        loop = asyncio.get_running_loop()
        spec = entry.spec
        limit_s = spec.timeout_s if timeout_s is None or timeout_s > spec.timeout_s else timeout_s
        call = PendingCall(
            entry,
            body,
            metadata=encoded,
            invocation_id=invocation_id or self.new_invocation_id(),
            deadline=loop.time() + limit_s,
            chain=chain,
            loop=loop,
        )
        timer = None
        self.in_flight += 1
        try:
            if spec.name in chain:
                raise MeshCycleError(
                    f"{spec.name} waits for this call itself ({' -> '.join((*chain, spec.name))}); "
                    "with its slots taken it would wait for ever"
                )
            if len(body) > spec.max_payload_bytes:
                raise PayloadTooLargeError(
                    f"the body has {len(body)} bytes; {spec.name} takes {spec.max_payload_bytes} (max_payload)"
                )
            timer = loop.call_at(call.deadline, _expire, call, limit_s)
            entry.submit(call)
            return await call.future
        except InvocationError as error:
            error.function = spec.name
            error.invocation_id = call.invocation_id
            raise
        finally:
            self.in_flight -= 1
            if timer:
                timer.cancel()
            if call.queued or call.link is not None:
                entry.give_up(call)


def _expire(call: PendingCall, limit_s: float) -> None:
    entry = call.entry
    if not call.queued:
        call.fail(DeadlineError(f"no answer within {round(limit_s, 2):g} s"))
    elif any(link.open for link in entry.links.values()):
        call.fail(DeadlineError(f"waited {round(limit_s, 2):g} s in the queue of {entry.spec.name} for a free slot"))
    else:
        call.fail(
            NoReplicaError(
                f"{entry.spec.name} had no replica ready within {round(limit_s, 2):g} s: {entry.missing()}",
                retry_after_s=5.0,
            )
        )
