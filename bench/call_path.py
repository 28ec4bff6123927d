"""Measure DCF's HTTP echo beside FastAPI + uvicorn: `python bench/call_path.py`.

Both sides run at the same time and take load in turns; the figures are
medians over the rounds. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from cpu import cpu_s, machine_cpu_s, own_cpu_s
from loadgen import BODY, INSTALL_WRK, Load, LoadFailedError, LoadGenerator, choose
from sides import Side, SideFailedError, check_echo, open_dcf, open_fastapi

CONNECTIONS = (1, 64)
FULL = (5, 4)
"""Rounds, and seconds of each run: with two sides and two numbers of connections 80 s of load."""
SHORT = (3, 1)
WARM_UP_S = 1
BUSY = 0.05
"""Others with more of the machine shift the result: a side of three processes then gets more of it than one of one."""
PACKAGES = ("dcf", "aiohttp", "grpcio", "fastapi", "starlette", "uvicorn", "uvloop", "httptools")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run, or the medians of several."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU of all processes of the side for one request."""


_NAMES = [field.name for field in dataclasses.fields(Figures)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One side under load once."""

    side: str
    connections: int
    figures: Figures
    cpu_us_by_role: dict[str, float]
    others: float
    """Share of the machine's CPU that was used by neither the side nor the load generator, 0 to 1."""


def measure(generator: LoadGenerator, side: Side, connections: int, seconds: int) -> Run:
    """Raises SideFailedError at the first answer that is not 2xx, at a socket error, or at no answer."""
    began, machine_before, own_before = time.monotonic(), machine_cpu_s(), own_cpu_s()
    before = cpu_s(side.pid)
    try:
        load: Load = generator.run(side.url, connections, seconds)
    except LoadFailedError as error:
        raise SideFailedError(f"{side.name} at {connections} connections: {error}") from error
    after = cpu_s(side.pid)
    ours_s = sum(after.values()) - sum(before.values()) + own_cpu_s() - own_before
    others_s = machine_cpu_s() - machine_before - ours_s
    if not load.requests or load.bad_answers or load.socket_errors:
        raise SideFailedError(
            f"{side.name} at {connections} connections: {load.requests} answers, "
            f"{load.bad_answers} of them not 2xx, {load.socket_errors} socket errors"
        )
    by_role = {role: (used - before.get(role, 0.0)) / load.requests * 1e6 for role, used in after.items()}
    figures = Figures(
        requests_per_s=load.requests / load.duration_us * 1e6,
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        cpu_us=sum(by_role.values()),
    )
    return Run(
        side=side.name,
        connections=connections,
        figures=figures,
        cpu_us_by_role=by_role,
        others=max(others_s, 0.0) / (time.monotonic() - began) / (os.cpu_count() or 1),
    )


def measure_all(generator: LoadGenerator, sides: list[Side], rounds: int, seconds: int) -> list[Run]:
    """All runs, in the order in which they were made; every other round begins with the other side."""
    for side in sides:
        generator.run(side.url, max(CONNECTIONS), WARM_UP_S)
    runs = []
    for number in range(rounds):
        for connections in CONNECTIONS:
            for side in sides if number % 2 == 0 else sides[::-1]:
                say(f"round {number + 1} of {rounds}: {side.name}, {connections} connections")
                runs.append(measure(generator, side, connections, seconds))
    for side in sides:
        check_echo(side)
    return runs


def medians(runs: list[Run], side: str, connections: int) -> Figures:
    """Field by field."""
    return _median(_of(runs, side, connections))


def ratios(runs: list[Run], connections: int) -> Figures:
    """DCF over FastAPI, field by field: the median of the rounds' ratios, whose two runs are neighbours in time."""
    pairs = zip(_of(runs, "dcf", connections), _of(runs, "fastapi", connections), strict=True)
    return _median([Figures(**{name: getattr(a, name) / getattr(b, name) for name in _NAMES}) for a, b in pairs])


def _of(runs: list[Run], side: str, connections: int) -> list[Figures]:
    return [run.figures for run in runs if run.side == side and run.connections == connections]


def _median(figures: list[Figures]) -> Figures:
    return Figures(**{name: statistics.median(getattr(one, name) for one in figures) for name in _NAMES})


def roles(runs: list[Run], connections: int) -> dict[str, float]:
    """Median CPU of DCF for one request in each of its processes, greatest first, those under 0.5 us together."""
    chosen = [run.cpu_us_by_role for run in runs if run.side == "dcf" and run.connections == connections]
    found = {role: statistics.median(one.get(role, 0.0) for one in chosen) for role in chosen[0]}
    shown = {role: used for role, used in sorted(found.items(), key=lambda item: -item[1]) if used >= 0.5}
    return shown | {"others": max(sum(found.values()) - sum(shown.values()), 0.0)}


def table(runs: list[Run]) -> str:
    """For people."""
    lines = [
        f"{'connections':>11}  {'side':<12}{'requests/s':>11}{'min - max':>18}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'CPU us/request':>16}"
    ]
    for connections in CONNECTIONS:
        for side in ("dcf", "fastapi"):
            one = medians(runs, side, connections)
            rates = [figures.requests_per_s for figures in _of(runs, side, connections)]
            spread = f"{min(rates):.0f} - {max(rates):.0f}"
            lines.append(
                f"{connections:>11}  {side:<12}{one.requests_per_s:>11.0f}{spread:>18}"
                f"{one.p50_ms:>9.2f}{one.p99_ms:>9.2f}{one.cpu_us:>16.0f}"
            )
        one = ratios(runs, connections)
        lines.append(
            f"{connections:>11}  {'dcf/fastapi':<12}{one.requests_per_s:>11.2f}{'':>18}"
            f"{one.p50_ms:>9.2f}{one.p99_ms:>9.2f}{one.cpu_us:>16.2f}"
        )
    for connections in CONNECTIONS:
        parts = ", ".join(f"{role} {used:.0f}" for role, used in roles(runs, connections).items())
        lines.append(f"CPU us/request of dcf at {connections}: {parts}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": found,
    }


def say(line: str) -> None:
    """Progress, apart from the result."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}\r")
        sys.stderr.flush()


def bench(rounds: int, seconds: int, json_file: Path | None) -> None:
    """Start, measure, stop, print. Raises SideFailedError, LoadFailedError."""
    facts = machine()
    versions = facts["packages"]
    if missing := [name for name in ("dcf", "fastapi", "uvicorn") if not versions[name]]:
        raise SideFailedError(f"{', '.join(missing)} not installed: pip install . -r bench/requirements.txt")
    generator = choose()
    began, load_before = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="dcf-bench-") as name:
        folder = Path(name)
        say("starting both sides")
        with open_fastapi(folder) as fastapi, open_dcf(folder) as dcf:
            runs = measure_all(generator, [dcf, fastapi], rounds, seconds)
            say("stopping")
    say("")
    facts["load_average"] = [round(load_before, 2), round(os.getloadavg()[0], 2)]
    print(f"HTTP echo of {len(BODY)} bytes; medians of {rounds} rounds of {seconds} s, sides in turns")
    print(f"machine    {facts['cores']} cores, {facts['system']}, {facts['python']}")
    print("versions   " + ", ".join(f"{name} {version or '(none)'}" for name, version in versions.items()))
    print(f"load       {generator.name}, one thread, keep-alive, to 127.0.0.1 alone")
    others = [run.others for run in runs]
    print(
        f"           load average {load_before:.2f} before, {facts['load_average'][1]:.2f} after; "
        f"others used {statistics.median(others):.0%} of the machine's CPU, {max(others):.0%} in the worst run"
    )
    if statistics.median(others) > BUSY:
        print(
            "           BUSY: others shift requests/s and latency, in favour of the side with more processes; "
            "go by the CPU, or repeat"
        )
    if not generator.is_wrk:
        print(f"           to install wrk: {INSTALL_WRK}")
    if not versions["httptools"] or not versions["uvloop"]:
        print("           UNFAIR: uvicorn runs without uvloop or httptools; install bench/requirements.txt")
    print(table(runs))
    print(f"took {time.monotonic() - began:.0f} s")
    if json_file:
        result = {
            **facts,
            "load_generator": generator.name,
            "rounds": rounds,
            "seconds": seconds,
            "medians": {
                f"{side}-{n}": dataclasses.asdict(medians(runs, side, n))
                for side in ("dcf", "fastapi")
                for n in CONNECTIONS
            },
            "ratios": {str(n): dataclasses.asdict(ratios(runs, n)) for n in CONNECTIONS},
            "runs": [dataclasses.asdict(run) for run in runs],
        }
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def _on_signal(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # so that the sides are stopped


def main() -> int:
    """0 where both sides did their work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="about 25 s instead of 95, enough for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs and medians there as well")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    rounds, seconds = SHORT if arguments.short else FULL
    try:
        bench(rounds, seconds, arguments.json)
    except (SideFailedError, LoadFailedError) as error:
        sys.stderr.write(f"call_path: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
