"""Examine GPUs: what the driver lists, what the engine can hand out, what it says it has.

Without a driver, and with nothing that speaks of GPUs, there is one line. What
is wrong with GPUs is a warning: functions that ask for none run all the same.
The engine of another machine is judged by what it says alone; run doctor there.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcf.cluster.doctor import Check, ok, warning
from dcf.cluster.doctor_host import run_line
from dcf.cluster.engine import EngineFacts
from dcf.domain.gpus import match_gpu
from dcf.nvidia import GpuListing, list_gpus

KIND = "NVIDIA-GPU"
"""What DCF's services reserve, and tasks get as DOCKER_RESOURCE_NVIDIA-GPU."""
CONFIG = Path("/etc/nvidia-container-runtime/config.toml")
HOOK = "nvidia-container-runtime-hook"
BAD_TOOLKITS = ((1, 18, 0), (1, 18, 1), (1, 18, 2))
"""They ignore `swarm-resource`; 1.19.0 does not (NVIDIA/nvidia-container-toolkit, issue 1599)."""
CONFIGURE = "nvidia-ctk runtime configure --runtime=docker --set-as-default && systemctl restart docker"
_VERSION = re.compile(r"\b(\d+)\.(\d+)\.(\d+)")
Named = Mapping[str, Sequence[str]]


def check_machine() -> list[Check]:
    """For the process backend: what the driver lists."""
    return [check_driver(list_gpus())]


def check_engine(engine: EngineFacts, environ: Mapping[str, str], *, backend: str | None) -> list[Check]:
    """For containers: driver, runtime, and on a Swarm what the node says it has."""
    listing = list_gpus() if engine.is_here else GpuListing(problem="the engine is on another machine", no_driver=True)
    advertised = advertised_gpus(engine.info)
    if listing.no_driver and not advertised and "nvidia" not in (engine.info.get("Runtimes") or {}):
        return [ok("gpu", "none on this machine")]
    if engine.is_here and listing.no_driver:
        ids = ", ".join(one for values in advertised.values() for one in values)
        mend = "install the driver; without one take them out of node-generic-resources in /etc/docker/daemon.json"
        return [warning("gpu", f"the engine lists {ids or 'a runtime nvidia'}, and there is no driver", mend)]
    checks = [check_driver(listing)] if engine.is_here else []
    checks.append(check_runtime(engine.info, hook=bool(shutil.which(HOOK, path=environ.get("PATH")))))
    checks += check_advertised(advertised, listing)
    if backend != "docker":
        toolkit = run_line(["nvidia-ctk", "--version"], environ) or run_line(
            ["nvidia-container-cli", "--version"], environ
        )
        checks += check_toolkit(toolkit)
        checks += check_swarm_names(engine.info, advertised, read_config())
    return checks


def check_driver(listing: GpuListing) -> Check:
    """What functions with `limits.gpu` may be given."""
    if listing.no_driver:
        return ok("gpu", f"none on this machine: {listing.problem}")
    if listing.problem:
        return warning("gpu", listing.problem, "load or install the driver; nvidia-smi -L must list the GPUs")
    names = ", ".join(f"{gpu.id} ({gpu.name})" for gpu in listing.gpus)
    return ok("gpu", names)


def check_runtime(info: Mapping[str, Any], *, hook: bool) -> Check:
    """Whether the engine can put a GPU into a container."""
    runtimes = info.get("Runtimes") or {}
    default = str(info.get("DefaultRuntime") or "")
    if "nvidia" in runtimes:
        return ok("gpu runtime", f"nvidia is there; the default is {default}")
    if hook:
        return ok("gpu runtime", f"{HOOK} is on PATH; the default runtime is {default}")
    mend = f"install nvidia-container-toolkit, then: {CONFIGURE}"
    return warning("gpu runtime", "the engine knows no runtime nvidia", mend)


