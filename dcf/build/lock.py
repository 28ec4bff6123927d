"""One build of the same thing at a time, between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path, *, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock `file` for the block; made where it is missing, and never removed.

    Yields its descriptor. A program that inherits it holds the lock on: what
    pip still writes when its dcf was killed is waited for, not raced with.

    Args:
        on_wait: called once if another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
