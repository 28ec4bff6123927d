"""Push a function's image, and say who we are to its registry.

In:   ImageBuild, and the user's Docker config (logins, credential helpers).
Out:  the reference with the digest that was pushed: what is deployed is what was built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker import auth
from docker.errors import DockerException, InvalidRepository

from dcf.build.build_stream import OnStep, read_stream
from dcf.build.engine import open_engine
from dcf.build.image import ImageBuild
from dcf.build.image_name import parse_image_name
from dcf.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedImage:
    """An image in a registry."""

    reference: str
    """`registry.example.org/echo@sha256:...`."""
    tags: tuple[str, ...]
    """The names that it was pushed under."""


def push_image(build: ImageBuild, *, environ: Mapping[str, str], on_step: OnStep) -> PushedImage:
    """Push under the content's name and under the user's own.

    Raises:
        BuildError: with registry, cause and what to do.
    """
    name = parse_image_name(build.reference)
    if not name.registry:
        raise BuildError(
            f"{build.reference} names no registry: set docker_registry in the function file, "
            "or deploy with --no-push where there is only one engine"
        )
    credentials = _credentials(name.repository, environ)
    tags = tuple(dict.fromkeys((build.reference, build.own_tag or build.reference)))
    digest = ""
    with open_engine(environ) as engine:
        for tag in tags:
            digest = _push(engine, tag, name.registry, credentials, on_step) or digest
    if not digest:
        raise BuildError(f"could not push {build.reference}: {name.registry} told no digest; push again")
    return PushedImage(reference=f"{name.repository}@{digest}", tags=tags)


def registry_auth(reference: str, environ: Mapping[str, str]) -> str:
    """What `docker service create --with-registry-auth` sends for this image; "" where there is no login.

    Raises:
        BuildError: a credential helper of the user's Docker config failed.
    """
    credentials = _credentials(reference, environ)
    return auth.encode_header(credentials).decode() if credentials else ""


def _credentials(reference: str, environ: Mapping[str, str]) -> dict[str, Any]:
    folder = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME") or Path.home()) / ".docker")
    try:
        registry, _ = auth.resolve_repository_name(reference)
        config = auth.load_config(str(Path(folder) / "config.json"))
        return dict(config.resolve_authconfig(registry) or {})
    except InvalidRepository as error:
        raise BuildError(f"{reference!r} is no image's name: {error}") from error
    except DockerException as error:
        raise BuildError(
            f"the login for {reference} in {folder}/config.json could not be read: {error}; log in again (docker login)"
        ) from error


def _push(engine: docker.APIClient, tag: str, registry: str, credentials: dict[str, Any], on_step: OnStep) -> str:
    try:
        # An empty login keeps the SDK from looking for one by itself, in another user's home perhaps.
        messages = engine.push(tag, stream=True, decode=True, auth_config=credentials)
        return read_stream(messages, what=f"push {tag}", on_step=on_step, on_output=lambda _: None).digest
    except (BuildError, DockerException) as error:
        text = str(error)
        raise BuildError(f"{text if isinstance(error, BuildError) else f'could not push {tag}: {text}'}; "
                         f"{_advice(text, registry)}") from error  # fmt: skip


def _advice(text: str, registry: str) -> str:
    """What to do about a registry's refusal."""
    if "HTTP response to HTTPS client" in text:
        return (
            f'{registry} speaks plain HTTP: allow that with "insecure-registries": ["{registry}"] in the '
            "daemon.json of every engine, or give it a certificate"
        )
    if "x509" in text or "certificate" in text:
        return (
            f"the engine does not trust {registry}'s certificate: put its authority into "
            f"/etc/docker/certs.d/{registry}/ca.crt on every engine"
        )
    if any(word in text for word in ("denied", "unauthorized", "no basic auth", "authentication required")):
        return f"log in (docker login {registry}) as somebody who may push there"
    return f"is {registry} reachable from the engine, and is docker_registry right?"
