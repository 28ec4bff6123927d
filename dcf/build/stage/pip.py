"""Run pip in a build: which index, which certificates, no cache, no question."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dcf.build.stage.pack import refuse

CA = Path("/.dcf/ca/ca.pem")
"""Put there where the user's network has a certificate authority of its own."""
# An argument that was not given must not become an empty index.
_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")


# As a flag: pip 18, that of Python 3.6, takes the variable for a folder's name.
INSTALL = ("install", "--no-cache-dir")


def pip_environment() -> dict[str, str]:
    """The step's variables, for pip."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name in _INDEX:
        if not environ.get(name):
            environ.pop(name, None)
    environ |= {
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_PROGRESS_BAR": "off",
        "PYTHONNOUSERSITE": "1",
        "LANG": environ.get("LANG") or "C.UTF-8",
    }
    if CA.exists():
        environ |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(CA))
    return environ


def run(what: str, command: list[str], *, cwd: str | None = None) -> None:
    """Run one program of the step; its failure ends the step, and is its last line."""
    try:
        status = subprocess.run(command, env=pip_environment(), cwd=cwd, check=False).returncode
    except OSError as error:
        refuse(f"could not {what}: {command[0]}: {error.strerror}")
    if status != 0:
        refuse(f"could not {what}: {' '.join(command[:5])} ... ended with status {status}")
