"""What is on disk of a replica: its record and its log.

`<state>/replicas/<replica>/` holds replica.json, log (by the watcher) and
stderr. The folders of failed replicas move to `<state>/replicas/.failed/`,
and the newest KEEP_FAILED of them stay for people to look at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcf.domain.names import ReplicaName
from dcf.scheduler.backends.contract import ObservedReplica
from dcf.scheduler.backends.log_lines import LogTail, read_lines

RECORD = "replica.json"
LOG = "log"
STDERR = "stderr"
FAILED = ".failed"
KEEP_FAILED = 20
TAIL_BYTES = 64 * 1024
"""Read from a log's end: enough for 20 long lines, little enough to never block."""
UNFINISHED_AFTER_S = 60.0
"""A folder with no record belongs to a start under way, which takes milliseconds, or to one that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """replica.json: enough for the next scheduler to adopt the replica."""

    name: str
    function: str
    uid: str
    generation: int
    digest: str
    ordinal: int
    address: str
    started_at: float
    grace_s: float
    pid: int
    identity: str
    """From `read_identity`."""
    kill_at: float | None = None
    """Set once it was told to drain: when its grace ends."""
    gpus: tuple[str, ...] = ()
    """Ids of the devices that are its own."""

    def observed(self, *, adopted: bool) -> ObservedReplica:
        """As the control loop sees it."""
        return ObservedReplica(
            name=ReplicaName(self.name),
            function=self.function,
            uid=self.uid,
            generation=self.generation,
            digest=self.digest,
            ordinal=self.ordinal,
            address=self.address,
            started_at=self.started_at,
            grace_s=self.grace_s,
            stopping=self.kill_at is not None,
            adopted=adopted,
            gpus=self.gpus,
        )


def read_record(folder: Path) -> ReplicaRecord | None:
    """None where there is none that can be read."""
    try:
        data: dict[str, Any] = json.loads((folder / RECORD).read_text())
        names = {field.name for field in dataclasses.fields(ReplicaRecord)}
        known = {key: value for key, value in data.items() if key in names}
        return ReplicaRecord(**known | {"gpus": tuple(known.get("gpus", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_record(folder: Path, record: ReplicaRecord) -> None:
    """Replace replica.json whole: a reader never sees half of it."""
    new = folder / f"{RECORD}.new"
    new.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n")
    new.replace(folder / RECORD)


@contextlib.contextmanager
def lock_folder(replicas: Path) -> Iterator[None]:
    """One start at a time, also between a scheduler and one that does not know yet that it was deposed."""
    descriptor = os.open(replicas / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def list_folders(replicas: Path) -> list[Path]:
    """The folders of all replicas, dead ones too."""
    try:
        return sorted(entry for entry in replicas.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return []


def is_unfinished_for_long(folder: Path) -> bool:
    """Whether a folder without a record is a leftover and not a start under way."""
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime > UNFINISHED_AFTER_S
    return False


def clear_away(folder: Path, *, failed: bool, keep: int = KEEP_FAILED) -> None:
    """Remove a dead replica's folder; a failed one's is kept for a while."""
    if failed:
        shelf = folder.parent / FAILED
        with contextlib.suppress(OSError):
            shelf.mkdir(mode=0o700, exist_ok=True)
            folder.rename(shelf / f"{folder.name}.{time.time_ns() // 1_000_000}")
            newest_last = sorted(shelf.iterdir(), key=lambda old: int(old.name.rpartition(".")[2]))
            for old in newest_last[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def read_tail(folder: Path) -> LogTail:
    """What is left to read; a missing file is an empty one."""
    return read_lines(_last_lines(folder / LOG), _last_lines(folder / STDERR))


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.removesuffix("\n").split("\n") if text else []
    # The first line of a cut is most likely half of one.
    return lines[1:] if size > TAIL_BYTES else lines
