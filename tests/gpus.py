"""GPUs for machines without any: an `nvidia-smi` that says what a test wants to hear."""

from __future__ import annotations

import os
from pathlib import Path

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-bbbb2222-0000-0000-0000-000000000000"


def listing(*ids: str) -> str:
    """What `nvidia-smi -L` prints for whole GPUs with these ids."""
    return "".join(f"GPU {index}: NVIDIA H100 PCIe (UUID: {one})\n" for index, one in enumerate(ids))


def stub_nvidia_smi(folder: Path, *ids: str, script: str = "") -> str:
    """A PATH on which `nvidia-smi -L` lists `ids`, or does what `script` (sh) does."""
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / "nvidia-smi"
    (folder / "listing").write_text(listing(*ids))
    tool.write_text(f'#!/bin/sh\n{script or f"""test "$1" = -L && exec cat {folder}/listing"""}\n')
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{path_without_nvidia()}"


def path_without_nvidia() -> str:
    """PATH but for the folders that hold the real thing."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(one for one in folders if not (Path(one) / "nvidia-smi").exists())
