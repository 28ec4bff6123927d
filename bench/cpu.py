"""Say how much CPU time and memory a process and all its descendants use.

In:   the pid of the first process. Out: seconds by role, from /proc/<pid>/stat; the whole machine's beside it; MiB.
A difference of two readings is right also where a process ended between them:
its time is then in the children's time of its parent.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(root: int) -> dict[str, float]:
    """CPU seconds of `root` and everything below it, by role; empty where `root` is gone."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in parentheses may hold anything; what follows its last ")" is fields 3, 4, ...
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))  # utime, stime (of all threads), cutime, cstime
    used: dict[str, float] = defaultdict(float)
    for pid, number in ticks.items():
        if _is_below(pid, root, parents):
            used[_role(pid)] += number * TICK_S
    return used


def descendants(root: int) -> dict[int, int]:
    """`root` and everything below it, and when each started: a pid that starts at another time is somebody else."""
    children = [int(pid) for file in Path(f"/proc/{root}/task").glob("*/children") for pid in file.read_text().split()]
    found = {root: alive(root)}
    for child in children:
        found |= descendants(child)
    return found


def alive(pid: int) -> int:
    """When it started, in ticks since the machine did; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def memory_mib(root: int) -> float:
    """PSS of `root` and everything below it: what several share counts once in all."""
    total = 0
    for pid in descendants(root):
        with suppress(OSError):  # it has just ended
            total += _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    return total / 1024


def forget_peak(root: int, wanted: str) -> None:
    """The peak begins anew for all processes of a role below `root`."""
    for pid in _of_role(root, wanted):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(root: int, wanted: str) -> float:
    """The most RSS since then of any process of a role."""
    return max((_kib(Path(f"/proc/{pid}/status"), "VmHWM") for pid in _of_role(root, wanted)), default=0) / 1024


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used, and what its host took away from it."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * TICK_S


def own_cpu_s() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    return sum(os.times()[:4])


def _kib(file: Path, key: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def _of_role(root: int, wanted: str) -> list[int]:
    return [pid for pid in descendants(root) if _role(pid) == wanted]


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True


def _role(pid: int) -> str:
    """`gateway` of `python -m dcf.gateway`, `worker` of every runtime's, `redis-server`, ..."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    for before, word in pairwise(words):
        if before == "-m":
            return word.removeprefix("dcf.")
        if word.endswith((".py", ".mjs")):
            return Path(word).stem
    name = Path(words[0].split(" ")[0]).name
    if "::" in name:
        name = name.partition(".")[0]  # Ray's processes call themselves after what they do right now
    return "worker" if name == "function" else name  # what a function in Go is compiled to
