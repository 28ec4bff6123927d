"""Which of NVIDIA's images fits a CUDA, a cuDNN and an Ubuntu version.

In:   the versions as the user wrote them, each perhaps missing; templates/cuda.yaml.
Out:  the image's name. A combination that was never published is refused with the ones near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ruamel.yaml import YAML

from dcf.build.runtimes import template_folder
from dcf.errors import BuildError

CUDA_ARGS = ("CUDA_VERSION", "CUDNN_VERSION", "UBUNTU_VERSION")
_NEAREST = 4
"""Combinations that a refusal names: enough to choose from, few enough to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaImage:
    """One published image."""

    cuda: str
    cudnn: str
    """The word in its tag: `cudnn7`, or `cudnn` from CUDA 12.4 on."""
    cudnn_major: int
    ubuntu: str

    @property
    def name(self) -> str:
        """`nvidia/cuda:9.0-cudnn7-runtime-ubuntu16.04`."""
        return f"nvidia/cuda:{self.cuda}-{self.cudnn}-runtime-ubuntu{self.ubuntu}"


@cache
def list_images() -> tuple[CudaImage, ...]:
    """All that are known, the newest CUDA first, and of one CUDA the newest cuDNN and Ubuntu."""
    return tuple(
        CudaImage(cuda=str(cuda), cudnn=word, cudnn_major=major, ubuntu=ubuntu)
        for row in _table()["images"]
        for cuda in row["cuda"]
        for word, major in row["cudnn"].items()
        for ubuntu in row["ubuntu"]
    )


def choose_cuda_image(cuda: str, cudnn: str, ubuntu: str) -> CudaImage:
    """The image of that combination; what is "" is chosen: the default where it fits, else the newest.

    Args:
        cuda: `9.0`, `12.4` (its last patch release is taken) or `12.4.1`.
        cudnn: `7.4.1.5` or `7`; its major version counts, the image has the last release of that.
        ubuntu: `16.04`.

    Raises:
        BuildError: NVIDIA never published it.
    """
    fitting = [
        image
        for image in list_images()
        if _fits(image.cuda, cuda)
        and (not cudnn or image.cudnn_major == _major(cudnn))
        and (not ubuntu or image.ubuntu == ubuntu)
    ]
    if not fitting:
        raise BuildError(_refusal(cuda, cudnn, ubuntu))
    default = _table()["default"]
    preferred = [image for image in fitting if cuda or image.cuda == str(default["cuda"])] or fitting
    newest = [image for image in preferred if image.cuda == preferred[0].cuda]
    return next((image for image in newest if image.ubuntu == default["ubuntu"]), newest[0])


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is the wanted one, or a patch release of it: 12.4.1 of 12.4; 9.0.176 is in the image 9.0."""
    have, want = version.split("."), wanted.split(".")
    shorter = min(len(have), len(want))
    return not wanted or (shorter >= min(2, len(want)) and have[:shorter] == want[:shorter])


def _major(cudnn: str) -> int:
    head = cudnn.split(".")[0]
    return int(head) if head.isdigit() else -1


def _refusal(cuda: str, cudnn: str, ubuntu: str) -> str:
    asked = ", ".join(f"{name}={value}" for name, value in zip(CUDA_ARGS, (cuda, cudnn, ubuntu), strict=True) if value)

    def distance(image: CudaImage) -> tuple[float, float, float]:
        return (
            _gap(image.cuda, cuda),
            abs(image.cudnn_major - _major(cudnn)) if cudnn else 0.0,
            _gap(image.ubuntu, ubuntu),
        )

    # Of each patch release only the last: they differ in nothing that matters here.
    latest: dict[tuple[str, str, str], CudaImage] = {}
    for image in sorted(list_images(), key=distance):
        latest.setdefault((".".join(image.cuda.split(".")[:2]), image.cudnn, image.ubuntu), image)
    near = ", ".join(
        f"{image.cuda} with cuDNN {image.cudnn_major} on Ubuntu {image.ubuntu}"
        for image in list(latest.values())[:_NEAREST]
    )
    return (
        f"NVIDIA never published an image with {asked} (build_args): near it are {near}; "
        "or name an image of your own with BASE_IMAGE"
    )


def _gap(have: str, want: str) -> float:
    if not want:
        return 0.0
    try:
        return abs(_number(have) - _number(want))
    except ValueError:
        return 0.0


def _number(version: str) -> float:
    major, *rest = (int(part) for part in version.split("."))
    return major + (rest[0] if rest else 0) / 100


@cache
def _table() -> dict[str, Any]:
    text = template_folder().joinpath("cuda.yaml").read_text(encoding="utf-8")
    return dict(YAML(typ="safe").load(text))
