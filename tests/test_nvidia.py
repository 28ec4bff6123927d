"""The driver is asked through its tool or its library, and never waited for without end."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from dcf.nvidia import list_gpus
from tests.gpus import A, B, listing, path_without_nvidia, stub_nvidia_smi

# What DCF calls of NVML: two GPUs, the second in two parts of seven possible ones.
LIBRARY = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *names[] = {"NVIDIA H100 PCIe", "NVIDIA A100", "NVIDIA A100 MIG 3g.20gb", "NVIDIA A100 MIG 1g.5gb"};
static const char *ids[] = {"%s", "%s", "MIG-1", "MIG-2"};

int nvmlInit_v2(void) {
    if (getenv("STUB_HANGS")) pause();
    return getenv("STUB_FAILS") ? 9 : 0;
}
const char *nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "Not Found"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    snprintf(text, size, "%%s", names[(long)device - 1]);
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    snprintf(text, size, "%%s", ids[(long)device - 1]);
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = (long)device == 2 ? 7 : 0; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    if (index != 0 && index != 3) return 6;
    *part = (void *)(long)(index ? 4 : 3);
    return 0;
}
""" % (A, B)  # noqa: UP031 - C is full of braces


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's library, and no tool."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "nvml.c").write_text(LIBRARY)
    target = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", target, tmp_path / "nvml.c"], check=True, timeout=60)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def test_the_tool_is_asked_first(tmp_path: Path, library: None) -> None:
    found = list_gpus(path=stub_nvidia_smi(tmp_path / "bin", A))

    assert ([gpu.id for gpu in found.gpus], found.problem) == ([A], "")
    assert (found.gpus[0].index, found.gpus[0].name) == ("0", "NVIDIA H100 PCIe")


def test_without_the_tool_the_library_says_the_same(library: None) -> None:
    found = list_gpus(path=path_without_nvidia())

    assert found.problem == ""
    assert [(gpu.id, gpu.index, gpu.is_split) for gpu in found.gpus] == [
        (A, "0", False), (B, "1", True), ("MIG-1", "1:0", False), ("MIG-2", "1:3", False),
    ]  # fmt: skip
    assert found.gpus[2].name == "NVIDIA A100 MIG 3g.20gb"


def test_a_library_that_fails_or_hangs_is_a_problem_and_no_more(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_FAILS", "1")
    failed = list_gpus(path=path_without_nvidia())
    monkeypatch.setenv("STUB_HANGS", "1")
    begun = time.monotonic()
    hung = list_gpus(path=path_without_nvidia(), limit_s=0.5)

    assert time.monotonic() - begun < 5
    assert "ended with status 1: nvmlInit_v2: Driver Not Loaded" in failed.problem
    assert "did not answer within 0.5 s" in hung.problem
    assert not failed.no_driver
    assert not hung.no_driver


def test_no_tool_and_no_library_is_no_driver() -> None:
    found = list_gpus(path=path_without_nvidia())
    if found.gpus:
        pytest.skip("this machine has a GPU")

    assert (found.gpus, found.no_driver) == ((), True)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 3600 & echo started; sleep 3600", "did not answer within 0.5 s"),
        ("echo No devices were found; exit 6", "ended with status 6: No devices were found"),
        ("exit 0", "lists no GPU"),
        ("echo GPU of the future", "lists no GPU: GPU of the future"),
        ("kill -9 $$", "ended with status -9: no word of why"),
    ],
)
def test_a_tool_that_lists_nothing_is_explained(tmp_path: Path, script: str, said: str) -> None:
    found = list_gpus(path=stub_nvidia_smi(tmp_path, script=script), limit_s=0.5)

    assert found.gpus == ()
    assert said in found.problem


def test_a_tool_of_another_system_cannot_be_run(tmp_path: Path) -> None:
    path = stub_nvidia_smi(tmp_path)
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF\x02\x01\x01 not for this machine")

    assert "cannot be run" in list_gpus(path=path).problem


def test_what_else_the_tool_prints_does_not_matter(tmp_path: Path) -> None:
    script = f"echo Unable to determine the device handle for GPU 0000:21:00.0; cat {tmp_path}/listing"
    path = stub_nvidia_smi(tmp_path, B, script=script)

    assert listing(B) in (tmp_path / "listing").read_text()
    assert [gpu.id for gpu in list_gpus(path=path).gpus] == [B]
