"""What runs in a watcher, and in which order it stops.

Read `serve` top to bottom to start, bottom to top to stop: drain, let the
gateways go, close the server, end the workers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import closing
from pathlib import Path
from signal import SIGINT, SIGTERM

import uvloop

from dcf.env import read_settings
from dcf.errors import ConfigError
from dcf.heap import keep_heap
from dcf.lifecycle import TaskSet, open_task_set, running, unpack_group, until_signalled
from dcf.logs import configure_logs
from dcf.nvidia import list_gpus
from dcf.watcher.attached import Gateways
from dcf.watcher.batcher import Batcher
from dcf.watcher.devices import reserve_gpus
from dcf.watcher.function_log import FunctionLog
from dcf.watcher.grpc_api import WatcherService, open_grpc_api
from dcf.watcher.listener import Listener, open_listener
from dcf.watcher.low_descriptors import LowDescriptors
from dcf.watcher.orphans import run_orphans
from dcf.watcher.settings import WatcherSettings
from dcf.watcher.state_file import run_state_file
from dcf.watcher.worker_keeper import WorkerKeeper
from dcf.watcher.worker_pool import WorkerPool

log = logging.getLogger(__name__)

DRAIN_MARGIN_S = 5.0
DETACH_S = 3.0
"""Gateways leave within a heartbeat of `draining`; one that is stuck must not keep us."""
REACHABLE_S = 2.0
"""Between two looks at the socket."""
FAILED_STAY_S = 1.5
"""Time for whoever starts to watch to be told why: on a Swarm that may be the only way for the cause to travel."""


async def serve(settings: WatcherSettings, low: LowDescriptors) -> int:
    """Run until a signal (0) or until the handler cannot be loaded (1)."""
    function_log = FunctionLog(settings.log_file)
    try:
        async with open_task_set() as tasks:
            batched = settings.batch_max_size > 0
            batcher = Batcher(settings.batch_max_size, settings.batch_max_wait_s) if batched else None
            pool = WorkerPool(kill_after_s=settings.kill_after_s, batcher=batcher)
            keeper = WorkerKeeper(settings, pool, function_log, low, tasks)
            gateways = Gateways(pool, settings.replica, tasks)
            service = WatcherService(settings, pool, function_log, gateways)
            async with (
                open_grpc_api(service, tasks) as grpc,
                open_listener(Listener(gateways.make_stream, grpc), settings.listen),
                running(
                    heartbeat=service.run_heartbeat(),
                    sweep=keeper.run_sweep(),
                    orphans=run_orphans(lambda: {worker.pid for worker in pool.workers}),
                    state_file=run_state_file(settings.state_file, pool.state, service.changed),
                ),
            ):
                try:
                    return await _run(settings, keeper, service, function_log, tasks)
                finally:
                    gateways.close()
                    await keeper.stop()
    finally:
        function_log.close()


async def _run(
    settings: WatcherSettings,
    keeper: WorkerKeeper,
    service: WatcherService,
    function_log: FunctionLog,
    tasks: TaskSet,
) -> int:
    stopped = tasks.start("signals", until_signalled(SIGINT, SIGTERM))
    orphaned = tasks.start("orphaned", _until_unreachable(settings.listen))
    keeper.start()
    await asyncio.wait({stopped, orphaned, keeper.failed}, return_when=asyncio.FIRST_COMPLETED)
    if keeper.failed.done() and not stopped.done():
        function_log.write_cause(str(keeper.failed.result()))
        told = tasks.start("failure_told", service.failure_told.wait())
        await asyncio.wait({stopped, told}, timeout=FAILED_STAY_S, return_when=asyncio.FIRST_COMPLETED)
        return 1
    log.info("draining", extra={"function": settings.function, "replica": settings.replica})
    await keeper.drain(limit_s=settings.timeout_s + settings.kill_after_s + DRAIN_MARGIN_S)
    await service.until_detached(DETACH_S)
    return 0


async def _until_unreachable(listen: str) -> None:
    """Wait until our socket is gone: with it (somebody removed the state folder) goes everybody who would stop us."""
    path = Path(listen.removeprefix("unix:"))
    while not listen.startswith("unix:") or path.exists():
        await asyncio.sleep(REACHABLE_S)
    log.warning("the socket is gone, and nobody can reach this replica any more", extra={"path": str(path)})


def main() -> int:
    """The process: settings, loop, exit status."""
    try:
        settings = read_settings(WatcherSettings, os.environ)
        configure_logs(settings.log_level)
        # Before anything listens: it is settled in a moment, and a replica without its GPU has no sense.
        settings = reserve_gpus(settings, os.environ, list_gpus)
        keep_heap()
        with closing(LowDescriptors()) as low:
            return uvloop.run(serve(settings, low))
    except Exception as error:
        cause = unpack_group(error)
        if not isinstance(cause, ConfigError):
            raise
        print(f"dcf: {cause}", file=sys.stderr)  # noqa: T201 - the one line that the scheduler shows
        return 1
