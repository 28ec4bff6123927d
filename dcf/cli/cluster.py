"""`dcf` up, down, status: a cluster on this machine, or on the Swarm that it manages.

The cluster is a process of its own, `python -m dcf.cluster`: `up` becomes it
or starts it, `down` and `status` find it by its state folder. On a Swarm it is
a stack, and the state folder remembers its name (cluster.stack).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.doctor import Backend, BackendOption, refuse_unless_ready
from dcf.cli.output import Form, OutputOption, Progress, say, write, write_json
from dcf.errors import ConfigError, DcfError

if TYPE_CHECKING:
    from dcf.cluster.stack import StackFacts
    from dcf.cluster.state import ClusterFacts

READY_S = 90.0
"""A big append-only file is read in well under this; a cluster that needs more is stuck."""
STOP_S = 300.0
"""Calls under way are finished first: the longest timeouts that people write fit into it."""

StateOption = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="State folder; else DCF_STATE, else ~/.dcf/state.")
]


def state_folder(option: Path | None) -> Path:
    """The cluster's folder, absolute."""
    from dcf.cluster.state import default_state

    return option.expanduser().absolute() if option else default_state(os.environ)


def up(
    state: StateOption = None,
    backend: BackendOption = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="HTTP and gRPC; default 127.0.0.1:32222.")
    ] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, metavar="N", help="Gateway processes.")] = None,
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="A Redis that is there; default: a private one.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when the gateway is ready.")] = False,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="The token that management calls must bring.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an address that others reach without a token.")
    ] = False,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
) -> None:
    """Start a cluster on this machine: Redis, scheduler, gateway. Ctrl-C stops it, in order.

    Functions run as processes, or as containers of its Docker engine. With --backend swarm the
    cluster is a stack on the Swarm that this machine manages, and up returns when it is ready.

    \b
    Example:
      dcf up
      dcf up --detach --listen 127.0.0.1:8080 --processes 2
      dcf up --backend docker
    """
    folder = state_folder(state)
    if backend is Backend.SWARM:
        unfit = {"--processes": processes, "--redis": redis, "--insecure": insecure or None}
        for option, value in unfit.items():
            if value is not None:
                raise ConfigError(f"{option} does not fit --backend swarm: compose/swarm.yaml says how that cluster is")
        _up_on_swarm(folder, listen, token_file)
        return
    environ = dict(os.environ) | {"DCF_STATE": str(folder)}
    # These are the user's shell's, not the cluster's: it would refuse names that it does not know.
    for name in ("DCF_READY_FD", "DCF_DEBUG"):
        environ.pop(name, None)
    if token_file:
        environ.pop("DCF_TOKEN", None)
    chosen = {
        "DCF_BACKEND": backend.value if backend else None,
        "DCF_LISTEN": listen,
        "DCF_PROCESSES": processes,
        "DCF_REDIS": redis,
        "DCF_TOKEN_FILE": token_file.expanduser().absolute() if token_file else None,
        "DCF_INSECURE": "1" if insecure else None,
        "DCF_LOG_LEVEL": log_level,
    }
    environ |= {name: str(value) for name, value in chosen.items() if value is not None}
    refuse_unless_ready(_backend_of(environ), environ)
    # -P: a folder `dcf` or a file redis.py where the user happens to stand is no part of us.
    command = [sys.executable, "-P", "-m", "dcf.cluster"]
    if not detach:
        sys.stdout.flush()
        os.execve(command[0], command, environ)
    _start_detached(command, environ)
    facts = _running(folder)
    if facts is None:
        raise DcfError(f"the cluster said that it was ready, and has ended since; see {folder}/logs/cluster.log")
    write(f"DCF is ready at http://{facts.address} (pid {facts.pid}, state in {folder})")
    write(f"stop it with: dcf down{f' --state {state}' if state else ''}")


def _backend_of(environ: Mapping[str, str]) -> Backend:
    named = environ.get("DCF_BACKEND", "process")
    # Another word is refused by the cluster itself, with what it may be.
    return Backend.DOCKER if named == "docker" else Backend.PROCESS


def _up_on_swarm(folder: Path, listen: str | None, token_file: Path | None) -> None:
    from dcf.cluster.stack import DEFAULT_PORT, deploy_stack, new_facts

    environ = dict(os.environ)
    if token_file:
        environ.pop("DCF_TOKEN", None)
        environ["DCF_TOKEN_FILE"] = str(token_file.expanduser().absolute())
    refuse_unless_ready(Backend.SWARM, environ)
    port = listen.rpartition(":")[2] if listen else environ.get("GATEWAY_PORT") or str(DEFAULT_PORT)
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--listen {listen}: expected HOST:PORT; on a Swarm the host is every manager")
    facts = new_facts(environ.get("DCF_CLUSTER") or "dcf", int(port), environ)
    deploy_stack(facts, folder, environ, say)
    write(f"DCF is ready at http://{facts.address}, and on every other manager (stack {facts.cluster})")
    write("stop it with: dcf down")


