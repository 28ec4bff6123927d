"""Put the loads of a block on its two sides in turns.

In:   a Block, the sides, rounds. Out: Runs, in the order in which they were made; what failed at a peer.
Raises SideFailedError where DCF fails.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cpu import cpu_s, forget_peak, machine_cpu_s, memory_mib, own_cpu_s, peak_mib
from loadgen import LoadFailedError
from sides import Side, SideFailedError

from calls.loads import MIB, Kind
from calls.plan import Block

WARM_UP_S = 1
CALM = 0.2
"""Share of a core; a side that uses less has finished with the load before."""
CALM_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One side under load once."""

    block: str
    side: str
    load: str
    round: int
    per_s: float
    """Answers, or chunks, in a second."""
    mb_per_s: float
    """Bodies one way, in 10^6 bytes; the same comes back."""
    p50_ms: float
    """Of an answer, of a stream the first chunk."""
    p99_ms: float
    cpu_us: float
    """CPU of all processes of the side for one answer."""
    memory_mib: float
    """PSS of all processes of the side after the load."""
    gateway_peak_mib: float
    """The most RSS of DCF's gateway under this load; 0 of others."""
    cpu_us_by_role: dict[str, float]
    others: float
    """Share of the machine's CPU that was used by neither the side nor the load generator, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A peer that could not take a load."""

    block: str
    load: str
    reason: str


def measure(block: str, side: Side, kind: Kind, number: int, seconds: int) -> Run:
    """Raises SideFailedError at the first answer that is wrong, at a socket error, or at no answer."""
    forget_peak(side.pid, "gateway")
    began, machine_before, own_before = time.monotonic(), machine_cpu_s(), own_cpu_s()
    before = cpu_s(side.pid)
    try:
        load = kind.put(side, seconds)
    except LoadFailedError as error:
        raise SideFailedError(f"{side.name}, {kind.name}: {error}") from error
    after = cpu_s(side.pid)
    used_s = sum(after.values()) - sum(before.values())
    others_s = machine_cpu_s() - machine_before - used_s - (own_cpu_s() - own_before)
    passed_s = time.monotonic() - began
    if not load.requests or load.bad_answers or load.socket_errors:
        raise SideFailedError(
            f"{side.name}, {kind.name}: {load.requests} answers, "
            f"{load.bad_answers} of them wrong, {load.socket_errors} socket errors"
        )
    per_s = load.requests / load.duration_us * 1e6
    by_role = {role: (used - before.get(role, 0.0)) / load.requests * 1e6 for role, used in after.items()}
    return Run(
        block=block,
        side=side.name,
        load=kind.name,
        round=number,
        per_s=per_s,
        mb_per_s=per_s * kind.size / 1e6,
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        cpu_us=used_s / load.requests * 1e6,
        memory_mib=memory_mib(side.pid),
        gateway_peak_mib=peak_mib(side.pid, "gateway"),
        cpu_us_by_role=by_role,
        others=max(others_s, 0.0) / passed_s / (os.cpu_count() or 1),
    )


def measure_block(block: Block, sides: list[Side], rounds: int, seconds: int) -> tuple[list[Run], list[Failure]]:
    """DCF is the first of `sides`; every other round begins with the other one. A load that a peer failed is over."""
    runs: list[Run] = []
    failed: dict[str, Failure] = {}

    @contextmanager
    def attempt(side: Side, name: str) -> Iterator[None]:
        try:
            yield
        except (SideFailedError, LoadFailedError, OSError) as error:
            if side is sides[0]:
                raise SideFailedError(f"{block.name}: {error}") from error
            failed[name] = Failure(block=block.name, load=name, reason=str(error))

    for side in sides:
        with attempt(side, "warm-up"):
            block.warm_up.put(side, WARM_UP_S)
    for number in range(rounds):
        for kind in block.loads:
            for side in sides if number % 2 == 0 else sides[::-1]:
                if side is not sides[0] and kind.name in failed:
                    continue
                say(f"{block.name}, round {number + 1} of {rounds}: {side.name}, {kind.name}")
                with attempt(side, kind.name):
                    runs.append(measure(block.name, side, kind, number, seconds))
                if kind.size >= MIB:
                    settle(side)
    for side in sides:
        with attempt(side, "check afterwards"):
            side.check()
    return runs, list(failed.values())


def settle(side: Side) -> None:
    """Wait until it has finished with the bodies that were under way at the end of a load."""
    end, used = time.monotonic() + CALM_S, sum(cpu_s(side.pid).values())
    while time.monotonic() < end:
        time.sleep(0.2)
        before, used = used, sum(cpu_s(side.pid).values())
        if used - before < 0.2 * CALM:
            return


def say(line: str) -> None:
    """Progress, apart from the result."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}\r")
        sys.stderr.flush()
