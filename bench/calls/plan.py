"""Say what is measured: workloads, who meets in which, and with what load.

In:   whether it shall be short, names. Out: Blocks, in order.
Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exchange import OfSize, raw, stream

from calls.loads import MIB, Closed, Invokes, Kind, Rate, Streams, Unary
from calls.peers import PEERS

TWO_GATEWAYS = "dcf, 2 gateways"
UNBATCHED = "dcf, unbatched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What DCF runs in a workload."""

    name: str
    handler: str | None = None
    """None: what `dcf function init` writes."""
    config: str = ""
    exchange: OfSize = raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """DCF and one other, both up, take the same loads in turns."""

    workload: str
    other: str | None
    """A peer, TWO_GATEWAYS or UNBATCHED; None: DCF alone."""
    loads: tuple[Kind, ...]

    @property
    def warm_up(self) -> Kind:
        """Put on both before the first round, and not counted."""
        return WARM_UPS.get(self.workload, self.loads[0])

    @property
    def name(self) -> str:
        return f"{self.workload}/{self.other}" if self.other else self.workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of one run of the benchmark."""

    blocks: tuple[Block, ...]
    rounds: int
    seconds: int
    """Of each load."""


STREAM = """class Handler:
    async def __call__(self, req):
        for _ in range(1000):
            yield b"x" * 64
"""
SLEEP = """import asyncio


class Handler:
    async def __call__(self, req):
        await asyncio.sleep(0.01)
        return req.input
"""
BATCH = """import time


class Handler:
    def __call__(self, requests):
        time.sleep(0.005 + 0.0002 * len(requests))
        return [req.input for req in requests]
"""
ONE_BY_ONE = """import time


class Handler:
    def __call__(self, req):
        time.sleep(0.005 + 0.0002)
        return req.input
"""
FUNCTIONS = {
    "echo": Function(name="echo"),
    "grpc": Function(name="echo"),
    "gateways": Function(name="echo"),
    "stream": Function(name="stream", handler=STREAM, exchange=stream),
    "sleep": Function(name="sleep", handler=SLEEP, config="    concurrency: 64\n"),
    # As many as there are callers: what a user would write who knows them.
    "batch": Function(name="batch", handler=BATCH, config="    batch: {max_size: 64}\n"),
}
UNBATCHED_FUNCTION = Function(name="one-by-one", handler=ONE_BY_ONE)

ECHO = (Closed(1), Closed(8), Closed(64), Closed(256))
BODIES = (Closed(8, MIB), Closed(8, 16 * MIB))
GRPC = (Unary(64), Invokes(64))
STREAMS = (Streams(64, 64), Streams(20, 1))
SLEEPS = (Rate(500),)
BATCHES = (Closed(64),)
WARM_UPS: dict[str, Kind] = {"echo": Closed(64), "stream": Streams(4, 4)}
FULL = (4, 2)
SHORT = (2, 1)
WORKLOADS = {
    "echo": "the body comes back",
    "gateways": "the same behind two gateway processes, `dcf up --processes 2`",
    "grpc": "the body comes back, by gRPC",
    "stream": "1 000 chunks of 64 bytes",
    "sleep": "the handler sleeps 10 ms, 64 at once",
    "batch": "the handler takes 5 ms and 0.2 ms for each of up to 64 calls",
}


def plan(*, short: bool, only: Sequence[str] = ()) -> Plan:
    """All blocks, or those whose workload, other side or name is in `only`; short is as much as fits a minute."""
    rounds, seconds = SHORT if short else FULL
    blocks = _short() if short and not only else _full()
    chosen = tuple(block for block in blocks if not only or {block.workload, block.other, block.name} & {*only})
    return Plan(blocks=chosen, rounds=rounds, seconds=seconds)


def _full() -> Iterator[Block]:
    loads: dict[str, tuple[Kind, ...]]
    loads = {"echo": ECHO + BODIES, "grpc": GRPC[:1], "stream": STREAMS, "sleep": SLEEPS, "batch": BATCHES}
    for workload in WORKLOADS:
        if workload == "gateways":
            yield Block(workload=workload, other=TWO_GATEWAYS, loads=(Closed(64),))
        if workload == "batch":
            yield Block(workload=workload, other=UNBATCHED, loads=BATCHES)
        for peer in PEERS.values():
            if workload in peer.workloads:
                # The one that knows pb.Gateway/Invokes as well.
                chosen = GRPC if peer.name == "grpc.aio" else loads[workload]
                yield Block(workload=workload, other=peer.name, loads=chosen)


def _short() -> Iterator[Block]:
    """LitServe, FastAPI and bare gRPC, and DCF alone where a line is of it alone."""
    yield Block(workload="echo", other="litserve", loads=(Closed(1), Closed(64), Closed(256)))
    yield Block(workload="echo", other="fastapi", loads=(Closed(64), Closed(8, 16 * MIB)))
    yield Block(workload="grpc", other="grpc.aio", loads=GRPC)
    yield Block(workload="stream", other=None, loads=STREAMS)
    yield Block(workload="sleep", other=None, loads=SLEEPS)
    yield Block(workload="batch", other=UNBATCHED, loads=BATCHES)
