"""Install build_packages into the base: Debian's and Ubuntu's way.

Runs in the stage FROM ${BASE_IMAGE}, with the packed interpreter of the watcher.
BUILD_PACKAGES is a list of names with spaces between; empty does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from dcf.build.stage.pack import refuse


def main() -> None:
    """The whole step."""
    packages = os.environ.get("BUILD_PACKAGES", "").split()
    if not packages:
        return
    if shutil.which("apt-get") is None:
        refuse(
            f"build_packages ({', '.join(packages)}) cannot be installed: this base has no apt-get; "
            "take a base on Debian or Ubuntu, or install them in a line of your own in the Dockerfile"
        )
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-o", "Acquire::Retries=3"]
    for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *packages]):
        status = subprocess.run(command, env=environ, check=False).returncode
        if status != 0:
            refuse(f"could not install build_packages ({', '.join(packages)}): apt-get ended with status {status}")
    for folder in ("/var/lib/apt/lists", "/var/cache/apt/archives"):
        for entry in Path(folder).glob("*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()


if __name__ == "__main__":
    main()
