"""Serverless for AI models on plain Docker: the package and its client.

`from dcf import Client, AsyncClient` is what programs import; everything
else is the inside of the `dcf` command and of the processes that it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]

if TYPE_CHECKING:
    from dcf.client import AsyncClient, Client


def __getattr__(name: str) -> Any:
    # Lazy: a watcher that imports dcf.rpc must not pay for the client.
    if name in {"AsyncClient", "Client"}:
        from dcf import client

        return getattr(client, name)
    raise AttributeError(f"module 'dcf' has no attribute {name!r}")
