"""`dcf` up, down, status: a cluster on this machine.

The cluster is a process of its own, `python -m dcf.cluster`: `up` becomes it
or starts it, `down` and `status` find it by its state folder.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.output import Form, OutputOption, Progress, say, write, write_facts, write_json
from dcf.errors import DcfError, GatewayUnreachableError

if TYPE_CHECKING:
    from dcf.cluster.state import ClusterFacts

READY_S = 90.0
"""A big append-only file is read in well under this; a cluster that needs more is stuck."""
STOP_S = 300.0
"""Calls under way are finished first: the longest timeouts that people write fit into it."""
ANSWER_S = 5.0

StateOption = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="State folder; else DCF_STATE, else ~/.dcf/state.")
]


def state_folder(option: Path | None) -> Path:
    """The cluster's folder, absolute."""
    from dcf.cluster.state import default_state

    return option.expanduser().absolute() if option else default_state(os.environ)


def up(
    state: StateOption = None,
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

    \b
    Example:
      dcf up
      dcf up --detach --listen 127.0.0.1:8080 --processes 2
    """
    folder = state_folder(state)
    environ = dict(os.environ) | {"DCF_STATE": str(folder)}
    # These are the user's shell's, not the cluster's: it would refuse names that it does not know.
    for name in ("DCF_READY_FD", "DCF_DEBUG"):
        environ.pop(name, None)
    chosen = {
        "DCF_LISTEN": listen,
        "DCF_PROCESSES": processes,
        "DCF_REDIS": redis,
        "DCF_TOKEN_FILE": token_file.expanduser().absolute() if token_file else None,
        "DCF_INSECURE": "1" if insecure else None,
        "DCF_LOG_LEVEL": log_level,
    }
    environ |= {name: str(value) for name, value in chosen.items() if value is not None}
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


def down(state: StateOption = None) -> None:
    """Stop the cluster in order: calls end first. Functions and counts are there again at the next up.

    \b
    Example:
      dcf down
    """
    from dcf.cluster.state import stop_cluster

    folder = state_folder(state)
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


def status(state: StateOption = None, output: OutputOption = Form.TABLE) -> None:
    """Show the cluster of this machine; status 1 where none runs.

    \b
    Example:
      dcf status
    """
    folder = state_folder(state)
    facts = _running(folder)
    if facts is None:
        if output is Form.JSON:
            write_json({"running": False, "state": str(folder)})
        raise DcfError(f'no cluster is running with the state folder {folder}: start one with "dcf up"')
    functions, trouble = _functions(facts.address)
    if output is Form.JSON:
        write_json(
            {
                "running": True,
                "address": facts.address,
                "pid": facts.pid,
                "gatewayProcesses": facts.gateway_processes,
                "backend": facts.backend,
                "version": facts.version,
                "startedAt": facts.started_at,
                "state": str(folder),
                "bundles": facts.bundles,
                "answers": not trouble,
                "functions": len(functions),
                "ready": sum(function.status == "Ready" for function in functions),
            }
        )
    else:
        ready = sum(function.status == "Ready" for function in functions)
        write_facts(
            [
                ("Address", f"http://{facts.address} (HTTP and gRPC)"),
                ("Pid", str(facts.pid)),
                ("Gateways", f"{facts.gateway_processes} process{'' if facts.gateway_processes == 1 else 'es'}"),
                ("Backend", facts.backend),
                ("Version", facts.version),
                ("Since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started_at))),
                ("State", str(folder)),
                ("Bundles", facts.bundles),
                ("Functions", "" if trouble else f"{len(functions)}, {ready} ready"),
            ]
        )
    if trouble:
        say(f"dcf: the cluster runs, but its gateway does not answer: {trouble}")
        raise typer.Exit(1)


def _running(folder: Path) -> ClusterFacts | None:
    from dcf.cluster.state import read_cluster

    facts = read_cluster(folder)
    return facts if facts and facts.alive else None


def _functions(address: str) -> tuple[list[Any], str]:
    """What is deployed, or why nobody says so."""
    from dcf.cli.gateway import read_token
    from dcf.client import Client

    with Client(address, token=read_token()) as client:
        try:
            client.info(timeout_s=ANSWER_S)
            return client.list(), ""
        except GatewayUnreachableError:
            return [], f"nothing answers at {address}; see its logs"
        except DcfError as error:
            return [], str(error)


def add_to(app: typer.Typer) -> None:
    """The verbs of this file."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
