"""A replica has the GPUs that were reserved for it, or does not start and says why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dcf.nvidia import LIMIT_S
from tests.gpus import A, B, path_without_nvidia, stub_nvidia_smi
from tests.watcher.harness import run_watcher

SAYS_ITS_DEVICES = """
    import os

    class Handler:
        def __init__(self):
            print("loaded", flush=True)

        def __call__(self, req):
            return os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
"""
SWARM = "DOCKER_RESOURCE_NVIDIA-GPU"


async def devices(folder: Path, gpus: int, **watcher: str) -> str:
    """What the worker of a watcher with these variables may see."""
    async with run_watcher(folder, SAYS_ITS_DEVICES, watcher=watcher, limits={"gpu": str(gpus)}) as replica:
        await replica.until_state("ready")
        return (await replica.call()).output.decode()


async def refusal(folder: Path, gpus: int, environ: dict[str, str] | None = None, **watcher: str) -> str:
    """Why a watcher with these variables does not start: its one line."""
    options: dict[str, Any] = {"environ": environ, "watcher": watcher, "limits": {"gpu": str(gpus)}}
    async with run_watcher(folder, SAYS_ITS_DEVICES, **options) as replica:
        assert await replica.exit_status() == 1
    said = (folder / "watcher.stderr").read_text()
    assert said.startswith("dcf: "), said
    assert said.count("\n") == 1, said
    assert not (folder / "log").exists(), "the handler must not be loaded"
    return said


@pytest.mark.parametrize(
    ("reserved", "visible"),
    [
        (B, B),
        ("GPU-bbbb", B),
        ("1", B),
        (f"{B},{A}", f"{B},{A}"),
        ("1,0", f"{B},{A}"),
        (f" {B} , GPU-a", f"{B},{A}"),
    ],
    ids=["id", "beginning", "index", "two", "indices", "spaces"],
)
async def test_the_worker_sees_what_was_reserved_by_its_full_id(tmp_path: Path, reserved: str, visible: str) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A, B)

    assert await devices(tmp_path, visible.count(",") + 1, PATH=path, DCF_GPUS=reserved) == visible


@pytest.mark.parametrize("name", [SWARM, "DOCKER_RESOURCE_GPU"])
async def test_on_swarm_the_engine_says_what_was_reserved(tmp_path: Path, name: str) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", B)

    assert await devices(tmp_path, 1, PATH=path, **{name: B}) == B
    assert "warning" not in (tmp_path / "watcher.stderr").read_text()


async def test_more_gpus_than_reserved_are_hidden_from_the_worker_and_on_swarm_said(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A, B)

    assert await devices(tmp_path, 1, PATH=path, **{SWARM: B}) == B

    warning = (tmp_path / "watcher.stderr").read_text().splitlines()[0]
    assert "more GPUs are visible than were reserved" in warning
    assert "1.18" in warning


async def test_a_part_of_a_gpu_is_a_device_too(tmp_path: Path) -> None:
    part = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
    lines = f"GPU 0: NVIDIA A100 (UUID: {A})\n  MIG 1g.5gb      Device  0: (UUID: {part})\n"
    path = stub_nvidia_smi(tmp_path / "bin", script=f"printf '%s' '{lines}'")

    assert await devices(tmp_path, 1, PATH=path, DCF_GPUS="MIG-c6d4") == part
    assert await devices(tmp_path, 1, PATH=path, DCF_GPUS="0:0") == part


async def test_without_a_limit_nothing_is_asked_and_nothing_set(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", script=f"touch {tmp_path}/asked")

    assert await devices(tmp_path, 0, PATH=path, CUDA_VISIBLE_DEVICES="7") == "7"
    assert not (tmp_path / "asked").exists()


async def test_a_reserved_gpu_that_is_not_there_is_refused_with_both_sides(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A)

    said = await refusal(tmp_path, 1, PATH=path, DCF_GPUS=B)

    assert f"{B} was reserved for this replica, but {B} is not seen here: seen is 0={A}" in said
    assert "nvidia-smi -L" in said


async def test_on_swarm_a_mismatch_names_the_files_to_look_at(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A)

    said = await refusal(tmp_path, 1, PATH=path, **{SWARM: B})

    for word in ("daemon.json", "/etc/nvidia-container-runtime/config.toml", f'must be "{SWARM}"', "1.18.0 to 1.18.2"):
        assert word in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DCF_GPUS": B}, ["install NVIDIA's driver", "--gpus"]),
        (
            {SWARM: B},
            ["default-runtime nvidia", f'nvidia-container-runtime/config.toml = "{SWARM}"'],
        ),
    ],
    ids=["engine", "swarm"],
)
async def test_where_there_is_no_driver_it_says_what_to_set_up(
    tmp_path: Path, variables: dict[str, str], words: list[str]
) -> None:
    said = await refusal(tmp_path, 1, PATH=path_without_nvidia(), **variables)

    assert f"{B} was reserved for this replica, but no GPU is seen here: there is no nvidia-smi" in said
    for word in words:
        assert word in said


async def test_a_driver_that_says_no_is_quoted(tmp_path: Path) -> None:
    script = "echo 'NVIDIA-SMI has failed because it could not'; echo 'communicate with the NVIDIA driver.'; exit 9"
    path = stub_nvidia_smi(tmp_path / "bin", script=script)

    said = await refusal(tmp_path, 1, PATH=path, DCF_GPUS=A)

    assert "nvidia-smi -L ended with status 9: NVIDIA-SMI has failed because it could not communicate" in said


@pytest.mark.slow
async def test_a_driver_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", script=f"echo $$ > {tmp_path}/pid; sleep 3600")
    begun = time.monotonic()

    said = await refusal(tmp_path, 1, PATH=path, DCF_GPUS=A)

    assert time.monotonic() - begun < LIMIT_S + 5
    assert f"did not answer within {LIMIT_S:g} s" in said
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.mark.parametrize(
    ("gpus", "variables", "words"),
    [
        (2, {"DCF_GPUS": A}, ["asks for 2 GPUs, but 1 GPU was reserved", f"DCF_GPUS={A}"]),
        (1, {}, ["asks for 1 GPU, but no GPUs were reserved"]),
        (0, {"DCF_GPUS": A}, ["asks for no GPUs, but 1 GPU was reserved"]),
        (1, {SWARM: f"{A},{B}"}, ["asks for 1 GPU, but 2 GPUs were reserved", SWARM]),
        (2, {"DCF_GPUS": f"0,{A}"}, ["names one GPU twice"]),
        (2, {"DCF_GPUS": f"{A},{A}"}, ["is there twice"]),
        (1, {"DCF_GPUS": "GPU-"}, ["is no GPU"]),
        (1, {"DCF_GPUS": "first"}, ["'first' is no GPU", "nvidia-smi -L"]),
        (1, {SWARM: "1"}, [f"{SWARM}=1 is a number of GPUs", "NVIDIA-GPU=GPU-<uuid>"]),
    ],
)
async def test_a_reservation_that_does_not_fit_is_refused(
    tmp_path: Path, gpus: int, variables: dict[str, str], words: list[str]
) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A, B)

    said = await refusal(tmp_path, gpus, PATH=path, **variables)

    for word in words:
        assert word in said


async def test_an_id_that_fits_two_gpus_is_refused(tmp_path: Path) -> None:
    twin = A.replace("0000-0", "0000-1", 1)
    path = stub_nvidia_smi(tmp_path / "bin", A, twin)

    said = await refusal(tmp_path, 1, PATH=path, DCF_GPUS="GPU-aaaa1111")

    assert f"fits more than one GPU: seen are 0={A}, 1={twin}; write the whole id" in said


async def test_the_functions_own_environment_cannot_choose_devices(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path / "bin", A, B)

    said = await refusal(tmp_path, 1, {"CUDA_VISIBLE_DEVICES": "0"}, PATH=path, DCF_GPUS=B)

    assert "the function's environment sets CUDA_VISIBLE_DEVICES" in said
    assert "take it out" in said
