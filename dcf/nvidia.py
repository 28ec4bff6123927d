"""Ask NVIDIA's driver which GPUs there are: on this machine, in this container.

In:   `nvidia-smi` on PATH, else the driver's library (NVML).
Out:  a GpuListing; where nothing can be listed it says why.

Both are asked in a process of their own, which is killed when it takes too
long: a driver in trouble hangs whoever calls it. `python -m dcf.nvidia` prints
what the library says, in the form of `nvidia-smi -L`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dcf.domain.gpus import Gpu, parse_listing

TOOL = "nvidia-smi"
LIMIT_S = 10.0
"""A driver that nobody keeps loaded (persistence mode off) takes a second and more for each GPU before it answers."""
KILLED_S = 1.0
"""A process that waits inside the driver cannot even be killed; nobody waits for it longer than this."""
_LIBRARIES = (
    "libnvidia-ml.so.1",
    # The loader of a packed interpreter does not know the system's folders.
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
)
_NO_LIBRARY = 3
"""Exit status of `python -m dcf.nvidia` where there is no driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuListing:
    """What the driver answered."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    """Why there are none, as one clause; "" where there are some."""
    no_driver: bool = False
    """Neither the tool nor the library is there."""


def list_gpus(*, path: str | None = None, limit_s: float = LIMIT_S) -> GpuListing:
    """All devices, in the driver's order. Blocks for at most a little over `limit_s`.

    Args:
        path: folders to find `nvidia-smi` in, as in PATH; None: PATH itself.
    """
    tool = shutil.which(TOOL, path=path)
    if tool:
        return _ask([tool, "-L"], f"{TOOL} -L", limit_s)
    # -P: what lies in the folder of a function is none of ours.
    return _ask([sys.executable, "-P", "-m", "dcf.nvidia"], "NVIDIA's library (NVML)", limit_s)


def _ask(command: list[str], name: str, limit_s: float) -> GpuListing:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return GpuListing(problem=f"{name} cannot be run ({error.strerror or error})")
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        why = "the driver hangs, or is loaded anew for each question (persistence mode: nvidia-smi -pm 1)"
        return GpuListing(problem=f"{name} did not answer within {limit_s:g} s: {why}")
    finally:
        _end(process)
    if process.returncode == _NO_LIBRARY and command[0] == sys.executable:
        return GpuListing(problem=f"there is no {TOOL} and no NVIDIA driver library", no_driver=True)
    gpus = parse_listing(said)
    words = " ".join(said.split())[:200]
    if process.returncode != 0:
        return GpuListing(problem=f"{name} ended with status {process.returncode}: {words or 'no word of why'}")
    return GpuListing(gpus=gpus) if gpus else GpuListing(problem=f"{name} lists no GPU{f': {words}' if words else ''}")


def _end(process: subprocess.Popen[str]) -> None:
    """Leave nothing of it, however it went."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=KILLED_S)


class _Nvml:
    """The driver's library. Raises OSError where it is not there, or says no."""

    def __init__(self) -> None:
        for number, name in enumerate(_LIBRARIES, start=1):
            try:
                self._library = ctypes.CDLL(name)
                break
            except OSError:
                if number == len(_LIBRARIES):
                    raise
        self._library.nvmlErrorString.restype = ctypes.c_char_p

    def __call__(self, function: str, *args: object) -> None:
        status = getattr(self._library, function)(*args)
        if status:
            raise OSError(f"{function}: {self._library.nvmlErrorString(status).decode(errors='replace')}")

    def text(self, function: str, device: ctypes.c_void_p) -> str:
        text = ctypes.create_string_buffer(96)
        self(function, device, text, ctypes.c_uint(len(text)))
        return text.value.decode(errors="replace")

    def number(self, function: str, *args: object) -> int:
        number = ctypes.c_uint()
        self(function, *args, ctypes.byref(number))
        return number.value

    def lines(self) -> Iterator[str]:
        """The devices as `nvidia-smi -L` prints them."""
        for index in range(self.number("nvmlDeviceGetCount_v2")):
            device = ctypes.c_void_p()
            self("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
            name = self.text("nvmlDeviceGetName", device)
            yield f"GPU {index}: {name} (UUID: {self.text('nvmlDeviceGetUUID', device)})"
            yield from self._part_lines(device)

    def _part_lines(self, device: ctypes.c_void_p) -> Iterator[str]:
        try:
            places = self.number("nvmlDeviceGetMaxMigDeviceCount", device)
        except (OSError, AttributeError):  # a GPU, or a driver, from before MIG
            return
        for place in range(places):
            part = ctypes.c_void_p()
            with contextlib.suppress(OSError):  # an empty place
                self("nvmlDeviceGetMigDeviceHandleByIndex", device, ctypes.c_uint(place), ctypes.byref(part))
                profile = self.text("nvmlDeviceGetName", part).rpartition("MIG ")[2].replace(" ", "")
                yield f"  MIG {profile or 'part'} Device {place}: (UUID: {self.text('nvmlDeviceGetUUID', part)})"


def main() -> int:
    """Print what the library says."""
    try:
        nvml = _Nvml()
    except OSError:
        return _NO_LIBRARY
    try:
        nvml("nvmlInit_v2")
        sys.stdout.writelines(f"{line}\n" for line in nvml.lines())
    except (OSError, AttributeError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
