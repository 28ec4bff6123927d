"""What a built function is on the process backend, and how its watcher is told.

A bundle is a folder `<bundles>/<function>/<digest12>/` with `bundle.json` (a
BundleManifest) and `src/`. `watcher_environment` is the one place that turns
a spec and a bundle into the variables that `dcf.watcher.settings` reads.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from dcf.domain.function import FunctionSpec
from dcf.domain.image import replica_environment
from dcf.errors import ImageNotFoundError

MANIFEST = "bundle.json"
SOURCE = "src"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """bundle.json."""

    function: str
    digest: str
    """First 12 hex digits; also the folder's name."""
    runtime: str
    command: tuple[str, ...]
    """What starts the worker, absolute: an interpreter, to which the watcher adds its worker program, or the binary."""
    version: str
    """Of the language, for people: "3.6.15"."""
    handler_file: str
    """Relative to the bundle's src/."""
    handler_name: str
    format: int = FORMAT


def manifest_to_json(manifest: BundleManifest) -> str:
    """The text of bundle.json."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"


def manifest_from_json(text: str) -> BundleManifest:
    """Raises ImageNotFoundError where the text is no manifest of this format."""
    try:
        data: Any = json.loads(text)
        if not isinstance(data, dict):
            raise ImageNotFoundError(f"{MANIFEST} holds no mapping: build the function again")
        if data.get("format") != FORMAT:
            raise ImageNotFoundError(
                f"{MANIFEST} has format {data.get('format')!r}, this release reads {FORMAT}: build the function again"
            )
        return BundleManifest(**{**data, "command": tuple(data["command"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ImageNotFoundError(f"{MANIFEST} cannot be read ({error}): build the function again") from error


def watcher_environment(
    spec: FunctionSpec, manifest: BundleManifest, *, replica: str, listen: str, source: str, log_file: str = ""
) -> dict[str, str]:
    """The variables of one replica's watcher.

    Args:
        listen: a gRPC address, `unix:/path` or `host:port`.
        source: absolute path of the bundle's src/.
        log_file: where the watcher also writes the function's output, size-bounded; "" for nowhere.
    """
    return replica_environment(spec, replica=replica, listen=listen, log_file=log_file) | {
        "DCF_RUNTIME": manifest.runtime,
        "DCF_WORKER_COMMAND": json.dumps(manifest.command),
        "DCF_SOURCE": source,
        "DCF_HANDLER_FILE": manifest.handler_file,
        "DCF_HANDLER_NAME": manifest.handler_name,
    }
