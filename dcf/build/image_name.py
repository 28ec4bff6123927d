"""What a function's image is called, from docker_registry, image and the function's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dcf.build.project import FunctionConfig
from dcf.domain.names import parse_bundle_reference
from dcf.errors import BuildError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d+)?"
_REPOSITORY = re.compile(rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
OWN_TAG = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """A repository, and the tag that the user thinks of it by."""

    repository: str
    tag: str
    registry: str
    """Its host; "" where it names none, which is Docker Hub."""

    def with_tag(self, tag: str) -> str:
        """`registry.example.org/echo:0123456789ab`."""
        return f"{self.repository}:{tag}"


def parse_image_name(text: str) -> ImageName:
    """Take `registry:5000/echo:v2` apart. Raises BuildError."""
    head, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        head, tag = text, OWN_TAG
    if not _REPOSITORY.fullmatch(head) or not _TAG.fullmatch(tag):
        raise BuildError(
            f"{text!r} cannot be an image's name: expected such as registry.example.org:5000/team/echo:v1, "
            "its parts in lower-case letters and digits with single . _ - between; "
            "name it in the function file, image"
        )
    first, slash, _ = head.partition("/")
    # As Docker tells a host from a folder of Docker Hub.
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return ImageName(repository=head, tag=tag, registry=first if is_host else "")


def image_name(config: FunctionConfig) -> ImageName:
    """What the image of this function is called.

    `docker_registry` goes before `image` where that does not begin with it already;
    without `image` it is the function's name.

    Raises:
        BuildError: it cannot be an image's name.
    """
    text = config.image or config.name
    if parse_bundle_reference(text) is not None:
        raise BuildError(f"image: {text} names a bundle, which is built with --backend process")
    if "@" in text:
        raise BuildError(
            f"image: {text} is a digest, and a build makes a new one: name it without @, or set skip_build"
        )
    registry = config.docker_registry.split("://")[-1].strip("/")
    if registry and not text.startswith(f"{registry}/"):
        text = f"{registry}/{text}"
    name = parse_image_name(text)
    if registry and not name.registry:
        raise BuildError(
            f"docker_registry: {registry} names no host: expected such as registry.example.org:5000, "
            f"or docker.io/{registry} for Docker Hub"
        )
    return name
