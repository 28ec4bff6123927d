"""Measure what readers that never read cost their neighbours: `python bench/stalled_readers.py`.

One function with 300 slots answers small calls at 64 connections, with and
without 200 endless streams on the same replica that nobody reads; runs in
turns, medians. See README.md.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cpu import cpu_s, memory_mib
from loadgen import Load, LoadFailedError, post
from sides import Side, SideFailedError, open_dcf

STALLED = 200
CONNECTIONS = 64
SETTLE_S = 30.0
HANDLERS = {
    "sync": """
class Handler:
    def __call__(self, req):
        return self.endless() if req.metadata["path"] == "/endless" else req.input

    def endless(self):
        while True:
            yield b"x" * 4096
""",
    "async": """
class Handler:
    async def __call__(self, req):
        if req.metadata["path"] == "/endless":
            return self.endless()
        return req.input

    async def endless(self):
        while True:
            yield b"x" * 4096
""",
}


@contextmanager
def stalled_readers(side: Side, number: int) -> Iterator[None]:
    """So many clients that ask for a stream and read nothing of it."""
    parts = urlsplit(side.url)
    sockets = []
    try:
        for _ in range(number):
            sock = socket.create_connection((parts.hostname, parts.port), timeout=10)
            sock.sendall(f"GET {parts.path}/endless HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            sockets.append(sock)
        settle(side)
        yield
    finally:
        for sock in sockets:
            sock.close()


def settle(side: Side) -> None:
    """Wait until the side does nothing: the streams have filled what holds them."""
    end, used = time.monotonic() + SETTLE_S, sum(cpu_s(side.pid).values())
    while True:
        time.sleep(0.5)
        before, used = used, sum(cpu_s(side.pid).values())
        if used - before < 0.05:
            return
        if time.monotonic() > end:
            raise SideFailedError(f"streams that nobody reads kept {side.name} busy for {SETTLE_S:g} s")


def measure(kind: str, *, rounds: int, seconds: int) -> int:
    """One kind of handler; prints its lines, returns the calls that failed."""
    runs: dict[int, list[Load]] = {0: [], STALLED: []}
    with (
        tempfile.TemporaryDirectory(prefix="dcf-bench-") as folder,
        open_dcf(Path(folder), handler=HANDLERS[kind], config="    concurrency: 300\n") as side,
    ):
        post(side.url, CONNECTIONS, 1)
        before, grown = memory_mib(side.pid), 0.0
        for turn in range(rounds):
            for number in (0, STALLED) if turn % 2 else (STALLED, 0):
                with stalled_readers(side, number):
                    runs[number].append(post(side.url, CONNECTIONS, seconds))
                    grown = max(grown, memory_mib(side.pid) - before)
    for number, loads in runs.items():
        p50, p99 = (statistics.median(getattr(load, name) for load in loads) / 1000 for name in ("p50_us", "p99_us"))
        rate = statistics.median(load.requests / load.duration_us * 1e6 for load in loads)
        print(f"{kind:6} {number:4} stalled readers: {rate:8.0f} calls/s   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")
    ratio = statistics.median(slow.p99_us / quick.p99_us for slow, quick in zip(runs[STALLED], runs[0], strict=True))
    print(f"{kind:6} p99 with / without: {ratio:.2f}   memory of all processes: {grown:+.0f} MiB")
    return sum(load.bad_answers + load.socket_errors for loads in runs.values() for load in loads)


def main() -> int:
    """Print the table; status 1 where a call failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="2 rounds of 2 s instead of 5 of 4 s")
    rounds, seconds = (2, 2) if parser.parse_args().short else (5, 4)
    bad = sum([measure(kind, rounds=rounds, seconds=seconds) for kind in HANDLERS])
    if bad:
        print(f"{bad} calls failed", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SideFailedError, LoadFailedError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
