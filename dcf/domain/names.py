"""What a function, a replica and an image may be called."""

from __future__ import annotations

import re
from typing import NewType

from dcf.errors import InvalidInputError

FunctionName = NewType("FunctionName", str)
ReplicaName = NewType("ReplicaName", str)

# It becomes a DNS label in a Docker network, so 63 characters is the end of it.
_NAME = r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?"
_FUNCTION = re.compile(_NAME)
FUNCTION_RULE = (
    "a lower-case letter, then lower-case letters, digits, '-' or '_', at most 63 characters, "
    "the last one a letter or digit"
)
_BUNDLE = re.compile(rf"bundle:(?P<name>{_NAME})@(?P<digest>[0-9a-f]{{12}})")


def check_function_name(text: str) -> FunctionName:
    """Return `text` as a name; raises InvalidInputError that says the rule."""
    if not _FUNCTION.fullmatch(text):
        raise InvalidInputError(f"function name {text!r} is not allowed: expected {FUNCTION_RULE}")
    return FunctionName(text)


def replica_name(function: str, generation: int, ordinal: int) -> ReplicaName:
    """Deterministic, so that a late act of a deposed scheduler names the same replica."""
    return ReplicaName(f"{function}-g{generation}-{ordinal}")


def bundle_reference(function: str, digest: str) -> str:
    """`bundle:<name>@<first 12 digits>`: what `Image` shows on the process backend."""
    return f"bundle:{function}@{digest[:12]}"


def parse_bundle_reference(image: str) -> tuple[str, str] | None:
    """(function, digest) of a bundle reference, None where it is another kind of image."""
    match = _BUNDLE.fullmatch(image)
    return (match["name"], match["digest"]) if match else None
