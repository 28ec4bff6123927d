"""Examine a Docker engine: does it answer, is it new enough, does it enforce limits, are its containers reached."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from dcf.cluster.doctor import Check, missing, ok, warning
from dcf.cluster.engine import EngineFacts

OLDEST_API = (1, 40)
"""Docker 19.03: the first that gives containers GPUs by request."""

FREE_BYTES = 5 * 1024**3
"""An image with CUDA in it takes about that, its build twice as much."""

_LIMITS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "CpuCfsQuota": "cpu",
    "PidsLimit": "processes",
}


def check_engine(engine: EngineFacts, environ: Mapping[str, str], *, backend: str | None) -> list[Check]:
    """All that one engine is asked, where it answers."""
    if not engine.answers:
        return [missing("engine", engine.problem, engine.mend, backend="docker")]
    checks = [check_answer(engine), check_limits(engine), check_words(engine), check_room(engine)]
    if backend in {"docker", None}:
        checks.append(check_reach(engine))
    return [check for check in checks if check]


def check_answer(engine: EngineFacts) -> Check:
    """Its version, and that of its API."""
    version, api = str(engine.version.get("Version", "?")), str(engine.version.get("ApiVersion", "0.0"))
    text = f"{version}, API {api}, at {engine.url}"
    numbers = tuple(int(part) for part in api.split(".") if part.isdigit())
    if numbers < OLDEST_API:
        return missing("engine", text, "install Docker Engine 19.03 or later (API 1.40)", backend="docker")
    return ok("engine", text, backend="docker")


def check_limits(engine: EngineFacts) -> Check:
    """Whether `limits` of a function mean anything."""
    info = engine.info
    lacking = [name for key, name in _LIMITS.items() if info.get(key) is False]
    text = f"cgroup {info.get('CgroupVersion') or '1'} ({info.get('CgroupDriver', '?')})"
    if "memory" in lacking or "cpu" in lacking or "processes" in lacking:
        mend = "boot the kernel with cgroup_enable=memory (or cgroup v2 with all controllers delegated to Docker)"
        return warning("limits", f"{text}: no limits of {', '.join(lacking)}", mend, backend="docker")
    if lacking:
        mend = "boot the kernel with swapaccount=1, or a function over its memory swaps before it is ended"
        return warning("limits", f"{text}: swap is not limited", mend, backend="docker")
    return ok("limits", f"{text}: memory, cpu and processes are limited", backend="docker")


def check_words(engine: EngineFacts) -> Check | None:
    """What the engine itself warns of, but for what `check_limits` has said."""
    words = [str(one).removeprefix("WARNING: ") for one in engine.info.get("Warnings") or []]
    words = [word for word in words if "limit support" not in word and "blkio" not in word and "cgroup v1" not in word]
    if not words:
        return None
    mend = "see the notes of `docker info`; bridge-nf-call-iptables wants: modprobe br_netfilter"
    return warning("engine's own warnings", "; ".join(words)[:300], mend, backend="docker")


def check_room(engine: EngineFacts) -> Check | None:
    """Disk for images; only of an engine on this machine."""
    root = str(engine.info.get("DockerRootDir") or "")
    if not engine.is_here or not root:
        return None
    try:
        free = shutil.disk_usage(root).free
    except OSError:  # it is root's alone, or a virtual machine's
        return None
    text = f"{free / 1024**3:.1f} GiB free at {root}"
    if free < FREE_BYTES:
        mend = "make room: docker image prune, docker builder prune, or another data-root"
        return warning("room for images", text, mend, backend="docker")
    return ok("room for images", text, backend="docker")


def check_reach(engine: EngineFacts) -> Check:
    """Whether processes of this machine reach containers by their addresses, as `dcf up --backend docker` does."""
    mend = "use compose/local.yaml, whose gateway is a container beside the functions"
    if not engine.is_here:
        return missing("addresses", f"the engine at {engine.url} is on another machine", mend, backend="docker")
    system = str(engine.info.get("OperatingSystem", ""))
    if "Docker Desktop" in system:
        return missing("addresses", f"{system} keeps containers in a virtual machine", mend, backend="docker")
    if any("rootless" in str(option) for option in engine.info.get("SecurityOptions") or []):
        return missing("addresses", "a rootless engine keeps containers in its own network", mend, backend="docker")
    return ok("addresses", "containers are reached by their addresses", backend="docker")
