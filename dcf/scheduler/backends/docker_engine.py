"""One Docker engine behind one door: its SDK client in its own thread, its errors in our words.

In:   work for the client, as functions of it.
Out:  their results; a BackendError for whatever went wrong. `on_change` when
      the engine says that something of our cluster changed.
The client is not safe across threads, so each has its own: one for the work,
one that listens to events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import docker
import docker.errors
import requests.exceptions
import urllib3.exceptions

from dcf.errors import (
    BackendConflictError,
    BackendError,
    BackendUnavailableError,
    ImageNotFoundError,
)
from dcf.sockets import why_refused

log = logging.getLogger(__name__)

T = TypeVar("T")
Api = Any
"""The SDK's low-level client, docker.APIClient; what is said of its types is wrong in too many places."""
Work = Callable[[Api], T]

ANSWER_S = 30
"""For one request: a container's start on a busy machine takes seconds, a pull is not done through here."""

DEFAULT_HOST = "unix:///var/run/docker.sock"

RECONNECT_S = (0.2, 5.0)
"""First and longest wait before the events are listened to again."""
GOODBYE_S = 2.0
"""For the thread that listens, at the end."""

_NO_IMAGE = re.compile(r"no such image|manifest|pull access denied|repository .* not found", re.I)
_NO_GPU_DRIVER = re.compile(r"could not select device driver .*gpu", re.S)


class DockerEngine:
    """Touched only by the event loop of the scheduler; `_listen` runs in its own thread."""

    def __init__(self, environ: Mapping[str, str], *, answer_s: int = ANSWER_S) -> None:
        self._environ = dict(environ)
        self._answer_s = answer_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="docker_engine")
        self._api: Api | None = None

    async def run(self, work: Work[T]) -> T:
        """What `work` returns. Raises BackendError and its kinds."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def run_later(self, work: Work[object]) -> None:
        """Do `work` when its turn comes; for what nobody waits for."""
        self._executor.submit(self._run, work)

    def _run(self, work: Work[T]) -> T:
        with translated_errors():
            if self._api is None:
                self._api = open_api(self._environ, answer_s=self._answer_s)
            return work(self._api)

    def close(self) -> None:
        """Let go of the engine; what runs on it lives on."""
        self._executor.shutdown()
        if self._api is not None:
            self._api.close()

    @asynccontextmanager
    async def listening(self, filters: Mapping[str, object], on_change: Callable[[], None]) -> AsyncIterator[None]:
        """Call `on_change`, on the event loop, for each event that passes `filters`, while the block runs."""
        loop = asyncio.get_running_loop()
        listener = _Listener(self._environ, filters, lambda: _call_soon(loop, on_change))
        thread = threading.Thread(target=listener.run, name="docker_events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.stop()
            await asyncio.to_thread(thread.join, GOODBYE_S)  # it may wait for an engine that does not answer


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested any more
        loop.call_soon_threadsafe(callback)


class _Listener:
    """Reads the engine's events. `run` in its own thread, `stop` from any."""

    def __init__(self, environ: Mapping[str, str], filters: Mapping[str, object], on_event: Callable[[], None]) -> None:
        self._environ = environ
        self._filters = dict(filters)
        self._on_event = on_event
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None

    def run(self) -> None:
        wait_s = RECONNECT_S[0]
        while not self._stopped.is_set():
            # Whatever it is: events are hints, and a thread that ended would give none any more. (The SDK raises an
            # AttributeError where its stream is closed under it.)
            with contextlib.suppress(Exception):
                api = open_api(self._environ)
                # No limit on the time of a read: events may be hours apart.
                api.timeout = None
                with contextlib.closing(api):
                    stream = api.events(decode=True, filters=self._filters)
                    with self._lock:
                        if self._stopped.is_set():
                            stream.close()
                            return
                        self._stream = stream
                    wait_s = RECONNECT_S[0]
                    self._on_event()  # anything may have happened while nobody listened
                    for _ in stream:
                        self._on_event()
            self._stopped.wait(wait_s)
            wait_s = min(RECONNECT_S[1], wait_s * 2)

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._stream is not None:
                with contextlib.suppress(Exception):
                    self._stream.close()


def open_api(environ: Mapping[str, str], *, answer_s: int = ANSWER_S) -> Api:
    """A client of the engine that `environ` names (DOCKER_HOST), else of this machine's.

    Raises:
        BackendUnavailableError: none answers.
    """
    host = environ.get("DOCKER_HOST") or DEFAULT_HOST
    if host.startswith("unix://") and (error := why_refused(host.removeprefix("unix://"))) is not None:
        raise _unavailable(f"{host}: {error.strerror}")
    return docker.from_env(environment=dict(environ), timeout=answer_s).api


@contextlib.contextmanager
def translated_errors() -> Any:
    """Errors of the SDK in the block become BackendErrors."""
    try:
        yield
    except docker.errors.APIError as error:
        raise_as_ours(error)
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise _unavailable(_short(error)) from error


def _unavailable(why: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the Docker engine does not answer ({why}): is it running, and may this user use its socket? "
        "`dcf doctor` looks"
    )


def raise_as_ours(error: docker.errors.APIError) -> NoReturn:
    """Raise the BackendError that says the same."""
    text = str(error.explanation or error)
    status = error.status_code
    if _NO_GPU_DRIVER.search(text):
        raise BackendError(
            "this engine cannot give out GPUs: NVIDIA's container toolkit is not installed, or the engine was not "
            "restarted since; install nvidia-container-toolkit, restart the engine, then `dcf doctor`"
        ) from error
    if "update out of sequence" in text:
        raise BackendConflictError(text) from error
    if isinstance(error, docker.errors.ImageNotFound) or (status == 404 and _NO_IMAGE.search(text)):
        raise ImageNotFoundError(text) from error
    if status is not None and status >= 500 and "is not a swarm manager" not in text and _is_passing(text):
        raise BackendUnavailableError(f"the Docker engine failed: {text}") from error
    raise BackendError(text) from error


def _is_passing(text: str) -> bool:
    """Whether a failure of the engine is one of the engine and not of what it was asked."""
    return any(word in text for word in ("context deadline exceeded", "context canceled", "has no leader", "try again"))


def _short(error: BaseException) -> str:
    """The innermost reason: requests wraps it four times."""
    found = re.findall(r"\[Errno \d+\] ([\w ]+)|([\w ]+)'?\)*$", str(error))
    words = [part.strip() for pair in found for part in pair if part.strip()]
    return words[0] if words else type(error).__name__
