"""Pack an interpreter with all that it needs, its C library included.

In:   a Python that runs here, and patchelf.
Out:  a folder that runs on any base of the same architecture, whatever its C library.
The executable gets the packed loader as its ELF interpreter and a DT_RPATH (not a
DT_RUNPATH: it must go before LD_LIBRARY_PATH, and for what extensions need too).
The folder cannot be moved: the loader's path is written into the executable.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

LIBC = "lib/dcf-libc"
"""The C library and what must be of one release with it."""
LIBRARIES = "lib/dcf-libs"
SYSTEM_SUFFIX = "-on-base"
"""Of a second executable, which runs on the base's own C library."""
# Of one release with the loader, whoever asks for them first: an old libpthread in a new libc ends the process.
_ALWAYS = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1")
# Loaded by name when they are wanted, so that no dependency tells of them.
_PERHAPS = ("libmvec.so.1", "libresolv.so.2", "libanl.so.1", "libnss_files.so.2", "libnss_dns.so.2")
_CXX = "libstdc++.so.6"
_LIBC_FAMILY = frozenset((*_ALWAYS, *_PERHAPS, _CXX))
LEFT_OUT = frozenset(
    {
        "__pycache__", "test", "tests", "idlelib", "idle_test", "turtledemo", "tkinter", "lib2to3", "site-packages",
        "dist-packages", "sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED", "turtle.py",
    }
)  # fmt: skip
"""Of a standard library: what no function needs. tkinter wants an X server's libraries."""
_WORTH_BYTES = 100_000
_BIG = re.compile(r"config-\d.*|.*\.a|_tkinter\..*|_test\w+\..*|_xxtest\w*\..*|_ctypes_test\..*|xxlimited.*")

# Speaks every Python from 3.6 on.
_PROBE = """
import json, os, sys, sysconfig
wheels = []
try:
    import ensurepip
    folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or getattr(ensurepip, "_WHEEL_PKG_DIR", None)
    for place in (folder, os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")):
        if place and os.path.isdir(place):
            wheels += [os.path.join(place, name) for name in os.listdir(place) if name.startswith("pip-")]
except ImportError:
    pass
paths = sysconfig.get_paths()
print(json.dumps({
    "executable": os.path.realpath(sys.executable),
    "version": list(sys.version_info[:3]),
    "stdlib": paths["stdlib"],
    "platstdlib": paths["platstdlib"],
    "include": paths["include"],
    "pip_wheels": wheels,
    "prefix_is_base": sys.prefix == getattr(sys, "base_prefix", sys.prefix),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A Python that answered."""

    executable: str
    """Links resolved."""
    version: tuple[int, int, int]
    stdlib: str
    platstdlib: str
    include: str
    pip_wheels: tuple[str, ...]
    """Its own, for a virtual environment that shall have pip."""

    @property
    def minor(self) -> str:
        """`3.11`."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def text(self) -> str:
        """`3.11.7`."""
        return ".".join(map(str, self.version))


def say(line: str) -> None:
    """One line of the build's output."""
    sys.stdout.write(f"dcf: {line}\n")
    sys.stdout.flush()


def refuse(reason: str) -> NoReturn:
    """End the step, and with it the build, with its reason as the last line."""
    say(reason)
    raise SystemExit(1)


def probe(python: str) -> Facts | None:
    """What an interpreter says about itself; None where it does not start or is no Python 3."""
    try:
        done = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False)
        told = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Facts(
        executable=told["executable"],
        version=tuple(told["version"]),
        stdlib=told["stdlib"],
        platstdlib=told["platstdlib"],
        include=told["include"],
        pip_wheels=tuple(told["pip_wheels"]),
    )


