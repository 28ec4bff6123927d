"""Cut the calls that wait into batches.

In:   calls whose input is whole, in the order in which it became so; a worker
      with a free slot; now.
Out:  the calls that run together next, or how long to wait for more of them.
The watcher cuts, not the worker: it owns the slots, and it alone knows what
is queued. So a worker in any language needs no more than to run a batch.
"""

from __future__ import annotations

from collections import deque

from dcf.watcher.invocation import Invocation
from dcf.watcher.worker_process import WorkerProcess


class Batcher:
    """Touched only by the event loop of the watcher."""

    def __init__(self, max_size: int, max_wait_s: float) -> None:
        self._max_size = max_size
        self._max_wait_s = max_wait_s

    def cut(self, waiting: deque[Invocation], worker: WorkerProcess, now: float) -> tuple[list[Invocation], float]:
        """Take at most max_size calls off `waiting`: all that `worker` may run, in order.

        A call whose input was sent to another worker already stays.

        Returns:
            The calls, and 0; or none, and the seconds after which the oldest has waited long enough for more (0:
            there is none).
        """
        batch = [call for call in waiting if call.worker is None or call.worker is worker][: self._max_size]
        if not batch:
            return [], 0.0
        left_s = batch[0].arrived_at + self._max_wait_s - now
        if len(batch) < self._max_size and left_s > 0:
            return [], left_s
        if len(batch) == len(waiting):
            waiting.clear()
        elif all(call is waiting[index] for index, call in enumerate(batch)):
            for _ in batch:
                waiting.popleft()
        else:
            for call in batch:
                waiting.remove(call)
        return batch, 0.0
