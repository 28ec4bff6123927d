"""Bring what the store says into the router.

In:   specs, endpoints, statuses. Out: Router.apply_*.
Reads at every hint, and every RESYNC_S in case a hint was lost. While the
store is away the router keeps what it knows: calls go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from dcf.errors import StoreUnavailableError
from dcf.gateway.router import Router
from dcf.store.contract import Changes, EndpointReader, SpecReader

log = logging.getLogger(__name__)

RESYNC_S = 2.0
PAUSE_S = 0.02
"""Between two reads: many hints, or many calls of unknown names, cost the store no more than this."""
READ = frozenset({"spec", "endpoints", "status"})
LOOK_UP_S = 1.0
"""A call of an unknown name waits at most this for the store before it is a 404."""


class Store(SpecReader, EndpointReader, Changes, Protocol):
    """What this module reads."""


class EndpointSync:
    """Touched only by the event loop of the gateway."""

    def __init__(self, store: Store, router: Router) -> None:
        self.synced = asyncio.Event()
        """Set once everything was read for the first time."""
        self._store = store
        self._router = router
        self._hint = asyncio.Event()
        self._lost = False
        self._begun = 0
        self._ended = 0
        self._turned = asyncio.Event()

    async def run(self) -> None:
        """Follow the store."""
        while True:
            self._hint.clear()
            self._begun += 1
            try:
                await self.turn()
                if self._lost:
                    log.info("the store answers again")
                self._lost = False
            except StoreUnavailableError as error:
                if not self._lost:
                    log.warning("the store does not answer; going on with what is known", extra={"error": str(error)})
                self._lost = True
            self._ended = self._begun
            self._turned.set()
            self._turned = asyncio.Event()
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_S):
                    await self._hint.wait()

    async def run_hints(self) -> None:
        """Wake `run` when something changed."""
        async for changed in self._store.changes():
            if changed.family in READ:
                self._hint.set()

    async def turn(self) -> None:
        """Read everything once. Raises StoreUnavailableError."""
        # A function that admin adds while we read is not in `specs` yet, and must not be removed for it.
        known = list(self._router.functions)
        self._router.removed.clear()
        specs = await self._store.read_specs()
        endpoints = await self._store.read_endpoints()
        statuses = await self._store.read_statuses()
        router = self._router
        for name in known:
            if name not in specs:
                router.remove(name)
        for name, spec in specs.items():
            # Nor may one that admin deletes while we read come back, and hold calls that nobody will answer.
            if spec.uid in router.removed:
                continue
            router.apply_spec(spec)
            router.apply_endpoints(name, endpoints.get(name, ()))
            router.apply_status(name, statuses.get(name))
        self.synced.set()

    async def look_up(self, function: str) -> None:
        """Wait for a read that begins from now on: a function that the router does not know may be a moment old."""
        wanted = self._begun + 1
        self._hint.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                while self._ended < wanted and function not in self._router.functions:
                    await self._turned.wait()
