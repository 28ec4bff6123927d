"""Say what DCF must reach and what it aims at, and whether it does.

In:   Runs. Out: a Verdict for each line.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calls.measure import Run
from calls.plan import TWO_GATEWAYS, UNBATCHED

SLEEP_MS = 10.0
"""What the handler of the workload `sleep` takes by itself."""

Value = Callable[[Sequence[Run]], float | None]
"""A figure of the runs; None where they do not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one figure must reach, and should."""

    value: Value
    must: float
    aim: float | None
    """None: this figure has no aim of its own."""
    unit: str
    at_most: bool = False

    def is_met(self, seen: float, wanted: float) -> bool:
        return seen <= wanted if self.at_most else seen >= wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise. Where there are several limits, any one that is met is enough."""

    says: str
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a line; `must_met` and `aim_met` are None where it was not measured."""

    line: Line
    seen: tuple[float | None, ...]
    must_met: bool | None
    aim_met: bool | None


def judge(line: Line, runs: Sequence[Run]) -> Verdict:
    """By those limits that were measured."""
    seen = tuple(limit.value(runs) for limit in line.limits)
    pairs = [(limit, value) for limit, value in zip(line.limits, seen, strict=True) if value is not None]
    if not pairs:
        return Verdict(line=line, seen=seen, must_met=None, aim_met=None)
    aims = [limit.is_met(value, limit.aim) for limit, value in pairs if limit.aim is not None]
    return Verdict(
        line=line,
        seen=seen,
        must_met=any(limit.is_met(value, limit.must) for limit, value in pairs),
        aim_met=any(aims) if aims else None,
    )


def against(block: str, load: str, field: str, *, other_first: bool = False) -> Value:
    """DCF over the other side of a block, or that one over DCF: the median of the rounds' own ratios."""

    def value(runs: Sequence[Run]) -> float | None:
        ours = _by_round(runs, "dcf", load, block)
        theirs = _by_round(runs, block.partition("/")[2], load, block)
        return _ratio(theirs, ours, field) if other_first else _ratio(ours, theirs, field)

    return value


def within(load: str, base: str, block: str = "") -> Value:
    """DCF's answers per second under one load over those under another of the same round."""

    def value(runs: Sequence[Run]) -> float | None:
        return _ratio(_by_round(runs, "dcf", load, block), _by_round(runs, "dcf", base, block), "per_s")

    return value


def ours(workload: str, load: str, field: str, less: float = 0.0) -> Value:
    """DCF's median over all rounds of all blocks of a workload, minus `less`."""

    def value(runs: Sequence[Run]) -> float | None:
        found = of_workload(runs, workload, "dcf", load)
        return median(found, field) - less if found else None

    return value


def of_workload(runs: Sequence[Run], workload: str, side: str, load: str) -> list[Run]:
    """Those of one side under one load, whoever it was beside."""
    return [run for run in runs if (run.side, run.load) == (side, load) and run.block.partition("/")[0] == workload]


def median(runs: Sequence[Run], field: str) -> float:
    """0 where there are none."""
    return statistics.median(getattr(run, field) for run in runs) if runs else 0.0


def _by_round(runs: Sequence[Run], side: str, load: str, block: str) -> dict[tuple[str, int], Run]:
    return {
        (run.block, run.round): run
        for run in runs
        if (run.side, run.load) == (side, load) and (not block or run.block == block)
    }


def _ratio(these: dict[tuple[str, int], Run], those: dict[tuple[str, int], Run], field: str) -> float | None:
    ratios = [getattr(these[key], field) / getattr(those[key], field) for key in these.keys() & those.keys()]
    return statistics.median(ratios) if ratios else None


def _line(says: str, value: Value, must: float, aim: float, unit: str = "x", *, at_most: bool = False) -> Line:
    return Line(says=says, limits=(Limit(value=value, must=must, aim=aim, unit=unit, at_most=at_most),))


LINES = (
    _line(
        "HTTP echo, 64 connections: requests/s against LitServe", against("echo/litserve", "100 B x 64", "per_s"), 7, 10
    ),
    _line(
        "HTTP echo, 64 connections: requests/s against BentoML", against("echo/bentoml", "100 B x 64", "per_s"), 9, 12
    ),
    _line(
        "HTTP echo, 64 connections: requests/s against Ray Serve",
        against("echo/ray-serve", "100 B x 64", "per_s"),
        30,
        40,
    ),
    _line(
        "HTTP echo, 64 connections: requests/s against FastAPI + uvicorn alone",
        against("echo/fastapi", "100 B x 64", "per_s"),
        1.4,
        1.8,
    ),
    _line(
        "HTTP echo, 1 connection: p50 against LitServe",
        against("echo/litserve", "100 B x 1", "p50_ms"),
        0.8,
        0.5,
        at_most=True,
    ),
    _line(
        "HTTP echo, 64 connections: CPU per request, all processes, against LitServe",
        against("echo/litserve", "100 B x 64", "cpu_us"),
        0.25,
        0.12,
        at_most=True,
    ),
    _line("HTTP echo, 256 connections against our 64: requests/s", within("100 B x 256", "100 B x 64"), 0.9, 1),
    _line(
        "HTTP echo, 64 connections: requests/s of two gateway processes against one",
        against(f"gateways/{TWO_GATEWAYS}", "100 B x 64", "per_s", other_first=True),
        1,
        1.2,
    ),
    Line(
        says="pb.Gateway/Invoke, 64 in flight: requests/s, or against bare grpc.aio",
        limits=(
            Limit(value=ours("grpc", "unary x 64", "per_s"), must=2000, aim=None, unit="/s"),
            Limit(value=against("grpc/grpc.aio", "unary x 64", "per_s"), must=0.45, aim=0.7, unit="x"),
        ),
    ),
    _line(
        "pb.Gateway/Invokes, 64 in flight on one stream, against unary: messages/s",
        within("one stream x 64", "unary x 64"),
        2,
        4,
    ),
    _line(
        "64 HTTP streams of 1 000 chunks: chunks/s in all", ours("stream", "64 streams", "per_s"), 15_000, 50_000, "/s"
    ),
    _line(
        "one HTTP stream, idle: p50 of the first chunk",
        ours("stream", "one stream", "p50_ms"),
        5,
        2,
        "ms",
        at_most=True,
    ),
    _line(
        "16 MiB echo, 8 connections: MB/s against FastAPI + uvicorn",
        against("echo/fastapi", "16 MiB x 8", "mb_per_s"),
        0.4,
        0.8,
    ),
    _line(
        "16 MiB echo, 8 connections: peak RSS of the gateway",
        ours("echo", "16 MiB x 8", "gateway_peak_mib"),
        300,
        150,
        "MiB",
        at_most=True,
    ),
    _line(
        "10 ms handler, 500 requests/s: p50 of what DCF adds",
        ours("sleep", "500 a second", "p50_ms", SLEEP_MS),
        2,
        1,
        "ms",
        at_most=True,
    ),
    _line(
        "10 ms handler, 500 requests/s: p99 of what DCF adds",
        ours("sleep", "500 a second", "p99_ms", SLEEP_MS),
        10,
        4,
        "ms",
        at_most=True,
    ),
    _line(
        "batches of up to 64 against one by one, 64 connections: requests/s",
        against(f"batch/{UNBATCHED}", "100 B x 64", "per_s"),
        8,
        12,
    ),
)
"""On two cores. What DCF must reach, and what it aims at."""
