"""A hundred thousand frames from dice: a worker that goes on is whole, and one that ends says so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.worker_conformance.conftest import Start
from tests.worker_conformance.kinds import Kind
from tests.worker_conformance.storm import MOST_OPEN, Storm
from tests.worker_conformance.wire import Wire

FRAMES = 100_000
GUST = 200
"""Frames between two looks at what is open."""
FATAL_SHARE = 1 / 8000
"""Of the frames, those that no watcher may send: each costs the start of another worker."""
CALM = 20_000
"""Of the frames, those at the end that have no such frame among them."""
MOST_LIVES = 50
"""Four times as many as the dice make on average."""
MOST_MEMORY_MIB = 400


def memory_mib(worker: Wire) -> int:
    """What the process has in memory now; 0 where it has just ended."""
    try:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


@pytest.mark.slow
def test_worker_ends_with_a_complaint_or_still_answers_after_whatever_it_was_sent(start: Start, kind: Kind) -> None:
    sent = lives = 0
    while sent < FRAMES:
        worker = start()
        lives += 1
        # The last life is one that no frame has to end.
        fatal_share, until = (FATAL_SHARE, FRAMES - CALM) if sent < FRAMES - CALM else (0.0, FRAMES)
        streams = worker.state.get("bidirectional", False)
        storm = Storm(worker, random.Random(lives), streams=streams, fatal_share=fatal_share)
        while sent < until and not worker.data_ended:
            sent += storm.blow(GUST)
            storm.settle(MOST_OPEN)
            assert memory_mib(worker) < MOST_MEMORY_MIB
        if not worker.data_ended:
            storm.settle(0)
        if worker.data_ended:
            assert worker.exit_status() > 0, worker.last_words()
            assert worker.stderr.read_text(errors="replace").strip()
        else:
            assert worker.call(b"still here", call_id=storm.next_id()).body == b"still here"
        worker.close()

    # A worker that ends at every frame that is a little odd would have far more.
    assert lives < MOST_LIVES
