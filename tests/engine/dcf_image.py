"""DCF's own image and the compose files, by whichever compose this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import certifi

from tests.engine.commands import missing

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "compose" / "local.yaml"
BUILD_S = 300.0
COMMAND_S = 150.0
"""A `down` waits for calls, replicas and Redis; on a busy machine that is half a minute."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@lru_cache
def compose_command() -> tuple[str, ...]:
    """`docker compose`, else `docker-compose`; skips (fails in CI) where there is neither."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, timeout=30, check=False)
            if done.returncode == 0:
                return command
    return missing(
        "there is neither `docker compose` nor docker-compose: install one (Debian: apt-get install docker-compose)"
    )


def compose(
    *args: str, environ: Mapping[str, str], limit_s: float = COMMAND_S, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run compose with local.yaml, as a person would in a clone."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("DCF_", "COMPOSE_"))}
    done = subprocess.run(
        [*compose_command(), "-f", str(LOCAL), *args],
        cwd=ROOT,
        env=plain | dict(environ),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def build_dcf_image() -> str:
    """The image of compose/Dockerfile, built by the compose file; its name."""
    image = f"dcf-of-this-tree:{uuid.uuid4().hex[:8]}"
    compose("build", environ={"DCF_IMAGE": image, "PIP_CA": own_certificates()}, limit_s=BUILD_S)
    return image


def own_certificates() -> str:
    """What this machine trusts beside the public certificates: of a proxy that opens TLS, where there is one."""
    path = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if not path:
        return ""
    public = {"".join(text.split()) for text in _CERTIFICATE.findall(Path(certifi.where()).read_text())}
    trusted = _CERTIFICATE.findall(Path(path).read_text())
    return "\n".join(text for text in trusted if "".join(text.split()) not in public)
