"""What the tests tell the worker at its start, and its handler in the input of a call.

Out:  HELLO's keys, commands for the handler under test (README.md), the bytes that it makes.
Pure: data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcf.rpc.frames import PROTOCOL


def command(do: str, **more: Any) -> bytes:
    """An input that tells the handler under test what to do."""
    return json.dumps({"do": do, **more}).encode()


def pattern(size: int) -> bytes:
    """What the handler under test answers where it is asked for so many bytes."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def hello_of(*, source: Path, file: str, handler: str, **more: Any) -> dict[str, Any]:
    """What the watcher says first; `more` changes or adds keys."""
    hello = {
        "protocol": PROTOCOL, "function": "conformance", "replica": "conformance-g1-0", "source": str(source),
        "handler_file": file, "handler_name": handler, "slots": 1, "batch_max_size": 0,
        "max_payload_bytes": 64 * 1024 * 1024, "debug": False,
    }  # fmt: skip
    return hello | more
