"""What a cluster runs: each program's command line and environment.

In:   what the user chose.
Out:  a Plan. The processes know each other through these variables alone:
      no room imports another's settings, so their names are written here.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LOAD_S = 300.0
"""Redis reads its whole file before it answers."""

READY_S = 60.0
"""A gateway or scheduler that imports, connects and listens takes one or two seconds; a busy machine more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process of the cluster."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    keep_fds: tuple[int, ...] = ()
    """Open descriptors that it inherits under their numbers."""
    probe: Callable[[], Awaitable[bool]] | None = None
    """Whether it is ready; None: it says so itself, through DCF_READY_FD."""
    start_timeout_s: float = READY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of them, in the order of their start; they stop the other way round."""

    redis: Program | None
    """None: the user's own is used."""
    scheduler: Program
    gateways: tuple[Program, ...]
    stop_replicas: Program
    """Runs once, after the scheduler has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the plan is made of."""

    state: Path
    bundles: Path
    store_url: str
    listen: str
    listen_fd: int
    processes: int
    token: str
    token_file: Path | None
    insecure: bool
    log_level: str
    backend: str
    cluster: str
    gpus: str = ""
    """Those that replicas may have; "": the scheduler looks for them."""


def redis_program(command: list[str], probe: Callable[[], Awaitable[bool]], environ: Mapping[str, str]) -> Program:
    """The private Redis."""
    return Program(
        name="redis", command=tuple(command), environ=clean_environ(environ), probe=probe, start_timeout_s=LOAD_S
    )


def make_plan(choices: Choices, environ: Mapping[str, str], *, redis: Program | None) -> Plan:
    """The cluster that `choices` describe."""
    return Plan(
        redis=redis,
        scheduler=Program(
            name="scheduler",
            command=python_module("dcf.scheduler"),
            environ=_scheduler_environ(
                choices.state, choices.bundles, choices.store_url, choices.backend, choices.cluster, environ
            )
            | {"DCF_LOG_LEVEL": choices.log_level}
            | ({"DCF_GPUS": choices.gpus} if choices.gpus else {}),
        ),
        gateways=tuple(_gateway(choices, environ, number) for number in range(choices.processes)),
        stop_replicas=stop_replicas_program(
            state=choices.state,
            bundles=choices.bundles,
            store_url=choices.store_url,
            backend=choices.backend,
            cluster=choices.cluster,
            environ=environ,
        ),
    )


def stop_replicas_program(
    *, state: Path, bundles: Path, store_url: str, backend: str, cluster: str, environ: Mapping[str, str]
) -> Program:
    """Stops every replica that is found under `state`, or on the engine by the cluster's name, and exits 0."""
    return Program(
        name="stop-replicas",
        command=(*python_module("dcf.scheduler"), "--stop-replicas"),
        environ=_scheduler_environ(state, bundles, store_url, backend, cluster, environ),
    )


def _gateway(choices: Choices, environ: Mapping[str, str], number: int) -> Program:
    variables = {
        "DCF_STORE_URL": choices.store_url,
        # Its slice of the counts: the same after a restart, or its totals would be counted twice.
        "DCF_GATEWAY_ID": f"local-{number}",
        "DCF_LISTEN": choices.listen,
        "DCF_LISTEN_FD": str(choices.listen_fd),
        "DCF_INSECURE": "1" if choices.insecure else "0",
        "DCF_BACKEND": choices.backend,
        "DCF_CLUSTER": choices.cluster,
        "DCF_BUNDLES": str(choices.bundles),
        "DCF_LOG_LEVEL": choices.log_level,
    }
    if choices.token:
        variables["DCF_TOKEN"] = choices.token
    elif choices.token_file:
        variables["DCF_TOKEN_FILE"] = str(choices.token_file)
    return Program(
        name=f"gateway-{number}",
        command=python_module("dcf.gateway"),
        environ=clean_environ(environ) | variables,
        keep_fds=(choices.listen_fd,),
    )


def _scheduler_environ(
    state: Path, bundles: Path, store_url: str, backend: str, cluster: str, environ: Mapping[str, str]
) -> dict[str, str]:
    return clean_environ(environ) | {
        "DCF_STORE_URL": store_url,
        "DCF_SCHEDULER_ID": "local",
        "DCF_BACKEND": backend,
        "DCF_CLUSTER": cluster,
        "DCF_STATE": str(state),
        "DCF_BUNDLES": str(bundles),
    }


def name_of(state: str) -> str:
    """A name for the cluster of this folder on an engine, where other clusters may be, those of other users too."""
    return f"dcf-{hashlib.sha256(state.encode()).hexdigest()[:6]}"


def python_module(name: str) -> tuple[str, ...]:
    """The command line of one of our own programs."""
    # -P: a folder named dcf or redis where the user happens to be is not what he means.
    return (sys.executable, "-P", "-m", name)


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's variables without DCF's own, which were meant for another process."""
    return {name: value for name, value in environ.items() if not name.startswith("DCF_")}
