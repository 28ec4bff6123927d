"""The image that functions in Go are compiled in: the real one, or a stand-in with this machine's Go."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile

from docker.errors import ImageNotFound

from dcf.build.toolchains import default_version, find_go
from dcf.errors import BuildError
from tests.engine.base_image import LABEL, PYTHON, pull
from tests.engine.commands import missing
from tests.engine.host_engine import Engine

GO = f"golang:{default_version('go')}"
"""What `dcf function init --runtime go` names here."""
_DOCKERFILE = f"""
FROM {PYTHON}
LABEL {LABEL}=1
COPY go /usr/local/go
ENV PATH=/usr/local/go/bin:$PATH GOTOOLCHAIN=local GOPATH=/go
WORKDIR /go
"""
_NOT_NEEDED = ("go/api", "go/doc", "go/misc", "go/test", "go/src/cmd")


def provide_go_image(engine: Engine) -> bool:
    """Have GO in `engine`, which has the base images; returns whether a stand-in was brought."""
    try:
        engine.client.images.get(GO)
    except ImageNotFound:
        if engine.ours or not pull(engine, GO):
            _build(engine)
            return True
    return False


def _build(engine: Engine) -> None:
    try:
        go = find_go()
    except BuildError as error:
        missing(str(error))
    root = subprocess.run([go.path, "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w", dereference=True) as tar:  # Debian's folder is made of links
            tar.add(root, "go", filter=_needed)
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(_DOCKERFILE)
            tar.addfile(entry, io.BytesIO(_DOCKERFILE.encode()))
        context.seek(0)
        engine.client.images.build(fileobj=context, custom_context=True, tag=GO, rm=True)


def _needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A build needs the compiler and the sources of the standard library, not their tests."""
    left_out = entry.name in _NOT_NEEDED or entry.name.endswith("_test.go") or "/testdata" in entry.name
    return None if left_out else entry
