"""What a GPU is called, and what the driver's own list says of them.

`parse_listing` reads `nvidia-smi -L`; ids are what that prints (`GPU-...`,
`MIG-...`), an index, or the beginning of an id that fits one device alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dcf.errors import ConfigError

_WHOLE = re.compile(r"GPU (?P<index>\d+): (?P<name>.*) \(UUID: (?P<id>GPU-[^\s)]+)\)\s*")
_PART = re.compile(r"\s*MIG (?P<name>\S+)\s+Device\s+(?P<index>\d+): \(UUID: (?P<id>MIG-[^\s)]+)\)\s*")
_ID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+|\d+(:\d+)?")
NONE = "none"
"""What DCF_GPUS says where no GPU shall be given out."""
ID_FORM = "ids as `nvidia-smi -L` prints them (GPU-..., MIG-...) or indices, with commas between them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device as the driver lists it: a whole GPU, or a part of one (MIG)."""

    id: str
    index: str
    """`0` of a whole GPU, `0:1` of the second part of it."""
    name: str
    is_split: bool = False
    """It is in parts, and they are what programs use."""


def parse_listing(text: str) -> tuple[Gpu, ...]:
    """The devices in the output of `nvidia-smi -L`, in its order; other lines are passed over."""
    gpus: list[Gpu] = []
    whole: int | None = None
    for line in text.splitlines():
        if match := _WHOLE.fullmatch(line):
            whole = len(gpus)
            gpus.append(Gpu(id=match["id"], index=match["index"], name=match["name"]))
        elif (match := _PART.fullmatch(line)) and whole is not None:
            parent = gpus[whole]
            gpus[whole] = Gpu(id=parent.id, index=parent.index, name=parent.name, is_split=True)
            index = f"{parent.index}:{match['index']}"
            gpus.append(Gpu(id=match["id"], index=index, name=f"{parent.name} MIG {match['name']}"))
    return tuple(gpus)


def parse_ids(name: str, text: str) -> tuple[str, ...]:
    """The ids in a list with commas, in its order; none in an empty text.

    Args:
        name: of the setting that holds the text, for the error.

    Raises:
        ConfigError: something in it is no id, or is there twice.
    """
    ids = tuple(part.strip() for part in text.split(",") if part.strip())
    for gpu in ids:
        if not _ID.fullmatch(gpu):
            raise ConfigError(f"{name}={text!r} is not allowed: {gpu!r} is no GPU; expected {ID_FORM}")
        if ids.count(gpu) > 1:
            raise ConfigError(f"{name}={text!r} is not allowed: {gpu} is there twice")
    return ids


def parse_setting(text: str) -> tuple[str, ...]:
    """The ids in DCF_GPUS as a person sets it: as `parse_ids`, and "none" for none. Raises ConfigError."""
    return () if text.strip() == NONE else parse_ids("DCF_GPUS", text)


def match_gpu(wanted: str, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The devices that `wanted` may mean: one where it is an id, an index or the beginning of one id alone."""
    exact = tuple(gpu for gpu in gpus if wanted in (gpu.id, gpu.index))
    if exact or wanted[:1].isdigit():
        return exact
    return tuple(gpu for gpu in gpus if gpu.id.startswith(wanted))


def usable_ids(gpus: Sequence[Gpu], visible: str | None = None) -> tuple[str, ...]:
    """What can be given to replicas: of a GPU in parts the parts, not the whole.

    Args:
        visible: CUDA_VISIBLE_DEVICES of whoever gives: nobody gives out more than he has. Indices count as the
            driver's list does; CUDA counts alike where all GPUs are of one kind, or CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    ids = tuple(gpu.id for gpu in gpus if not gpu.is_split)
    if visible is None:
        return ids
    found = [match_gpu(part.strip(), gpus) for part in visible.split(",") if part.strip()]
    allowed = {gpu.id for matches in found for gpu in matches if len(matches) == 1}
    return tuple(gpu for gpu in ids if gpu in allowed)
