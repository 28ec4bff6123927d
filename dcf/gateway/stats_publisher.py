"""Write this gateway process's running totals to the store.

In:   Stats. Out: its slice in the store, within PUBLISH_S of a change, and
once more when the gateway stops.
"""

from __future__ import annotations

import asyncio
import logging

from dcf.errors import StoreUnavailableError
from dcf.gateway.stats import Stats
from dcf.store.contract import CountWriter

log = logging.getLogger(__name__)

PUBLISH_S = 0.5
"""A crash loses the counts of at most this time; the promise is a second."""
RETRY_S = 0.5


async def run_stats_publisher(store: CountWriter, stats: Stats) -> None:
    """Publish at the first change after a rest at once, then at most every PUBLISH_S."""
    lost = False
    while True:
        await stats.changed.wait()
        try:
            await publish(store, stats)
            if lost:
                log.info("the store takes counts again")
            lost = False
        except StoreUnavailableError as error:
            if not lost:
                log.warning("counts wait for the store", extra={"error": str(error)})
            lost = True
            await asyncio.sleep(RETRY_S)
        await asyncio.sleep(PUBLISH_S)


async def publish(store: CountWriter, stats: Stats) -> None:
    """One turn. Raises StoreUnavailableError; nothing is lost by it."""
    stats.changed.clear()
    totals = stats.take()
    if totals:
        try:
            await store.write_counts(stats.slice_name, totals)
        except BaseException:
            stats.give_back(totals)
            raise