def check_toolkit(said: str | None) -> list[Check]:
    """Traps of NVIDIA's releases, as they matter on a Swarm."""
    if said is None:
        return []
    match = _VERSION.search(said)
    version = tuple(int(part) for part in match.groups()) if match else ()
    if version in BAD_TOOLKITS:
        mend = "upgrade nvidia-container-toolkit to 1.19.0 or later, or go back to 1.17; then restart docker"
        text = f"{said}: it ignores swarm-resource, and every replica would see every GPU"
        return [warning("gpu toolkit", text, mend, backend="swarm")]
    return [ok("gpu toolkit", said, backend="swarm")]


def check_advertised(advertised: Named, listing: GpuListing) -> list[Check]:
    """Whether the node's list and the driver's are the same."""
    if not advertised or listing.problem:
        return []
    name = "gpus the engine lists"
    ids = [one for values in advertised.values() for one in values]
    found = {one: match_gpu(one, listing.gpus) for one in ids}
    unknown = [one for one, matches in found.items() if len(matches) != 1]
    known = {matches[0].id for matches in found.values() if len(matches) == 1}
    unlisted = [gpu.id for gpu in listing.gpus if gpu.id not in known and not gpu.is_split]
    mend = f'in /etc/docker/daemon.json "node-generic-resources" names what nvidia-smi -L lists: {lines_for(listing)}'
    if unknown:
        return [warning(name, f"the driver does not know {', '.join(unknown)}", mend)]
    if unlisted:
        return [warning(name, f"{', '.join(unlisted)} is not given out", mend)]
    return [ok(name, ", ".join(ids))]


def check_swarm_names(info: Mapping[str, Any], advertised: Named, config: str | None) -> list[Check]:
    """The three places of a Swarm node that must agree on one name."""
    checks = []
    default = str(info.get("DefaultRuntime") or "")
    name = "gpu on Swarm"
    if not advertised:
        mend = f'"node-generic-resources": ["{KIND}=<uuid>", ...] in /etc/docker/daemon.json, then restart docker'
        return [warning(name, "this node gives out no GPUs (node-generic-resources)", mend, backend="swarm")]
    if KIND not in advertised:
        text = f"this node calls its GPUs {', '.join(advertised)}, and functions ask for {KIND}"
        mend = f"call them {KIND} in node-generic-resources and in swarm-resource (DOCKER_RESOURCE_{KIND})"
        checks.append(warning(name, text, mend, backend="swarm"))
    if default != "nvidia":
        text = f"the default runtime is {default}: a service's task would not see its GPU"
        checks.append(warning(name, text, CONFIGURE, backend="swarm"))
    wanted = f"DOCKER_RESOURCE_{KIND}"
    if config != wanted:
        said = f"swarm-resource is {config!r}" if config else f"swarm-resource is not set in {CONFIG}"
        text = f"{said}: every replica would see every GPU"
        mend = f'swarm-resource = "{wanted}" in {CONFIG} (as its first lines have it, without the #)'
        checks.append(warning(name, text, mend, backend="swarm"))
    return checks or [ok(name, f"{KIND}: {', '.join(advertised[KIND])}", backend="swarm")]


def advertised_gpus(info: Mapping[str, Any]) -> Named:
    """By kind, what `node-generic-resources` of the daemon names; only kinds that speak of GPUs."""
    found: dict[str, list[str]] = {}
    for one in info.get("GenericResources") or []:
        named = one.get("NamedResourceSpec") or {}
        if "gpu" in str(named.get("Kind", "")).lower():
            found.setdefault(str(named["Kind"]), []).append(str(named.get("Value", "")))
    return found


def read_config(path: Path = CONFIG) -> str | None:
    """`swarm-resource` of NVIDIA's runtime; None where it is not set, or nobody can say."""
    try:
        value = tomllib.loads(path.read_text()).get("swarm-resource")
    except (OSError, ValueError):
        return None
    return str(value) if value else None


def lines_for(listing: GpuListing) -> str:
    """What the list should be."""
    return ", ".join(f'"{KIND}={gpu.id}"' for gpu in listing.gpus if not gpu.is_split)
