"""The one door to every check: `nox` runs what a review asks for."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "go", "workers", "tests", "flows", "engine"]
nox.options.reuse_existing_virtualenvs = True

# The tests wait for processes more than they compute: four at a time, also on two cores.
PARALLEL = ("-n", "4")

GO_WORKER = Path(__file__).parent / "dcf/watcher/worker/go"
# Each release of staticcheck wants a Go as old as itself at least, and knows none that is much newer.
STATICCHECK = {(1, 25): "v0.7.0", (1, 23): "v0.6.1", (1, 19): "v0.4.7"}


def _install(session: nox.Session) -> None:
    session.install("-q", "-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and who may import whom (setup.cfg)."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--config", "setup.cfg")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strict."""
    _install(session)
    session.run("mypy")


@nox.session(python=False)
def go(session: nox.Session) -> None:
    """The Go worker: formatted, vetted, staticcheck'd, and its own tests."""
    program = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if program is None:
        lacking = "Go is not on this machine (Debian, Ubuntu: apt-get install golang-go): the Go worker is not checked"
        if os.environ.get("CI"):
            session.error(lacking)
        session.skip(lacking)
    os.chdir(GO_WORKER)
    environ = {"GOTOOLCHAIN": "local", "GOWORK": "off", "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
    unformatted = session.run("gofmt", "-l", ".", external=True, silent=True, env=environ)
    if unformatted:
        session.error(f"gofmt would change:\n{unformatted}")
    session.run("go", "vet", "./...", external=True, env=environ)
    if staticcheck := _staticcheck(session, environ):
        session.run(staticcheck, "./...", external=True, env=environ)
    # The race detector is built with a C compiler.
    race = ("-race",) if shutil.which("gcc") else ()
    session.run("go", "test", *race, "./...", external=True, env=environ)


def _staticcheck(session: nox.Session, environ: dict[str, str]) -> str:
    """Its program, installed below .nox; "" where it cannot be had, and nobody but a laptop goes without."""
    said = session.run("go", "version", external=True, silent=True, env=environ)
    have = tuple(int(part) for part in re.findall(r"\d+", str(said))[:2])
    version = next(known for least, known in STATICCHECK.items() if have >= least)
    folder = GO_WORKER.parents[3] / ".nox" / "staticcheck" / f"{version}-go{have[0]}.{have[1]}"
    if not (folder / "staticcheck").exists():
        command = ["go", "install", f"honnef.co/go/tools/cmd/staticcheck@{version}"]
        done = subprocess.run(command, env={**os.environ, **environ, "GOBIN": str(folder), "GOFLAGS": ""}, check=False)
        if done.returncode:
            if os.environ.get("CI"):
                session.error("staticcheck could not be installed")
            session.warn("staticcheck could not be installed: go vet alone has looked")
            return ""
    return str(folder / "staticcheck")


@nox.session
def workers(session: nox.Session) -> None:
    """The worker of each language against the protocol; and mutants of one, against which the suite has to fail."""
    _install(session)
    session.run("pytest", "tests/worker_conformance", *PARALLEL, "--dist", "loadscope", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Every room by itself: real Redis, real processes, real gRPC."""
    _install(session)
    elsewhere = [f"--ignore=tests/{room}" for room in ("flows", "cluster", "engine", "worker_conformance")]
    session.run("pytest", "tests", *elsewhere, *PARALLEL, "--dist", "loadscope", *session.posargs)


@nox.session
def flows(session: nox.Session) -> None:
    """Whole clusters: the main job, the wrong moves, and what must survive a kill."""
    _install(session)
    # A file's tests share a cluster, a browser, an installed OpenCV.
    session.run("pytest", "tests/flows", "tests/cluster", *PARALLEL, "--dist", "loadfile", *session.posargs)


@nox.session
def engine(session: nox.Session) -> None:
    """Real Docker engines: images, a registry, a Swarm of three (skipped where there is none, failed in CI)."""
    _install(session)
    # In two halves, side by side: one engine, and the three, whose tests take nodes away.
    session.run("python", "-m", "tests.engine", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The call path beside its peers, in one run; `-- --short` in a minute (not part of plain `nox`)."""
    session.install("-q", "-e", ".", "-r", "bench/requirements.txt")
    session.run("python", "bench/call_path.py", *session.posargs)
