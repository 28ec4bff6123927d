"""Hold the lease, and act only while it is held.

In:   the store's lease; `act`, which runs for ever under a fence.
Out:  one `act` at a time in the whole cluster. Losing the lease ends it and
      goes back to waiting; the fence makes a late write of ours fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from dcf.errors import LeaseLostError, StoreError, StoreUnavailableError
from dcf.lifecycle import running, unpack_group
from dcf.store.contract import Fence, LeaseKeeper

log = logging.getLogger(__name__)

WAIT_S = 1.0
"""Between two tries while another scheduler holds the lease."""


async def run_leader(
    store: LeaseKeeper, owner: str, *, ttl_s: float, act: Callable[[Fence], Coroutine[Any, Any, object]]
) -> NoReturn:
    """Take the lease, act, and begin again whenever it was lost."""
    while True:
        fence = await _acquire(store, owner, ttl_s)
        log.info("lease was taken", extra={"owner": owner, "fence": fence})
        try:
            async with running(renew=_renew(store, owner, fence, ttl_s), act=act(fence)):
                await asyncio.Event().wait()
        except* LeaseLostError as group:
            log.warning("lease was lost", extra={"owner": owner, "fence": fence, "reason": str(unpack_group(group))})
        finally:
            with contextlib.suppress(StoreError):  # it ends by itself soon
                await store.release_lease(owner, fence)


async def _acquire(store: LeaseKeeper, owner: str, ttl_s: float) -> Fence:
    told = False
    while True:
        try:
            fence = await store.acquire_lease(owner, ttl_s=ttl_s)
            if fence is not None:
                return fence
            reason = "another scheduler holds it"
        except StoreUnavailableError as error:
            reason = str(error)
        if not told:
            log.info("waiting for the lease", extra={"owner": owner, "reason": reason})
            told = True
        await asyncio.sleep(WAIT_S)


async def _renew(store: LeaseKeeper, owner: str, fence: Fence, ttl_s: float) -> NoReturn:
    """Raises LeaseLostError, also where the store was away for so long that another may have it."""
    loop = asyncio.get_running_loop()
    renewed_at = loop.time()
    while True:
        await asyncio.sleep(ttl_s / 3)
        asked_at = loop.time()
        try:
            await store.renew_lease(owner, fence, ttl_s=ttl_s)
            renewed_at = asked_at
        except StoreUnavailableError as error:
            if loop.time() - renewed_at >= ttl_s:
                raise LeaseLostError(f"it could not be renewed for {ttl_s:g} s: {error}") from error
