"""What a cluster needs of this machine, found or missing, and how to mend it.

In:   the backend that is wanted, the environment, the address of the gateway.
Out:  Checks, in the order in which a person would mend them. Nothing is
      changed, but for an overlay network that is made and removed again.
Each room judges one subject: doctor_host, doctor_engine, doctor_swarm, doctor_gpu.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

BACKENDS = ("process", "docker", "swarm")


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not all of it, or not everywhere."""
    MISSING = "missing"
    """Without it a cluster of this backend does not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One prerequisite."""

    name: str
    state: State
    found: str
    """One line: what is there."""
    mend: str = ""
    """One line: what to do; "" where nothing is to be done."""
    backend: str = ""
    """Who needs it; "": all."""


def ok(name: str, found: str, *, backend: str = "") -> Check:
    """It is there."""
    return Check(name=name, state=State.OK, found=found, backend=backend)


def warning(name: str, found: str, mend: str, *, backend: str = "") -> Check:
    """It is there in part."""
    return Check(name=name, state=State.WARNING, found=found, mend=mend, backend=backend)


def missing(name: str, found: str, mend: str, *, backend: str = "") -> Check:
    """It is not there."""
    return Check(name=name, state=State.MISSING, found=found, mend=mend, backend=backend)


def examine(
    backend: str | None,
    environ: Mapping[str, str],
    *,
    listen: str,
    own_address: str = "",
    gpus: bool = True,
) -> list[Check]:
    """All checks of one backend, or of all.

    Args:
        backend: one of BACKENDS; None: all, and what only docker or swarm lacks is no more than a warning.
        listen: HOST:PORT at which the gateway shall listen.
        own_address: that of the cluster that runs here already; "" where none does.
        gpus: whether GPUs are looked at, which may take seconds and is never more than a warning.
    """
    from dcf.cluster import doctor_engine, doctor_gpu, doctor_host, doctor_swarm, engine

    checks = doctor_host.check_host(environ, backend=backend, listen=listen, own_address=own_address)
    if backend == "process":
        return [*checks, *(doctor_gpu.check_machine() if gpus else ())]
    seen = engine.ask_engine(environ)
    checks += doctor_engine.check_engine(seen, environ, backend=backend)
    if seen.answers:
        if backend != "docker":
            checks += doctor_swarm.check_swarm(seen, environ)
        if gpus:
            checks += doctor_gpu.check_engine(seen, environ, backend=backend)
    return [_only_an_option(check) for check in checks] if backend is None else checks


def _only_an_option(check: Check) -> Check:
    """Where no backend was named the laptop's is enough."""
    if check.state is State.MISSING and check.backend:
        return replace(check, state=State.WARNING, found=f"{check.found} (needed for the backend {check.backend})")
    return check


def first_missing(checks: Sequence[Check]) -> Check | None:
    """Why `up` cannot begin; None: it can."""
    return next((check for check in checks if check.state is State.MISSING), None)
