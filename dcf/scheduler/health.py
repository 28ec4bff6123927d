"""What the scheduler says about itself: that it is ready."""

from __future__ import annotations

import contextlib
import os


def tell_ready(ready_fd: int | None) -> None:
    """Write one byte for the supervisor; without one nothing happens."""
    if ready_fd is None:
        return
    with contextlib.suppress(OSError):  # a supervisor that no longer listens is no reason to stop
        os.write(ready_fd, b"1")
    with contextlib.suppress(OSError):
        os.close(ready_fd)


def keep_from_children(ready_fd: int | None) -> None:
    """Make the fd ours alone: a replica that held it open would outlive the pipe's meaning."""
    if ready_fd is not None:
        with contextlib.suppress(OSError):
            os.set_inheritable(ready_fd, False)
