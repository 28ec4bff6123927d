"""`dcf doctor`: what is missing for a cluster on this machine, and how to mend it. `dcf up` looks first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dcf.cli.output import Form, OutputOption, Progress, write, write_json, write_table
from dcf.errors import ConfigError

if TYPE_CHECKING:
    from dcf.cluster.doctor import Check

DEFAULT_LISTEN = "127.0.0.1:32222"


class Backend(StrEnum):
    """What `--backend` may say."""

    PROCESS = "process"
    DOCKER = "docker"
    SWARM = "swarm"


BackendOption = Annotated[
    Backend | None,
    typer.Option("--backend", help="What runs functions: processes (default), one Docker engine, or a Swarm."),
]


def doctor(
    backend: BackendOption = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where the gateway shall listen.")
    ] = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Check what a cluster needs of this machine; status 1 where something is missing.

    \b
    Example:
      dcf doctor
      dcf doctor --backend swarm
    """
    progress = Progress()
    progress.show("looking ...")
    try:
        checks = examine(backend, listen)
    finally:
        progress.clear()
    if output is Form.JSON:
        keys = ("name", "state", "found", "mend", "backend")
        write_json([{key: str(getattr(check, key)) for key in keys} for check in checks])
    else:
        write_table(("CHECK", "STATE", "FOUND"), [(check.name, check.state, check.found) for check in checks])
        _write_mends(checks)
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(1)


def examine(backend: Backend | None, listen: str | None) -> list[Check]:
    """All checks, with what functions are built by where they run as processes."""
    from dcf.cli.cluster import running_address
    from dcf.cluster.doctor import examine

    name = backend.value if backend else None
    checks = examine(name, os.environ, listen=listen or _default_listen(backend), own_address=running_address())
    return [*checks, _interpreters(), *_toolchains()] if name in {"process", None} else checks


def refuse_unless_ready(backend: Backend, environ: Mapping[str, str]) -> None:
    """Raise ConfigError with the first thing that is missing. The port is left to whoever takes it."""
    from dcf.cluster.doctor import examine, first_missing
    from dcf.cluster.doctor_host import PORT

    checks = examine(backend.value, environ, listen="127.0.0.1:0", gpus=False)
    lacking = first_missing([check for check in checks if check.name != PORT])
    if lacking:
        more = f"; `dcf doctor --backend {backend.value}` shows all"
        raise ConfigError(f"{lacking.name}: {lacking.found}: {lacking.mend}{more}")


def _default_listen(backend: Backend | None) -> str:
    listen = os.environ.get("DCF_LISTEN", DEFAULT_LISTEN)
    # Ports of a Swarm in host mode are open at every address.
    return f"0.0.0.0:{listen.rpartition(':')[2]}" if backend is Backend.SWARM else listen


def _interpreters() -> Check:
    from dcf.build.interpreters import list_interpreters
    from dcf.cluster.doctor import ok, warning

    found = list_interpreters()
    text = ", ".join(f"{one.version_text}" for one in found)
    usable = [one for one in found if one.has_pip]
    if not usable:
        mend = "install one with its venv module (Debian, Ubuntu: apt-get install python3-venv)"
        return warning("pythons for functions", text or "none", mend, backend="process")
    return ok("pythons for functions", text, backend="process")


def _toolchains() -> list[Check]:
    """Of Go and Node.js, which nobody needs who has no function in them."""
    from dcf.build.runtimes import list_runtimes
    from dcf.build.toolchains import version_here
    from dcf.cluster.doctor import ok

    found = [(list_runtimes()[name].title, version_here(name)) for name in ("go", "node")]
    return [ok(f"{title} for functions", here or "none", backend="process") for title, here in found]


def _write_mends(checks: Sequence[Check]) -> None:
    told = [check for check in checks if check.mend]
    if not told:
        return
    write("")
    write("To mend:")
    for check in told:
        write(f"  {check.name}: {check.mend}")


def add_to(app: typer.Typer) -> None:
    """The verbs of this file."""
    app.command("doctor")(doctor)
