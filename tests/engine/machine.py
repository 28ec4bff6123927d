"""A pretend machine: a Docker engine in namespaces of its own.

In:   a name, whether it has a network of its own, the flags of its engine.
Out:  a running dockerd behind a socket in a folder, killed without a trace, containers included. It accepts
      requests for GPUs, by a stub of NVIDIA's hook; which GPUs it has is for the flags to say.

Its processes share one PID namespace, so that the death of its first process (`init`) is the death of
dockerd, containerd, the shims and every container, whatever state they are in; their mounts go with the
mount namespace, and a network namespace takes its half of the veth along. init dies with the test run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import docker

from tests.conftest import SESSION_PIDS
from tests.engine.commands import FOLDER, end_of, missing, run, wait_for

CGROUP = "dcf-engine-tests"
"""Parent of the cgroups of every container here, so that they can be found and removed."""

START_S = 30.0
"""A dockerd answers after 1 to 2 s on an idle machine; several start at once on a busy one."""

MEMORY_BYTES = 6 << 30
"""Free memory from which a disk is a RAM disk: three nodes with an image of ours use 1 to 2 GiB. On a real disk the
kernel writes all that out before the mounts of a dead node are gone: 5 to 30 s, measured."""

# /run is empty as after a boot: no state of a dead engine is read there, and none of ours is left on the host.
# Orphans end up at init, and an init that ignores SIGCHLD has them reaped by the kernel, across exec too.
_INIT = "mount -t tmpfs tmpfs /run && {hostname} trap '' CHLD && exec sleep infinity"


PROGRAMS = ("dockerd", "docker", "unshare", "nsenter", "setpriv", "mount", "ip", "iptables")


def need_machines() -> None:
    """Skip (fail in CI) where no machine can be made."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0 or lacking:
        missing(f"an engine in namespaces of its own needs root, and on PATH {', '.join(lacking or PROGRAMS)}")


class Machine:
    """One machine; made stopped. Touched by one thread only: init dies with the thread that started it.

    One with its own network is a small one: its disk is a RAM disk where there is room.
    """

    def __init__(self, name: str, *, own_network: bool, flags: Sequence[str] = ()) -> None:
        self.name = name
        self.folder = FOLDER / name
        self.url = f"unix://{self.folder}/docker.sock"
        self._own_network = own_network
        self._flags = tuple(flags)
        self._init: subprocess.Popen[bytes] | None = None
        self._engine: subprocess.Popen[bytes] | None = None
        self._client: docker.DockerClient | None = None

    @property
    def client(self) -> docker.DockerClient:
        """One client of this engine; for one thread."""
        if self._client is None:
            self._client = docker.DockerClient(base_url=self.url, timeout=60)
        return self._client

    @property
    def is_on(self) -> bool:
        return self._init is not None

    @property
    def has_engine(self) -> bool:
        return self._engine is not None

    @property
    def pid(self) -> int:
        """The first process inside, as the host counts."""
        assert self._init is not None, f"{self.name} is off"
        return int(_children(self._init.pid)[0])

    def power_on(self) -> None:
        """Make the namespaces; no engine runs yet."""
        if not self.folder.exists():
            self._put_in_disk()
        namespaces = ["--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]
        hostname = ""
        if self._own_network:
            namespaces += ["--net", "--uts"]
            hostname = f"hostname {self.name} && ip link set lo up &&"
        init = _INIT.format(hostname=hostname)
        with self._log.open("ab") as log:
            self._init = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", init],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the run, which then stops us in order
            )
        SESSION_PIDS.add(self._init.pid)
        wait_for(self._has_booted, within_s=START_S, what=f"namespaces of {self.name}", said=lambda: end_of(self._log))

    def start_engine(self) -> None:
        """Start dockerd and return at once; `wait_for_engine` waits."""
        (self.folder / "docker.sock").unlink(missing_ok=True)
        command = [
            "dockerd",
            *("--host", self.url),
            # Where containers that are given the engine's socket look for it; /run is this machine's own.
            *("--host", "unix:///run/docker.sock"),
            *("--data-root", str(self.folder / "data")),
            *("--pidfile", "/run/dcf-dockerd.pid"),
            # Where systemd runs, dockerd would ask it for slices, which our parent is not.
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{CGROUP}/{self.name}"),
            # The machine's own daemon.json is not ours.
            *("--config-file", str(self.folder / "daemon.json")),
            *self._flags,
        ]
        (self.folder / "daemon.json").write_text("{}")
        path = f"{self._gpu_hook()}:{os.environ['PATH']}:/usr/sbin:/sbin"
        with self._log.open("ab") as log:
            self._engine = subprocess.Popen(
                [*self.enter("--pid", "--mount", "--uts", "--net"), *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )
        SESSION_PIDS.add(self._engine.pid)

    def wait_for_engine(self) -> None:
        """Return when dockerd answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of its log.
        """
        wait_for(self._answers, within_s=START_S, what=f"dockerd of {self.name}", said=lambda: end_of(self._log))

    def kill_engine(self) -> None:
        """Kill dockerd only; its containers live on, as they do on a real machine."""
        assert self._engine is not None, f"{self.name} has no engine"
        for child in _children(self._engine.pid):
            os.kill(int(child), 9)
        self._engine.wait()
        self._engine = None
        self._close_client()

    def power_off(self) -> None:
        """Kill everything inside at once; what is on its disk stays."""
        self._close_client()
        if self._init is not None:
            for child in _children(self._init.pid):
                os.kill(int(child), 9)
            self._init.wait()
            self._init = None
        if self._engine is not None:
            self._engine.kill()
            self._engine.wait()
            self._engine = None

    def remove(self) -> None:
        """Power off, and take the disk away."""
        self.power_off()
        if self.folder.is_mount():
            run("umount", str(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def enter(self, *namespaces: str) -> list[str]:
        """The words before a command that is to run inside; `namespaces` as nsenter names them."""
        return ["nsenter", "--target", str(self.pid), *namespaces, "--"]

    def run(self, *command: str, within_s: float = 60.0) -> str:
        """Run a command of the host in this machine's network, and return what it wrote."""
        return run(*self.enter("--net"), *command, within_s=within_s)

    @property
    def _log(self) -> Path:
        return self.folder / "dockerd.log"

    def _put_in_disk(self) -> None:
        self.folder.mkdir(parents=True)
        if self._own_network and _free_memory_bytes() > MEMORY_BYTES:
            run("mount", "-t", "tmpfs", self.name, str(self.folder))

    def _gpu_hook(self) -> Path:
        """A folder with a stub of NVIDIA's hook: an engine that finds it on its PATH accepts requests for GPUs."""
        folder = self.folder / "hook"
        folder.mkdir(exist_ok=True)
        hook = folder / "nvidia-container-runtime-hook"
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
        return folder

    def _has_booted(self) -> bool:
        assert self._init is not None
        if self._init.poll() is not None:
            raise RuntimeError(f"namespaces of {self.name}: unshare ended {end_of(self._log)}")
        children = _children(self._init.pid)
        return bool(children) and Path(f"/proc/{children[0]}/comm").read_text().strip() == "sleep"

    def _answers(self) -> bool:
        assert self._engine is not None
        if self._engine.poll() is not None:
            raise RuntimeError(f"dockerd of {self.name} ended {end_of(self._log)}")
        return somebody_listens(self.url) and bool(self.client.ping())

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def somebody_listens(url: str) -> bool:
    """Whether a connection to an engine's Unix socket is taken; the SDK leaks a socket where it is not."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(url.removeprefix("unix://")) == 0


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _free_memory_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
