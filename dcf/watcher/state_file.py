"""Keep a file that says how the replica is, for whoever looks from outside.

In:   the pool's state; WatcherService tells when something changed.
Out:  STATE_FILE, written anew on each change of the state and at least every
      REFRESH_S. health_probe.py reads it: a container's health check that
      needs no gRPC, no packages and no port.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

REFRESH_S = 2.0
"""A fifth of the age at which the probe calls the watcher stuck."""


async def run_state_file(path: str, state: Callable[[], str], changed: Callable[[], Awaitable[None]]) -> NoReturn:
    """Write the file for as long as the watcher lives.

    Args:
        path: absolute; "" for no file.
        state: of the replica, now.
        changed: returns when something may have changed, and at least once in REFRESH_S / 2.
    """
    written, written_at, failing = "", 0.0, False
    while True:
        now = time.monotonic()
        if path and (state() != written or now - written_at >= REFRESH_S):
            written, written_at = state(), now
            try:
                write_state(Path(path), written, now=now)
                failing = False
            except OSError as error:
                # Said once: a full /tmp is the function's doing, and the health check tells the rest.
                if not failing:
                    log.warning("the state file could not be written", extra={"path": path, "error": str(error)})
                failing = True
        await changed()


def write_state(path: Path, state: str, *, now: float) -> None:
    """Replace the file; `now` in seconds of the machine's monotonic clock, which all its processes share."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps({"state": state, "at": now}))
    os.replace(new, path)
