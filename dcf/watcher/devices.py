"""Which GPUs this replica may use, and whether they are really there.

In:   WatcherSettings (how many, which), Swarm's variable, the driver's list.
Out:  the reserved devices by their full ids, for CUDA_VISIBLE_DEVICES; or a
      ConfigError that says what was reserved, what is seen and what to do.
There is no switch that turns the check off: a replica that silently computes
on the CPU, or on another's GPU, is worse than one that does not start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dcf.domain.gpus import Gpu, match_gpu, parse_ids
from dcf.errors import ConfigError
from dcf.nvidia import GpuListing
from dcf.watcher.settings import CUDA_VARIABLE, WatcherSettings

log = logging.getLogger(__name__)

_SWARM = "DOCKER_RESOURCE_"
"""Swarm puts what a task was assigned into a variable: this and the resource's name in capitals."""
_RUNTIME = "NVIDIA's runtime is not set up on this node (default-runtime nvidia in daemon.json"
_SWARM_RESOURCE = "swarm-resource in /etc/nvidia-container-runtime/config.toml"
_OLD_TOOLKIT = "NVIDIA container toolkit 1.18.0 to 1.18.2 ignore swarm-resource: use another"


def reserve_gpus(
    settings: WatcherSettings, environ: Mapping[str, str], list_gpus: Callable[[], GpuListing]
) -> WatcherSettings:
    """`settings` with the full ids of the reserved GPUs in `gpus`, in the order in which they were reserved.

    Args:
        environ: where Swarm's variable may be.
        list_gpus: asks the driver; not called where no GPU is asked for.

    Raises:
        ConfigError: the reservation is not what the function asks for, or a reserved GPU is not seen.
    """
    source, reserved = _reservation(settings, environ)
    count = settings.gpu_count
    if not count and not reserved:
        return settings
    if CUDA_VARIABLE in settings.worker_environment():
        raise ConfigError(
            f"the function's environment sets {CUDA_VARIABLE}, and its limits ask for {_number(count)}: "
            "DCF sets the variable to the GPUs that were reserved; take it out of the environment"
        )
    if len(reserved) != count:
        named = f" ({source}={','.join(reserved)})" if reserved else ""
        raise ConfigError(
            f"the function asks for {_number(count)}, but {_number(len(reserved))} "
            f"{'was' if len(reserved) == 1 else 'were'} reserved for this replica{named}{_advice_for_count(source)}"
        )
    listing = list_gpus()
    if listing.problem:
        raise ConfigError(
            f"{','.join(reserved)} {_were(reserved)} reserved for this replica, but no GPU is seen here: "
            f"{listing.problem}; {_advice_for_none(source, listing)}"
        )
    found = [_find(gpu, reserved, listing.gpus, source) for gpu in reserved]
    if len({gpu.id for gpu in found}) != len(found):
        raise ConfigError(f"{source}={','.join(reserved)} names one GPU twice: {_seen(listing.gpus)}")
    if source != "DCF_GPUS" and len(listing.gpus) > len(found):
        # As a process a replica always sees all GPUs of its machine; in a container of Swarm's it should not.
        log.warning(
            "more GPUs are visible than were reserved; the worker is held to its own by CUDA_VISIBLE_DEVICES",
            extra={"reserved": len(found), "visible": len(listing.gpus), "hint": _OLD_TOOLKIT},
        )
    return replace(settings, gpus=",".join(gpu.id for gpu in found))


def _reservation(settings: WatcherSettings, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The variable that says what was reserved, and what that is."""
    if settings.gpus:
        return "DCF_GPUS", parse_ids("DCF_GPUS", settings.gpus)
    # The administrator names the resource: NVIDIA-GPU in Docker's manual, gpu in others.
    names = sorted(name for name, text in environ.items() if name.startswith(_SWARM) and "GPU" in name and text)
    if not names:
        return "DCF_GPUS", ()
    name = f"{_SWARM}NVIDIA-GPU" if f"{_SWARM}NVIDIA-GPU" in names else names[0]
    if environ[name].isdigit():
        raise ConfigError(
            f"{name}={environ[name]} is a number of GPUs and says not which: list each GPU of this node in "
            'daemon.json, "node-generic-resources": ["NVIDIA-GPU=GPU-<uuid>", ...] (nvidia-smi -L prints the ids)'
        )
    return name, parse_ids(name, environ[name])


def _find(wanted: str, reserved: Sequence[str], seen: Sequence[Gpu], source: str) -> Gpu:
    matches = match_gpu(wanted, seen)
    if len(matches) == 1:
        return matches[0]
    were = f"{','.join(reserved)} {_were(reserved)} reserved for this replica"
    if matches:
        raise ConfigError(f"{were}, but {wanted} fits more than one GPU: {_seen(seen)}; write the whole id")
    advice = (
        f"the names in daemon.json's node-generic-resources must be ids of this node's GPUs (nvidia-smi -L), and "
        f'{_SWARM_RESOURCE} must be "{source}"; {_OLD_TOOLKIT}'
        if source != "DCF_GPUS"
        else "DCF_GPUS on the scheduler, or node-generic-resources of the engine, must list what nvidia-smi -L prints"
    )
    raise ConfigError(f"{were}, but {wanted} is not seen here: {_seen(seen)}; {advice}")


def _advice_for_count(source: str) -> str:
    if source == "DCF_GPUS":
        return ": the backend sets DCF_GPUS (Swarm: DOCKER_RESOURCE_NVIDIA-GPU), and this was started without it"
    return f": {source} must be as long as the number in limits.gpu"


def _advice_for_none(source: str, listing: GpuListing) -> str:
    if not listing.no_driver:
        return "look at nvidia-smi on the machine itself, and at its kernel log"
    if source == "DCF_GPUS":
        return f"install NVIDIA's driver on this machine; in a container: {_RUNTIME}, or --gpus)"
    return f'{_RUNTIME}, and {_SWARM_RESOURCE} = "{source}")'


def _seen(gpus: Sequence[Gpu]) -> str:
    return "seen " + ("is " if len(gpus) == 1 else "are ") + ", ".join(f"{gpu.index}={gpu.id}" for gpu in gpus)


def _were(ids: Sequence[str]) -> str:
    return "was" if len(ids) == 1 else "were"


def _number(count: int) -> str:
    return f"{count or 'no'} GPU{'' if count == 1 else 's'}"
