"""What bundles share: a folder under a name that is its digest, made once, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from dcf.build.lock import locked
from dcf.build.steps import OnOutput

_UNFINISHED = ".unfinished-"


def ensure_shared(folder: Path, what: str, make: Callable[[Path, int], None], *, on_output: OnOutput) -> None:
    """Have `folder`, whose content may be moved: `make` fills another, which is then renamed.

    Args:
        what: it is, for people: "the packages of package.json".
        make: is given that folder, and the lock's descriptor for its programs to inherit: what they still write
            when this dcf was killed is waited for.

    Raises:
        BuildError: `make`'s; nothing is left of it.
    """
    if folder.is_dir():
        return

    def on_wait() -> None:
        on_output(f"==> waiting for another build of {what}")

    with locked(folder.with_suffix(".lock"), on_wait=on_wait) as lock:
        if folder.is_dir():
            return
        prefix = f"{_UNFINISHED}{folder.name}-"
        for leftover in folder.parent.glob(f"{prefix}*"):  # of builds that were killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as unfinished:
            made = Path(unfinished) / "made"
            made.mkdir()
            make(made, lock)
            made.rename(folder)
