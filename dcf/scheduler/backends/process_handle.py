"""One process that may be somebody else's child: is it alive, end it.

A pid alone is no identity, the kernel gives it out again. Boot id and start
time make it one; a pidfd keeps it one while the handle is open.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path


def read_identity(pid: int) -> str | None:
    """What tells this process from every other that has had or will have its pid; None if it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _ask_ps(pid)
    except (ProcessLookupError, PermissionError):
        return None
    # The second field is the program's name in brackets and may hold anything, so count from its end.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{_boot_id()}/{fields[19]}"


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _ask_ps(pid: int) -> str | None:
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


class ProcessHandle:
    """A live process that leads its own group. Touched only by the event loop of the scheduler."""

    def __init__(self, pid: int, pidfd: int | None, identity: str) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._identity = identity

    @classmethod
    def open(cls, pid: int, identity: str) -> ProcessHandle | None:
        """None where that process is dead, or its pid is another's by now."""
        pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                return None
            except OSError:  # an old kernel, or a sandbox that forbids it: exits are polled
                pidfd = None
        # Looked at after the pidfd is open: from here on it is this process or none.
        if read_identity(pid) != identity:
            if pidfd is not None:
                os.close(pidfd)
            return None
        return cls(pid, pidfd, identity)

    def is_alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        if self.pidfd is None:
            return read_identity(self.pid) == self._identity
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return not poller.poll(0)

    def terminate(self) -> None:
        """SIGTERM to the process alone: its group is its own to stop."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            elif self.is_alive():
                os.kill(self.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """SIGKILL to all of the group; also right after its leader ended, for what that left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Exit status of a child that ended, negative for a signal; None where it is not our child."""
        try:
            if self.pidfd is not None:
                ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
                if ended is None:
                    return None
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if pid else None
        except ChildProcessError:
            return None

    def close(self) -> None:
        """Let go of the pidfd; the process lives on."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
