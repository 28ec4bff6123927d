"""Which GPUs a machine has, from whoever is asked first and knows it.

In:   the setting DCF_GPUS; what the engine advertises; the driver here.
Out:  their ids, in an order that stays, or why there are none.
The order: what a person said, what the engine's administrator said (the same
ids that Swarm gives out), what the driver lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcf.domain.gpus import NONE, Gpu, match_gpu, parse_setting, usable_ids
from dcf.nvidia import GpuListing, list_gpus

LOOK_AGAIN_S = 30.0
"""A driver that hangs costs its time limit at each look, and other starts wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInventory:
    """What can be given to replicas."""

    ids: tuple[str, ...] = ()
    problem: str = ""
    """Why there are none, as one clause; "" where there are some."""
    is_final: bool = True
    """Another look would find the same; false where the driver did not answer."""


def find_gpus(setting: str, advertised: Sequence[str] = ()) -> tuple[str, ...]:
    """The ids of an engine's GPUs. Blocks while the driver is asked, which is last.

    Args:
        setting: DCF_GPUS: ids with commas, "none", or "" where nobody said anything.
        advertised: ids in the engine's node-generic-resources.

    Raises:
        ConfigError: the setting is no list of ids.
    """
    if setting.strip():
        return parse_setting(setting)
    return tuple(advertised) or usable_ids(list_gpus().gpus)


def take_inventory(setting: str, *, visible: str | None, ask: Callable[[], GpuListing] = list_gpus) -> GpuInventory:
    """The GPUs of the very machine that this runs on, by their full ids. Blocks while the driver is asked.

    Args:
        setting: as in `find_gpus`.
        visible: CUDA_VISIBLE_DEVICES of the scheduler: who was given a part of a machine gives out no more than that.

    Raises:
        ConfigError: the setting is no list of ids.
    """
    if setting.strip() == NONE:
        return GpuInventory(problem=f"DCF_GPUS={NONE} says so")
    said = parse_setting(setting)
    listing = ask()
    if said:
        # Full ids where the driver knows them: a GPU by its index and by its id must never be two.
        return GpuInventory(ids=_spelled_out(said, listing.gpus), is_final=not listing.problem)
    if listing.problem:
        return GpuInventory(problem=listing.problem, is_final=False)
    ids = usable_ids(listing.gpus, visible)
    if not ids:
        return GpuInventory(problem=f"CUDA_VISIBLE_DEVICES={visible!r} of the scheduler hides all of them")
    return GpuInventory(ids=ids)


def _spelled_out(ids: Sequence[str], gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Each id in full, once; one that the driver does not list stays as it is, and its replica will say so."""
    whole = [matches[0].id if len(matches := match_gpu(one, gpus)) == 1 else one for one in ids]
    return tuple(dict.fromkeys(whole))


class MachineGpus:
    """The GPUs of this machine, looked for when they are first wanted. Used by one thread at a time."""

    def __init__(self, setting: str, *, visible: str | None, ask: Callable[[], GpuListing] = list_gpus) -> None:
        self._setting = setting
        self._visible = visible
        self._ask = ask
        self._known: GpuInventory | None = None
        self._looked_at = 0.0

    def inventory(self, *, now: float, again: bool = True) -> GpuInventory:
        """What was found; blocks while the driver is asked.

        Args:
            now: seconds of a clock that never goes back.
            again: whether a look that was not final is repeated, once it is LOOK_AGAIN_S old.
        """
        old = self._known
        if old is None or (again and not old.is_final and now - self._looked_at >= LOOK_AGAIN_S):
            self._known = take_inventory(self._setting, visible=self._visible, ask=self._ask)
            self._looked_at = now
        assert self._known is not None
        return self._known
