"""Measure the runtimes' workers beside each other: `python bench/runtimes.py`.

The echo that `dcf function init` writes in each language, behind a cluster of its
own; all run at the same time and take load in turns. What differs is the worker.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from calls.loads import Closed
from calls.measure import Run, measure, say
from loadgen import SIZE, LoadFailedError
from sides import Side, SideFailedError, open_dcf

RUNTIMES = ("python", "go", "node")
LOADS = (Closed(64), Closed(1))
ROUNDS, SECONDS = 7, 4
SHORT = (3, 2)
WARM_UP_S = 2


def measure_all(sides: list[Side], rounds: int, seconds: int) -> list[Run]:
    """All runs; each round begins with another side."""
    for side in sides:
        LOADS[0].put(side, WARM_UP_S)
    runs = []
    for number in range(rounds):
        for kind in LOADS:
            for step in range(len(sides)):
                side = sides[(number + step) % len(sides)]
                say(f"round {number + 1} of {rounds}: {side.name}, {kind.name}")
                runs.append(measure("runtimes", side, kind, number, seconds))
    for side in sides:
        side.check()
    say("")
    return runs


def table(runs: list[Run], names: tuple[str, ...]) -> str:
    """For people; ratios are medians of the rounds' own, to the first side."""
    lines = [
        f"{'connections':>11}  {'side':<8}{'requests/s':>11}{'x':>7}{'p50 ms':>9}{'worker us':>11}{'x':>7}{'all us':>9}"
    ]
    for kind in LOADS:
        of = {name: [run for run in runs if (run.side, run.load) == (name, kind.name)] for name in names}
        rates = {name: [run.per_s for run in of[name]] for name in names}
        workers = {name: [run.cpu_us_by_role["worker"] for run in of[name]] for name in names}
        for name in names:
            lines.append(
                f"{kind.connections:>11}  {name:<8}{statistics.median(rates[name]):>11.0f}"
                f"{_ratio(rates[name], rates[names[0]]):>7.2f}"
                f"{statistics.median(run.p50_ms for run in of[name]):>9.2f}"
                f"{statistics.median(workers[name]):>11.1f}{_ratio(workers[name], workers[names[0]]):>7.2f}"
                f"{statistics.median(run.cpu_us for run in of[name]):>9.0f}"
            )
    return "\n".join(lines)


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def main() -> int:
    """0 where all sides did their work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="three rounds of two seconds")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="the first is the measure")
    arguments = parser.parse_args()
    rounds, seconds = SHORT if arguments.short else (ROUNDS, SECONDS)
    names = tuple(arguments.runtimes)
    try:
        with tempfile.TemporaryDirectory(prefix="dcf-bench-") as folder, ExitStack() as stack:
            say("starting the sides")
            sides = [stack.enter_context(open_dcf(Path(folder) / name, runtime=name, name=name)) for name in names]
            runs = measure_all(sides, rounds, seconds)
    except (SideFailedError, LoadFailedError) as error:
        sys.stderr.write(f"runtimes: {error}\n")
        return 1
    print(f"HTTP echo of {SIZE} bytes as `init` writes it; medians of {rounds} rounds of {seconds} s, sides in turns")
    print(table(runs, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
