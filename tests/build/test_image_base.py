from __future__ import annotations

import pytest

from dcf.build.base_image import choose_base
from dcf.build.cuda import choose_cuda_image, list_images
from dcf.build.interpreters import own_version
from dcf.errors import BuildError
from tests.build.conftest import LoadEcho

THE_ORIGINALS = "build_args: [CUDA_VERSION=9.0, CUDNN_VERSION=7.4.1.5, UBUNTU_VERSION=16.04, PYTHON_VERSION=3.6]"


def test_arguments_of_the_original_give_the_image_that_they_gave_then(echo: LoadEcho) -> None:
    choice = choose_base(echo(THE_ORIGINALS))

    assert choice.base_image == "nvidia/cuda:9.0-cudnn7-runtime-ubuntu16.04"
    assert choice.stage_args == {
        "WATCHER_IMAGE": f"python:{own_version()}-slim",
        "PYTHON_IMAGE": "python:3.6-slim",
        "PACK_PYTHON": "1",
        "PYTHON_VERSION": "3.6",
    }


@pytest.mark.parametrize(
    ("cuda", "cudnn", "ubuntu", "tag"),
    [
        ("", "", "", "12.9.1-cudnn-runtime-ubuntu22.04"),
        ("9.0.176", "", "", "9.0-cudnn7-runtime-ubuntu16.04"),
        ("10.1", "7.6.5", "18.04", "10.1-cudnn7-runtime-ubuntu18.04"),
        ("10.2", "", "", "10.2-cudnn8-runtime-ubuntu18.04"),
        ("11.8", "", "", "11.8.0-cudnn8-runtime-ubuntu22.04"),
        ("11.3", "8", "16.04", "11.3.1-cudnn8-runtime-ubuntu16.04"),
        ("12.3", "", "", "12.3.2-cudnn9-runtime-ubuntu22.04"),
        ("12.4", "", "", "12.4.1-cudnn-runtime-ubuntu22.04"),
        ("12.6.1", "9.5", "20.04", "12.6.1-cudnn-runtime-ubuntu20.04"),
        ("13", "", "24.04", "13.2.1-cudnn-runtime-ubuntu24.04"),
        ("", "8", "", "12.2.2-cudnn8-runtime-ubuntu22.04"),
        ("", "", "18.04", "12.0.1-cudnn8-runtime-ubuntu18.04"),
    ],
)
def test_a_combination_gives_nvidias_tag(cuda: str, cudnn: str, ubuntu: str, tag: str) -> None:
    assert choose_cuda_image(cuda, cudnn, ubuntu).name == f"nvidia/cuda:{tag}"


@pytest.mark.parametrize(
    ("cuda", "cudnn", "ubuntu", "near"),
    [
        ("9.0", "", "22.04", "9.0 with cuDNN 7 on Ubuntu 16.04"),
        ("12.4", "8.9.7", "22.04", "12.4.1 with cuDNN 9 on Ubuntu 22.04"),
        ("99", "", "", "13.2.1 with cuDNN 9"),
        ("12.4.0", "", "", "12.4.1 with cuDNN 9"),
        ("new", "", "", "13.2.1"),
    ],
)
def test_what_nvidia_never_published_is_refused_with_what_is_near(
    cuda: str, cudnn: str, ubuntu: str, near: str
) -> None:
    with pytest.raises(BuildError, match="never published") as refusal:
        choose_cuda_image(cuda, cudnn, ubuntu)

    assert near in str(refusal.value)
    assert f"CUDA_VERSION={cuda}" in str(refusal.value)
    assert "BASE_IMAGE" in str(refusal.value)


def test_every_image_of_the_table_is_found_by_its_own_versions() -> None:
    for image in list_images():
        assert choose_cuda_image(image.cuda, str(image.cudnn_major), image.ubuntu) == image


def test_a_gpu_alone_starts_from_nvidias_current_image(echo: LoadEcho) -> None:
    choice = choose_base(echo('limits: {gpu: "1"}'))

    assert choice.base_image.startswith("nvidia/cuda:12.")
    assert choice.stage_args["PACK_PYTHON"] == "1"


@pytest.mark.parametrize(
    ("lines", "base"),
    [
        (["build_args: [PYTHON_VERSION=3.8]"], "python:3.8-slim"),
        (["build_args: [UBUNTU_VERSION=22.04]"], f"python:{own_version()}-slim"),
        (['limits: {gpu: "0"}'], f"python:{own_version()}-slim"),
        (["build_args: [BASE_IMAGE=my/base:1, CUDA_VERSION=9.0]", 'limits: {gpu: "1"}'], "my/base:1"),
    ],
)
def test_the_base_follows_the_arguments(echo: LoadEcho, lines: list[str], base: str) -> None:
    assert choose_base(echo(*lines)).base_image == base


def test_a_python_base_needs_no_further_image(echo: LoadEcho) -> None:
    choice = choose_base(echo("build_args: [PYTHON_VERSION=3.8]"))

    assert choice.stage_args["PACK_PYTHON"] == "0"
    assert choice.stage_args["PYTHON_IMAGE"] == choice.stage_args["WATCHER_IMAGE"]


def test_an_own_base_says_that_cuda_arguments_choose_nothing(echo: LoadEcho) -> None:
    (notice,) = choose_base(echo("build_args: [BASE_IMAGE=my/base:1, CUDA_VERSION=9.0]")).notices

    assert "CUDA_VERSION" in notice
