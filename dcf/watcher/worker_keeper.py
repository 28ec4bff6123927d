"""Keep the workers running: start, replace with back-off, stop.

In:   WatcherSettings; how many workers.
Out:  workers in the pool; `failed` when the replica has no sense any more.
A worker that dies is replaced; a handler that cannot be loaded ends the
replica, unless other workers still serve: then it is tried again.
"""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from dcf.errors import LoadError
from dcf.lifecycle import TaskSet
from dcf.watcher.function_log import FunctionLog
from dcf.watcher.low_descriptors import LowDescriptors
from dcf.watcher.settings import WatcherSettings
from dcf.watcher.worker_pool import WorkerPool
from dcf.watcher.worker_process import WorkerProcess

RESTART_BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
STEADY_S = 10.0
"""A worker that was ready this long starts the back-off anew."""
SWEEP_S = 0.25
POLL_S = 0.02


class WorkerKeeper:
    """Touched only by the event loop of the watcher."""

    def __init__(
        self,
        settings: WatcherSettings,
        pool: WorkerPool,
        function_log: FunctionLog,
        low: LowDescriptors,
        tasks: TaskSet,
    ) -> None:
        self.failed: asyncio.Future[LoadError] = asyncio.get_running_loop().create_future()
        """Set when the watcher has to end, and why."""
        self._settings = settings
        self._pool = pool
        self._log = function_log
        self._low = low
        self._tasks = tasks
        self._loading = set(range(settings.workers))
        """Numbers of the workers that were never ready yet."""
        tasks.on_failure = self._on_bug
        pool.on_condemned = self._end_condemned

    def _on_bug(self, error: BaseException) -> None:
        """End the process rather than serve half; the cause is in the log."""
        self._fail(LoadError(f"the watcher itself failed, which is a bug: {error!r}"))

    def _fail(self, error: LoadError) -> None:
        if not self.failed.done():
            self._pool.failed_because = str(error)
            self.failed.set_result(error)
            self._pool.on_change()

    def start(self) -> None:
        """Start all workers; `pool.on_change` says when they are ready."""
        for number in range(self._settings.workers):
            self._tasks.start(f"worker-{number}-keeper", self._keep(number))

    def _slots(self, number: int) -> int:
        """A worker's share of the replica's concurrency, at least 1; 0 leaves it to the kind of handler."""
        share, rest = divmod(self._settings.concurrency, self._settings.workers)
        return max(1, share + (number < rest)) if self._settings.concurrency else 0

    async def _keep(self, number: int) -> None:
        """Run one worker after the other, until the replica ends."""
        deaths = 0
        while not (self._pool.draining or self.failed.done()):
            steady, failure = await self._run_one(number)
            if self._pool.draining:
                return
            if failure and (self._loading or not self._pool.slots()):
                self._fail(failure)
                return
            deaths = 0 if steady else deaths + 1
            wait_s = RESTART_BACKOFF_S[min(max(deaths - 1, 0), len(RESTART_BACKOFF_S) - 1)]
            if failure:
                self._log.write_cause(f"a worker could not be started again: {failure}; next try in {wait_s:g} s")
            else:
                self._log.write_cause(f"another worker starts in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            self._pool.restarts += 1

    async def _run_one(self, number: int) -> tuple[bool, LoadError | None]:
        """One worker from start to end: whether it was ready long, and why it could not be loaded."""
        loop = asyncio.get_running_loop()
        worker = WorkerProcess(self._settings, self._log, number, self._low)
        worker.on_frames, worker.on_bug = self._pool.on_worker_frames, self._on_bug
        self._pool.workers.append(worker)
        ready_at, failure = 0.0, None
        try:
            await worker.start(self._slots(number), self._tasks.start)
            ready_at = loop.time()
            self._loading.discard(number)
            self._pool.on_worker_ready()
            await worker.exited
        except LoadError as error:
            failure = error
        finally:
            how = worker.describe_end() if worker.exited.done() else "was stopped"
            self._pool.on_worker_death(worker, how)
            await worker.stop()
        for line in worker.load_traceback.splitlines():
            self._log.write("stderr", line)
        if not failure and not self._pool.draining:
            self._log.write_cause(f"the worker {how}")
        return bool(ready_at) and loop.time() - ready_at > STEADY_S, failure

    def _end_condemned(self, worker: WorkerProcess, overdue: int) -> None:
        late = f"ran over {self._settings.kill_after_s:g} s (kill_after) past the deadline"
        worker.kill(f"had {'a handler' if overdue == 1 else f'{overdue} handlers'} that {late}")

    async def run_sweep(self) -> NoReturn:
        """Let the pool look for handlers that run too long."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._pool.judge()

    async def drain(self, *, limit_s: float) -> None:
        """Refuse what is new, give back what waits, finish what runs."""
        self._pool.draining = True
        self._pool.refuse_waiting()
        self._pool.on_change()
        end = time.monotonic() + limit_s
        while self._pool.in_flight() and time.monotonic() < end:
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """End all workers, all at once."""
        self._pool.draining = True
        keepers = [f"worker-{number}-keeper" for number in range(self._settings.workers)]
        ready = {worker.number: worker for worker in self._pool.workers if worker.ready}
        for number, name in enumerate(keepers):
            if number in ready:
                ready[number].shut_down()
            else:
                self._tasks.cancel(name)  # it starts one, or waits until it may
        for name in keepers:
            await self._tasks.join(name)