def _start_detached(command: list[str], environ: dict[str, str]) -> None:
    """Start the cluster in a session of its own; return when it is ready. Raises DcfError with its last words."""
    ready, told = os.pipe()
    # A file, not a pipe: nobody reads while we wait, and from its ready on the cluster writes to its own log.
    with tempfile.TemporaryFile() as words, os.fdopen(ready, "rb", buffering=0) as pipe:
        try:
            process = subprocess.Popen(
                command,
                env=environ | {"DCF_READY_FD": str(told)},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                pass_fds=(told,),
            )
        finally:
            os.close(told)
        progress = Progress()
        progress.show("starting the cluster ...")
        try:
            if not select.select([pipe], [], [], READY_S)[0]:
                raise DcfError(_last_words(words, None))
            if pipe.read(1) == b"1":
                return
            process.wait(10.0)
            raise DcfError(_last_words(words, process.returncode))
        except BaseException:
            _end(process)
            raise
        finally:
            progress.clear()


def _last_words(words: IO[bytes], status: int | None) -> str:
    """Why the cluster ended: its own message, else the last thing that it wrote."""
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").strip().splitlines()
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith("dcf: "):
            return "\n".join(lines[index:]).removeprefix("dcf: ")
    ended = "was not ready in time" if status is None else f"ended with status {status}"
    return f"the cluster {ended}{f': {lines[-1]}' if lines else ''}; its logs are in the state folder"


def _end(process: subprocess.Popen[Any]) -> None:
    """A cluster that did not become ready stops what it started when it is told to."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def down(state: StateOption = None, backend: BackendOption = None) -> None:
    """Stop the cluster in order: calls end first. Functions and counts are there again at the next up.

    \b
    Example:
      dcf down
      dcf down --backend swarm
    """
    from dcf.cluster.state import stop_cluster

    folder = state_folder(state)
    stack = _stack(folder)
    if backend is Backend.SWARM or (backend is None and stack and _running(folder) is None):
        _down_on_swarm(stack.cluster if stack else os.environ.get("DCF_CLUSTER") or "dcf", folder)
        return
    progress = Progress()
    progress.show("stopping: calls under way are finished first ...")
    try:
        outcome = stop_cluster(folder, STOP_S)
    finally:
        progress.clear()
    write(
        {
            "stopped": "the cluster has stopped; its functions and counts are kept",
            "cleaned": "the cluster had been killed; what it left behind is stopped",
            "nothing": f"no cluster is running with the state folder {folder}",
        }[outcome]
    )


def _down_on_swarm(cluster: str, folder: Path) -> None:
    from dcf.cluster.stack import remove_stack

    if remove_stack(cluster, folder, os.environ, say):
        write(f"the stack {cluster} is removed; its functions and counts are kept in the volume {cluster}_redis")
    else:
        write(f"no stack {cluster} is on this Swarm")


def status(
    state: StateOption = None,
    backend: BackendOption = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", "-g", metavar="HOST:PORT", help="A cluster elsewhere, or of compose.")
    ] = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Show the cluster of this machine and its nodes, or the one behind a gateway; status 1 where none runs.

    \b
    Example:
      dcf status
      dcf status --gateway 10.0.0.5:32222
    """
    from dcf.cli.cluster_status import show_cluster, show_gateway, show_stack

    folder = state_folder(state)
    facts, stack = _running(folder), _stack(folder)
    # Whoever names a state folder means its cluster.
    other = gateway or (None if facts or stack or state or "DCF_STATE" in os.environ else _chosen_gateway())
    if other and (gateway or backend is None) and show_gateway(other, output, is_asked_for=gateway is not None):
        return
    if stack and (backend is Backend.SWARM or (backend is None and facts is None)):
        trouble = show_stack(stack, output)
    elif facts and backend in {None, facts.backend}:
        trouble = show_cluster(facts, folder, output)
    else:
        if output is Form.JSON:
            write_json({"running": False, "state": str(folder)})
        more = f" --backend {backend.value}" if backend else ""
        raise DcfError(f'no cluster is running with the state folder {folder}: start one with "dcf up{more}"')
    if trouble:
        say(f"dcf: the cluster runs, but its gateway does not answer: {trouble}")
        raise typer.Exit(1)


def _chosen_gateway() -> str:
    from dcf.cli.gateway import choose_gateway

    return choose_gateway(None).address


def running_address() -> str:
    """Of the gateway of the cluster with the default state folder; "" where none runs."""
    folder = state_folder(None)
    facts, stack = _running(folder), _stack(folder)
    return facts.address if facts else stack.address if stack else ""


def _stack(folder: Path) -> StackFacts | None:
    from dcf.cluster.stack import read_stack

    return read_stack(folder)


def _running(folder: Path) -> ClusterFacts | None:
    from dcf.cluster.state import read_cluster

    facts = read_cluster(folder)
    return facts if facts and facts.alive else None


def add_to(app: typer.Typer) -> None:
    """The verbs of this file."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