def pack(facts: Facts, target: Path, patchelf: str, *, left_out: Collection[str] = (), on_base: bool = False) -> None:
    """Copy the interpreter and its standard library to `target`, and make them run there by themselves.

    Args:
        left_out: further names of the standard library that stay behind.
        on_base: make the second executable too.
    """
    library = target / "lib" / f"python{facts.minor}"
    executable = target / "bin" / f"python{facts.minor}"
    executable.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(facts.executable, executable)
    executable.chmod(0o755)
    for name in ("python3", "python"):
        link = executable.parent / name
        link.unlink(missing_ok=True)
        link.symlink_to(executable.name)
    unwanted = LEFT_OUT | frozenset(left_out)

    def ignored(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name in unwanted or name.split(".")[0] in left_out or _BIG.fullmatch(name)]

    for folder in dict.fromkeys((facts.stdlib, facts.platstdlib)):
        shutil.copytree(folder, library, ignore=ignored, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    collect_libraries(target, facts.executable, patchelf)
    make_independent(executable, target, patchelf, on_base=on_base)
    for path in target.rglob("*.so*"):
        if path.is_file():
            _forget_places(path, patchelf)
            drop_symbols(path)


def collect_libraries(target: Path, executable: str, patchelf: str) -> None:
    """Copy every shared library that the executable and the modules below `target` need."""
    loader = _output([patchelf, "--print-interpreter", executable]).strip()
    libc, others = target / LIBC, target / LIBRARIES
    libc.mkdir(parents=True, exist_ok=True)
    others.mkdir(parents=True, exist_ok=True)
    found = {Path(loader).name: loader}
    modules = sorted(path for path in target.rglob("*.so*") if path.is_file() and path.parent not in (libc, others))
    for file in (executable, *map(str, modules)):
        found |= _needed(loader, file)
    # One beside the other in Debian's folders, or in two: /lib/x86_64-linux-gnu, /usr/lib/x86_64-linux-gnu.
    beside = Path(found["libc.so.6"]).parent if "libc.so.6" in found else Path(loader).parent
    for folder in (beside, Path(f"/usr{beside}")):
        for name in (*_ALWAYS, *_PERHAPS, _CXX):
            if name not in found and (folder / name).exists():
                found[name] = str(folder / name)
    for name, path in found.items():
        folder = libc if name in _LIBC_FAMILY or name == Path(loader).name else others
        shutil.copyfile(path, folder / name)
        (folder / name).chmod(0o755)
        _forget_places(folder / name, patchelf)


def drop_symbols(file: Path) -> None:
    """Cut off what only a debugger reads, behind all that is loaded: uvloop's is 12 MB.

    A loader reads program headers alone; sections, which stand last, are not missed at run time.
    """
    with file.open("r+b") as elf:
        head = elf.read(64)
        if head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian: x86_64 and arm64
            return
        offset, size, number = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
        elf.seek(offset)
        table = elf.read(size * number)
        # Of each program header: where in the file it begins, and how long it is there.
        ends = [sum(struct.unpack_from("<Q16xQ", table, size * index + 8)) for index in range(number)]
        loaded = max([offset + size * number, *ends])
        if file.stat().st_size - loaded < _WORTH_BYTES:
            return
        elf.truncate(loaded)
        elf.seek(40)
        elf.write(struct.pack("<Q", 0))  # where the section headers were,
        elf.seek(58)
        elf.write(struct.pack("<HHH", 64, 0, 0))  # how large each, how many, and which has their names


def make_independent(executable: Path, target: Path, patchelf: str, *, on_base: bool) -> None:
    """Write the packed loader and the search path into the executable."""
    if on_base:
        second = executable.with_name(executable.name + SYSTEM_SUFFIX)
        shutil.copyfile(executable, second)
        second.chmod(0o755)
        _output([patchelf, "--force-rpath", "--set-rpath", str(target / LIBRARIES), str(second)])
    loader = Path(_output([patchelf, "--print-interpreter", str(executable)]).strip()).name
    path = f"{target / LIBRARIES}:{target / LIBC}"
    # As needed by the executable they are loaded first, from here: an extension with a DT_RUNPATH would look
    # for its own libpthread in the base.
    for name in (*_ALWAYS, _CXX):
        if (target / LIBC / name).exists() and (name != _CXX or on_base):
            _output([patchelf, "--add-needed", name, str(executable)])
    _output([patchelf, "--force-rpath", "--set-rpath", path, str(executable)])
    _output([patchelf, "--set-interpreter", str(target / LIBC / loader), str(executable)])


def _forget_places(file: Path, patchelf: str) -> None:
    """Take out where a library was told to look when it was built: it would keep it from looking here."""
    if _output([patchelf, "--print-rpath", str(file)]).strip():
        _output([patchelf, "--remove-rpath", str(file)])


def _needed(loader: str, file: str) -> dict[str, str]:
    """The libraries that the loader finds for a file, by the name that is asked for."""
    done = subprocess.run([loader, "--list", file], capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(\S+) => (/\S+)", line)
        if match:
            found[Path(match[1]).name] = match[2]
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        refuse(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
