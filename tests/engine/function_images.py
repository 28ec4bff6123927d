"""The image of the smallest function, built as a user builds it, and one with a GPU tool in it."""

from __future__ import annotations

import os
from pathlib import Path

from dcf.build.image import build_image
from dcf.build.project import load_project
from dcf.build.scaffold import init_function
from tests.engine.containers import make_image
from tests.engine.host_engine import GPUS, Engine

SEES = """
    import os

    def handler(req):
        return os.environ.get("CUDA_VISIBLE_DEVICES", "none")
"""

# What NVIDIA's runtime puts into a container, as far as the watcher looks: the driver's tool, which lists what
# the container was given.
SMI = """#!/bin/sh
n=0
IFS=,
for uuid in ${NVIDIA_VISIBLE_DEVICES:-$ALL}; do
    case $uuid in all|void|none|'') continue ;; esac
    echo "GPU $n: NVIDIA Stand-in (UUID: $uuid)"
    n=$((n + 1))
done
"""


def build_echo(folder: Path, runtime: str = "python") -> str:
    """`dcf function init echo` and build: an image that answers with its input; the reference."""
    init_function("echo", runtime, folder)
    config = load_project(folder / "echo").function("echo")
    return build_image(
        config, ca=None, environ=os.environ, on_step=lambda step: None, on_output=lambda line: None
    ).reference


def build_gpu_image(engine: Engine, base: str, source: str = SEES) -> str:
    """A function's image with `nvidia-smi` in it, which lists what the engine says it gave."""
    return make_image(engine, base, source, files={"usr/bin/nvidia-smi": SMI.replace("$ALL", ",".join(GPUS))})
