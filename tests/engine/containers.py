"""Functions' images for tests, and what is done to their containers from outside."""

from __future__ import annotations

import io
import tarfile
import textwrap
import uuid
from collections.abc import Mapping

import docker

from tests.engine.host_engine import Engine


def make_image(engine: Engine, base: str, source: str, files: Mapping[str, str] | None = None) -> str:
    """An image as `base`, which is a function's, with another handler; its reference.

    Args:
        files: programs to put into it, by their path without the first slash.
    """
    text = textwrap.dedent(source).encode()
    kind = "Handler" if b"class Handler" in text else "handler"
    folder, file = source_of(engine, base)
    programs = {f"root/{path}": program.encode() for path, program in (files or {}).items()}
    dockerfile = f"FROM {base}\nCOPY handler.py {folder}/{file}\nENV DCF_HANDLER_NAME={kind}\n"
    dockerfile += "COPY root /\n" if programs else ""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in {"Dockerfile": dockerfile.encode(), "handler.py": text, **programs}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            archive.addfile(entry, io.BytesIO(data))
    context.seek(0)
    tag = f"dcf-test:{uuid.uuid4().hex[:12]}"
    engine.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
    return tag


def source_of(engine: Engine, image: str) -> tuple[str, str]:
    """Folder and file of the handler in a function's image."""
    environ = dict(line.split("=", 1) for line in engine.client.images.get(image).attrs["Config"]["Env"])
    return environ["DCF_SOURCE"], environ["DCF_HANDLER_FILE"]


def remove_containers(client: docker.DockerClient, cluster: str) -> None:
    """Whatever is left of a test's cluster."""
    for container in client.containers.list(all=True, filters={"label": f"dcf.cluster={cluster}"}):
        container.remove(force=True, v=True)
    for network in client.networks.list(filters={"label": f"dcf.cluster={cluster}"}):
        network.remove()
