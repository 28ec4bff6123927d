"""What runs in a scheduler, and in which order it stops.

Read `serve` top to bottom to start, bottom to top to stop: the lease is
given back, then the backend lets go of the replicas, which live on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGINT, SIGTERM

from dcf.env import read_settings
from dcf.errors import DcfError, StoreUnavailableError
from dcf.lifecycle import die_with_parent, running, unpack_group, until_signalled
from dcf.logs import configure_logs
from dcf.scheduler.backends.registry import BackendOptions, open_backend
from dcf.scheduler.control_loop import run_control_loop
from dcf.scheduler.health import keep_from_children, tell_ready
from dcf.scheduler.leader import run_leader
from dcf.scheduler.settings import SchedulerSettings
from dcf.store.contract import SpecReader
from dcf.store.redis_store import open_store

log = logging.getLogger(__name__)

STOP_REPLICAS_GRACE_S = 10.0
"""With the cluster's gateways gone nobody waits for an answer: a drain that takes longer serves no one."""
STORE_RETRY_S = 0.2


async def serve(settings: SchedulerSettings, environ: Mapping[str, str]) -> None:
    """Lead when it is our turn, until a signal."""
    wake = asyncio.Event()
    async with (
        open_store(settings.store_url) as store,
        open_backend(settings.backend, _options(settings, environ, wake.set)) as backend,
        running(
            leader=run_leader(
                store,
                settings.scheduler_id,
                ttl_s=settings.lease_ttl_s,
                act=lambda fence: run_control_loop(store, backend, fence, wake=wake, tick_s=settings.tick_s),
            ),
            ready=_tell_ready_once(store, settings.ready_fd),
        ),
    ):
        reason = await until_signalled(SIGINT, SIGTERM)
        log.info("stopping", extra={"signal": reason.name})


def _options(settings: SchedulerSettings, environ: Mapping[str, str], on_change: Callable[[], None]) -> BackendOptions:
    return BackendOptions(
        state=Path(settings.state).absolute(),
        bundles=Path(settings.bundles).absolute(),
        cluster=settings.cluster,
        network=settings.network or settings.cluster,
        gpus=settings.gpus,
        environ=environ,
        on_change=on_change,
    )


async def _tell_ready_once(store: SpecReader, ready_fd: int | None) -> None:
    """Ready is who has read the store; the lease may still be another's."""
    while True:
        try:
            await store.read_specs()
            break
        except StoreUnavailableError:
            await asyncio.sleep(STORE_RETRY_S)
    tell_ready(ready_fd)
    await asyncio.Event().wait()


async def stop_replicas(settings: SchedulerSettings, environ: Mapping[str, str]) -> None:
    """End every replica that this state folder knows of; no store is needed."""
    async with open_backend(settings.backend, _options(settings, environ, lambda: None)) as backend:
        stopped = await backend.stop_all(grace_s=STOP_REPLICAS_GRACE_S)
    log.info("replicas were stopped", extra={"number": stopped})


def main() -> int:
    """The process: arguments, settings, loop, exit status."""
    parser = argparse.ArgumentParser(prog="python -m dcf.scheduler", description="DCF's scheduler; set up by DCF_*.")
    parser.add_argument("--stop-replicas", action="store_true", help="stop every replica of this state, then exit")
    arguments = parser.parse_args()
    environ = dict(os.environ)
    try:
        settings = read_settings(SchedulerSettings, environ)
        configure_logs(settings.log_level)
        keep_from_children(settings.ready_fd)
        if arguments.stop_replicas:
            asyncio.run(stop_replicas(settings, environ))
            return 0
        if settings.ready_fd is not None:
            die_with_parent(SIGTERM)
        asyncio.run(serve(settings, environ))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        cause = unpack_group(error)
        if not isinstance(cause, DcfError):
            raise
        with contextlib.suppress(OSError):
            print(f"dcf: {cause}", file=sys.stderr)  # noqa: T201 - the one line that a supervisor shows
        return 1
    return 0
