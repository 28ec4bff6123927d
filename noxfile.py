"""The one door to every check: `nox` runs what a review asks for."""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests", "flows", "engine"]
nox.options.reuse_existing_virtualenvs = True

# The tests wait for processes more than they compute: four at a time, also on two cores.
PARALLEL = ("-n", "4")


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


@nox.session
def tests(session: nox.Session) -> None:
    """Every room by itself: real Redis, real processes, real gRPC."""
    _install(session)
    elsewhere = ("--ignore", "tests/flows", "--ignore", "tests/cluster", "--ignore", "tests/engine")
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
    """The call path beside FastAPI + uvicorn, in one run (not part of plain `nox`)."""
    session.install("-q", "-e", ".", "-r", "bench/requirements.txt")
    session.run("python", "bench/call_path.py", *session.posargs)
