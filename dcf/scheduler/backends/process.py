"""Replicas as processes of this machine: one watcher each, no container.

In:   plans; bundles in `<bundles>`, folders and records in `<state>/replicas`.
Out:  `python -m dcf.watcher` processes that outlive the scheduler and are
      adopted by the next one. Each has its GPUs for itself, as CUDA_VISIBLE_DEVICES
      says; limits of memory and CPU are not enforced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from dcf.domain.bundle import MANIFEST, SOURCE, BundleManifest, manifest_from_json, watcher_environment
from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.names import ReplicaName, parse_bundle_reference
from dcf.domain.status import NodeStatus
from dcf.errors import BackendError, ConfigError, ImageNotFoundError
from dcf.nvidia import list_gpus
from dcf.scheduler.backends import replica_folder
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaExit, ReplicaPlan
from dcf.scheduler.backends.gpu_ledger import choose_gpus
from dcf.scheduler.backends.gpu_source import MachineGpus
from dcf.scheduler.backends.log_lines import LogTail
from dcf.scheduler.backends.process_handle import ProcessHandle, read_identity
from dcf.scheduler.backends.replica_folder import ReplicaRecord
from dcf.sockets import socket_path

P = ParamSpec("P")
T = TypeVar("T")

PASSED_ON = frozenset(
    (  # noqa: SIM905 - a list of 26 quoted names says no more
        "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR XDG_RUNTIME_DIR LD_LIBRARY_PATH "
        "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
        "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy "
        "CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES"
    ).split()
)
"""Of the scheduler's own environment; with every LC_*. The rest is the user's shell and no business of a function."""

POLL_S = 0.2
"""Between two looks at processes without a pidfd (an old kernel, or no Linux)."""

# The process waits for a word before it becomes the watcher: a scheduler that is killed between the start and
# the record would otherwise leave a replica that nobody knows of. `read` fails when the pipe closes.
_GATE = 'read -r go && exec "$@" </dev/null'

# -P: the working folder is the user's; a file of theirs called grpc.py must not become ours.
_WATCHER = (sys.executable, "-P", "-m", "dcf.watcher")


@dataclass(slots=True)
class _Replica:
    """Touched only by the event loop of the scheduler."""

    record: ReplicaRecord
    handle: ProcessHandle
    adopted: bool
    kill_timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    replica: _Replica
    code: int | None


class ProcessBackend:
    """The Backend of this machine. Touched only by the event loop of the scheduler."""

    def __init__(
        self, *, state: Path, bundles: Path, gpus: str, environ: Mapping[str, str], on_change: Callable[[], None]
    ) -> None:
        self._state = state
        self._replicas_folder = state / "replicas"
        self._bundles = bundles
        self._environ = {key: text for key, text in environ.items() if key in PASSED_ON or key.startswith("LC_")}
        ask = partial(list_gpus, path=environ.get("PATH"))
        self._gpus = MachineGpus(gpus, visible=environ.get("CUDA_VISIBLE_DEVICES"), ask=ask)
        self._on_change = on_change
        # One thread: folders and records are changed by one start or clean-up at a time.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="process_backend")
        self._replicas: dict[str, _Replica] = {}
        self._ended: list[_Ended] = []
        self._poll_timer: asyncio.TimerHandle | None = None

    async def observe(self) -> list[ObservedReplica]:
        """Adopts what is not known yet, clears away what died while nobody looked."""
        # A known one may be dead in the kernel and not yet here: it still has its last words to say.
        ours = frozenset(self._replicas) | {ended.replica.record.name for ended in self._ended}
        for record in await self._in_thread(self._scan, ours):
            known = self._replicas.get(record.name)
            if known is None:
                self._keep(record, adopted=True)
            elif known.record.kill_at is None and record.kill_at is not None:
                # Another scheduler, which led for a while, has begun to stop it.
                known.record = record
                self._set_kill_timer(known)
        return [replica.record.observed(adopted=replica.adopted) for replica in self._replicas.values()]

    async def start(self, plan: ReplicaPlan) -> ObservedReplica:
        """Milliseconds; the watcher loads its handler on its own time."""
        if plan.name not in self._replicas:
            record, adopted = await self._in_thread(self._spawn, plan)
            self._keep(record, adopted=adopted)
            return record.observed(adopted=adopted)
        replica = self._replicas[plan.name]
        return replica.record.observed(adopted=replica.adopted)

    async def stop(self, name: ReplicaName, *, grace_s: float) -> None:
        """SIGTERM now, SIGKILL to the whole group later; the record says so, for the next scheduler."""
        replica = self._replicas.get(name)
        if replica is None:
            return
        kill_at = time.time() + grace_s
        if replica.record.kill_at is not None and replica.record.kill_at <= kill_at:
            return
        was_asked = replica.record.kill_at is not None
        replica.record = replace(replica.record, kill_at=kill_at)
        self._set_kill_timer(replica)
        with contextlib.suppress(OSError):  # a full disk must not keep a replica alive
            await self._in_thread(replica_folder.write_record, self._replicas_folder / name, replica.record)
        if not was_asked:
            replica.handle.terminate()

    async def take_exits(self) -> list[ReplicaExit]:
        """Clears the folders away; called by the acting scheduler alone."""
        ended, self._ended = self._ended, []
        exits = [await self._in_thread(self._bury, one) for one in ended]
        return [exit_ for exit_ in exits if exit_ is not None]

    async def log_tail(self, name: ReplicaName) -> tuple[str, ...]:
        """From the watcher's log file."""
        tail = await self._in_thread(replica_folder.read_tail, self._replicas_folder / name)
        return tail.lines

    async def nodes(self) -> list[NodeStatus]:
        """This machine; its CPUs and memory are given to nobody."""
        inventory = await self._in_thread(self._gpus.inventory, now=time.monotonic(), again=False)
        return [
            NodeStatus(
                name=socket.gethostname(),
                ready=True,
                cpus=float(os.cpu_count() or 0),
                memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                gpus=inventory.ids,
                gpus_used=tuple(sorted(gpu for replica in self._replicas.values() for gpu in replica.record.gpus)),
                replicas=len(self._replicas),
            )
        ]

    async def stop_all(self, *, grace_s: float) -> int:
        """Also what an earlier scheduler left."""
        names = [replica.name for replica in await self.observe()]
        for name in names:
            await self.stop(name, grace_s=grace_s)
        deadline = asyncio.get_running_loop().time() + grace_s + 5.0
        while self._replicas and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)  # a one-shot at the end of a cluster: nothing else waits for this loop
        await self.take_exits()
        return len(names)

    def close(self) -> None:
        """Let go of everything; the replicas live on."""
        for replica in self._replicas.values():
            self._let_go(replica)
        self._replicas.clear()
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        self._executor.shutdown()

    # --- the life of one replica, on the event loop

    def _keep(self, record: ReplicaRecord, *, adopted: bool) -> None:
        handle = ProcessHandle.open(record.pid, record.identity)
        if handle is None:  # it ended within the moment since its record was read
            handle = ProcessHandle(record.pid, None, record.identity)
            self._ended.append(_Ended(_Replica(record, handle, adopted), handle.reap()))
            self._on_change()
            return
        replica = _Replica(record, handle, adopted)
        self._replicas[record.name] = replica
        if record.kill_at is not None:
            # The scheduler that began this stop may have been killed before its signal.
            handle.terminate()
            self._set_kill_timer(replica)
        if handle.pidfd is not None:
            asyncio.get_running_loop().add_reader(handle.pidfd, self._on_exit, record.name)
        else:
            self._poll()

    def _on_exit(self, name: str) -> None:
        replica = self._replicas.pop(name)
        # Before it is reaped: until then its pid, and so its group, is nobody else's.
        replica.handle.kill_group()
        code = replica.handle.reap()
        self._let_go(replica)
        self._ended.append(_Ended(replica, code))
        self._on_change()

    def _let_go(self, replica: _Replica) -> None:
        if replica.kill_timer is not None:
            replica.kill_timer.cancel()
        if replica.handle.pidfd is not None:
            asyncio.get_running_loop().remove_reader(replica.handle.pidfd)
        replica.handle.close()

    def _set_kill_timer(self, replica: _Replica) -> None:
        if replica.kill_timer is not None:
            replica.kill_timer.cancel()
        left_s = max(0.0, (replica.record.kill_at or 0.0) - time.time())
        if left_s == 0:
            replica.handle.kill_group()
        else:
            replica.kill_timer = asyncio.get_running_loop().call_later(left_s, replica.handle.kill_group)

    def _poll(self) -> None:
        without = [name for name, replica in self._replicas.items() if replica.handle.pidfd is None]
        for name in without:
            if not self._replicas[name].handle.is_alive():
                self._on_exit(name)
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        self._poll_timer = asyncio.get_running_loop().call_later(POLL_S, self._poll) if without else None

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args, **kwargs))

    # --- folders and processes, in the backend's thread

    def _scan(self, ours: frozenset[str]) -> list[ReplicaRecord]:
        """Records of the live replicas; the leftovers of dead ones go, but for `ours`, which are to be buried."""
        alive = []
        for folder in replica_folder.list_folders(self._replicas_folder):
            record = replica_folder.read_record(folder)
            if record is not None and read_identity(record.pid) == record.identity:
                alive.append(record)
            elif folder.name in ours:
                continue
            elif record is not None:
                replica_folder.clear_away(folder, failed=record.kill_at is None)
                self._remove_socket(record)
            elif replica_folder.is_unfinished_for_long(folder):
                replica_folder.clear_away(folder, failed=False)
        return alive

    def _spawn(self, plan: ReplicaPlan) -> tuple[ReplicaRecord, bool]:
        """The record, and whether somebody else had started this very replica already."""
        source, manifest = self._find_bundle(plan.spec)
        folder = self._replicas_folder / plan.name
        try:
            self._replicas_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replica_folder.lock_folder(self._replicas_folder):
                there = replica_folder.read_record(folder)
                if there is not None and read_identity(there.pid) == there.identity:
                    return there, True
                gpus = self._choose_gpus(plan)
                replica_folder.clear_away(folder, failed=False)
                folder.mkdir(mode=0o700)
                return self._spawn_in(folder, plan, source, manifest, gpus), False
        except (OSError, subprocess.SubprocessError, ConfigError) as error:
            raise BackendError(f"replica {plan.name} could not be started: {error}") from error

    def _choose_gpus(self, plan: ReplicaPlan) -> tuple[str, ...]:
        """Free ones, by the records of all live replicas; the folder's lock is held. Raises CapacityError."""
        count = plan.spec.gpu_count
        if not count:
            return ()
        records = map(replica_folder.read_record, replica_folder.list_folders(self._replicas_folder))
        held = {one.name: one.gpus for one in records if one is not None and read_identity(one.pid) == one.identity}
        inventory = self._gpus.inventory(now=time.monotonic())
        return choose_gpus(inventory.ids, held, count, why_none=inventory.problem)

    def _spawn_in(
        self, folder: Path, plan: ReplicaPlan, source: Path, manifest: BundleManifest, gpus: tuple[str, ...]
    ) -> ReplicaRecord:
        address = f"unix:{socket_path(self._state, plan.name + '.' + secrets.token_hex(2) + '.sock')}"
        environ = self._environ | watcher_environment(
            plan.spec,
            manifest,
            replica=plan.name,
            listen=address,
            source=str(source),
            log_file=str(folder / replica_folder.LOG),
        )
        if gpus:
            environ["DCF_GPUS"] = ",".join(gpus)
        with (folder / replica_folder.STDERR).open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *_WATCHER],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=source,
                env=environ,
                start_new_session=True,
                close_fds=True,
            )
        assert process.stdin is not None
        try:
            record = ReplicaRecord(
                name=plan.name,
                function=plan.spec.name,
                uid=plan.spec.uid,
                generation=plan.spec.generation,
                digest=replica_digest(plan.spec),
                ordinal=plan.ordinal,
                address=address,
                started_at=time.time(),
                grace_s=plan.grace_s,
                pid=process.pid,
                identity=read_identity(process.pid) or "",
                gpus=gpus,
            )
            replica_folder.write_record(folder, record)
            process.stdin.write(b"go\n")
            process.stdin.flush()
        except BaseException:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            raise
        process.stdin.close()
        # From here on the handle waits for it. Left alone, Popen would reap it behind our back and lose its status.
        process.returncode = 0
        return record

    def _find_bundle(self, spec: FunctionSpec) -> tuple[Path, BundleManifest]:
        reference = parse_bundle_reference(spec.image)
        if reference is None:
            raise ImageNotFoundError(
                f"image {spec.image!r} is not a bundle, and this cluster runs functions as processes: "
                "run `dcf function build`, then deploy"
            )
        folder = self._bundles.joinpath(*reference)
        try:
            manifest = manifest_from_json((folder / MANIFEST).read_text())
        except OSError:
            raise ImageNotFoundError(
                f"bundle {spec.image} is not in {self._bundles}: run `dcf function build`, then deploy"
            ) from None
        source = (folder / SOURCE).absolute()
        if not source.is_dir():
            raise ImageNotFoundError(
                f"bundle {spec.image} has no {SOURCE} folder: run `dcf function build`, then deploy"
            )
        return source, manifest

    def _bury(self, ended: _Ended) -> ReplicaExit | None:
        """Read the last words, clear away; None where another scheduler has done that."""
        record = ended.replica.record
        folder = self._replicas_folder / record.name
        on_disk = replica_folder.read_record(folder)
        if on_disk is None or on_disk.identity != record.identity:
            return None
        asked = record.kill_at is not None or on_disk.kill_at is not None
        tail = replica_folder.read_tail(folder)
        replica_folder.clear_away(folder, failed=not asked)
        self._remove_socket(record)
        observed = replace(record.observed(adopted=ended.replica.adopted), stopping=asked)
        return ReplicaExit(replica=observed, code=ended.code, cause=_explain(ended.code, tail), log_tail=tail.lines)

    def _remove_socket(self, record: ReplicaRecord) -> None:
        with contextlib.suppress(OSError):
            os.unlink(record.address.removeprefix("unix:"))


def _explain(code: int | None, tail: LogTail) -> str:
    if code is not None and code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    if code == 0:
        return "it ended by itself"
    if tail.said:
        return tail.said
    return "its process is gone" if code is None else f"its watcher ended with exit status {code}"


@asynccontextmanager
async def open_process_backend(
    *, state: Path, bundles: Path, gpus: str, environ: Mapping[str, str], on_change: Callable[[], None]
) -> AsyncIterator[ProcessBackend]:
    """A backend for the block; its replicas live on afterwards."""
    backend = ProcessBackend(state=state, bundles=bundles, gpus=gpus, environ=environ, on_change=on_change)
    try:
        yield backend
    finally:
        backend.close()
