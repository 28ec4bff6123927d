"""Say what the figures depend on: the machine, the versions, what else ran.

In:   the runs. Out: Machine, for people and as data.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from calls.measure import Run

BUSY = 0.05
"""Others with more of the machine shift the result: a side of three processes then gets more of it than one of one."""
PACKAGES = ("dcf", "aiohttp", "httptools", "uvloop", "grpcio", "protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and with what it was measured."""

    cores: int
    cpu: str
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]
    """Of DCF and what it runs on."""
    load_average: tuple[float, float]
    """Before and after."""
    others: float
    """Share of its CPU that was not ours in the median run, 0 to 1."""
    others_at_worst: float

    @property
    def is_busy(self) -> bool:
        return self.others > BUSY

    def lines(self) -> list[str]:
        """For people."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        before, after = self.load_average
        lines = [
            f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB, {self.system}, {self.python}",
            f"DCF: {versions}",
            f"Load average {before:.2f} before and {after:.2f} after; processes that are no part of a run used "
            f"{self.others:.0%} of the machine's CPU in the median run, {self.others_at_worst:.0%} in the worst.",
        ]
        if self.is_busy:
            lines.append(
                "BUSY: others shift requests/s and latency, in favour of the side with more processes. "
                "Go by the CPU, or repeat it on an idle machine."
            )
        return lines


def describe(runs: Sequence[Run], load_before: float) -> Machine:
    """Of this machine, now."""
    others = [run.others for run in runs]
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={name: metadata.version(name) for name in PACKAGES},
        load_average=(round(load_before, 2), round(os.getloadavg()[0], 2)),
        others=statistics.median(others),
        others_at_worst=max(others),
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
