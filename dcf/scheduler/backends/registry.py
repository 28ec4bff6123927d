"""Which backends there are, by the name that `DCF_BACKEND` gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from dcf.scheduler.backends.contract import Backend
from dcf.scheduler.backends.process import open_process_backend

NAMES = ("process",)


def open_backend(
    name: str, *, state: Path, bundles: Path, environ: Mapping[str, str], on_change: Callable[[], None]
) -> AbstractAsyncContextManager[Backend]:
    """The backend called `name`, one of NAMES; `on_change` is called when a replica ended."""
    if name == "process":
        return open_process_backend(state=state, bundles=bundles, environ=environ, on_change=on_change)
    raise ValueError(f"no backend is called {name!r}")
