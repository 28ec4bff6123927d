"""Fetch images that an engine has not, while everything else goes on.

In:   an image reference, and the login that its registry wants.
Out:  how far it is, and why it failed; `on_change` when one is done.
Each pull has a thread and a client of its own: it may take minutes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dcf.errors import BackendError, ImageNotFoundError
from dcf.scheduler.backends.docker_engine import open_api, translated_errors

AT_ONCE = 2
"""Pulls that run side by side: more would only share the same line."""


@dataclass(slots=True)
class _Pull:
    done: asyncio.Future[None]
    progress: str = "it has just begun"


class ImageFetcher:
    """Touched only by the event loop of the scheduler; `_pull` runs in its threads."""

    def __init__(self, environ: Mapping[str, str], on_change: Callable[[], None]) -> None:
        self._environ = environ
        self._on_change = on_change
        self._turn = threading.Semaphore(AT_ONCE)
        self._pulls: dict[str, _Pull] = {}
        self._closing = False

    def fetch(self, image: str, registry_auth: str) -> str:
        """Begin to fetch `image`, or go on; how far it is.

        Raises:
            ImageNotFoundError: the pull has failed; the next call begins another.
        """
        pull = self._pulls.get(image)
        if pull is None:
            loop = asyncio.get_running_loop()
            pull = self._pulls[image] = _Pull(loop.create_future())
            # Of its own and not waited for at the end: a registry that stalls would keep the scheduler from ending.
            arguments = (loop, image, registry_auth, pull)
            threading.Thread(target=self._pull, args=arguments, name="docker_pull", daemon=True).start()
        if pull.done.done():
            del self._pulls[image]
            pull.done.result()
        return pull.progress

    def close(self) -> None:
        """End; a pull that runs is let go of at its next word, and the engine goes on with it or not."""
        self._closing = True
        for pull in self._pulls.values():
            if pull.done.done():
                pull.done.exception()

    def _pull(self, loop: asyncio.AbstractEventLoop, image: str, registry_auth: str, pull: _Pull) -> None:
        error: BackendError | None = None
        try:
            with self._turn, translated_errors():
                self._run(image, registry_auth, pull)
        except BackendError as failure:
            error = ImageNotFoundError(f"image {image} could not be fetched: {failure}")
        except Exception as failure:  # a bug, or words of the engine that we do not know: never a pull that hangs
            error = ImageNotFoundError(f"image {image} could not be fetched: {failure!r}")
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._settle, pull, error)

    def _run(self, image: str, registry_auth: str, pull: _Pull) -> None:
        if self._closing:
            return
        auth = json.loads(base64.urlsafe_b64decode(registry_auth)) if registry_auth else None
        api = open_api(self._environ)
        try:
            layers: dict[str, tuple[int, int]] = {}
            for word in api.pull(image, stream=True, decode=True, auth_config=auth):
                if self._closing:
                    return
                if "error" in word:
                    raise ImageNotFoundError(str(word["error"]))
                detail = word.get("progressDetail") or {}
                if detail.get("total"):
                    layers[word.get("id", "")] = (detail.get("current", 0), detail["total"])
                    got, total = map(sum, zip(*layers.values(), strict=True))
                    pull.progress = f"{got / 1e6:.0f} of {total / 1e6:.0f} MB"
        finally:
            api.close()

    def _settle(self, pull: _Pull, error: BackendError | None) -> None:
        if error is None:
            pull.done.set_result(None)
        else:
            pull.done.set_exception(error)
        self._on_change()
