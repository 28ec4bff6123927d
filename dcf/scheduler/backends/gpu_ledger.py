"""Choose the GPUs of a new replica, so that no two replicas share one.

In:   all GPUs of a machine, and which live replica holds which.
Out:  the ones that it gets; or a CapacityError that says who has them.
Pure: the caller knows who is alive, and writes down what was chosen before
it asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dcf.errors import CapacityError

MAX_NAMES = 8
"""Of holders in an error: more make no sentence that anybody reads."""
_WHAT_TO_DO = (
    "install NVIDIA's driver (nvidia-smi -L must list them), or name them in DCF_GPUS where the scheduler is started"
)


def choose_gpus(
    gpus: Sequence[str], held: Mapping[str, Iterable[str]], count: int, *, why_none: str = ""
) -> tuple[str, ...]:
    """The first `count` of `gpus` that nobody holds, in their order: the same answer for the same arguments.

    Args:
        gpus: ids of all GPUs of the machine.
        held: replica name to the ids that it has; ids that are not in `gpus` do not count.
        count: >= 0.
        why_none: one clause for the error where `gpus` is empty.

    Raises:
        CapacityError: there are too few, or too few are free.
    """
    if count <= 0:
        return ()
    if not gpus:
        raise CapacityError(f"no GPU was found on this machine{f': {why_none}' if why_none else ''}; {_WHAT_TO_DO}")
    if count > len(gpus):
        raise CapacityError(
            f"{count} GPUs are asked for, and this machine has {len(gpus)}: lower limits.gpu, or run it elsewhere"
        )
    holders = {name: taken for name, ids in sorted(held.items()) if (taken := set(ids) & set(gpus))}
    taken = set().union(*holders.values())
    free = tuple(gpu for gpu in gpus if gpu not in taken)
    if len(free) >= count:
        return free[:count]
    names = ", ".join(list(holders)[:MAX_NAMES])
    more = f" and {len(holders) - MAX_NAMES} more" if len(holders) > MAX_NAMES else ""
    by = f"{len(taken)} of {len(gpus)} {_is_or_are(len(taken))} held by {names}{more}"
    if not free:
        raise CapacityError(f"no GPU free: {by}")
    raise CapacityError(f"not enough GPUs free: {count} are asked for, {len(free)} {_is_or_are(len(free))} free; {by}")


def _is_or_are(count: int) -> str:
    return "is" if count == 1 else "are"
