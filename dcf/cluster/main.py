"""What runs in the cluster process, and in which order it stops.

Read `_run_cluster` top to bottom to start, bottom to top to stop: gateways
(they finish their calls), scheduler, replicas, Redis.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path

from dcf import __version__
from dcf.cluster.children import open_children
from dcf.cluster.listener import address_of, check_exposure, open_listener
from dcf.cluster.process_id import identify
from dcf.cluster.programs import Choices, Plan, Program, make_plan, redis_program
from dcf.cluster.settings import ClusterSettings, read_cluster_settings
from dcf.cluster.state import REPLICAS_WAIT_S, ClusterFacts, StateFolder, hold_state
from dcf.cluster.supervisor import Supervisor, wait_first
from dcf.errors import ConfigError, DcfError, StoreUnavailableError
from dcf.lifecycle import open_task_set
from dcf.logs import LineFormatter, configure_logs
from dcf.sockets import leave_sockets, socket_path
from dcf.store.embedded import end_unrecorded_redis, find_redis_server, redis_command
from dcf.store.redis_store import open_store, socket_url

log = logging.getLogger(__name__)

GATEWAYS_WAIT_S = 75.0
"""They finish their calls: the default timeout of 60 s and a margin."""

SCHEDULER_WAIT_S = 15.0
"""It gives up its lease; its replicas stay."""

REDIS_WAIT_S = 15.0
"""It writes its file to disk."""

PlanMaker = Callable[[Plan], Plan]
"""What a test puts other programs in with."""


def main(change_plan: PlanMaker = lambda plan: plan) -> int:
    """Run a cluster until a signal (0) or a failure (1), which is one line on stderr."""
    try:
        _main(dict(os.environ), change_plan)
    except DcfError as error:
        sys.stderr.write(f"dcf: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _main(environ: Mapping[str, str], change_plan: PlanMaker) -> None:
    settings = read_cluster_settings(environ)
    token_file = Path(settings.token_file).absolute() if settings.token_file else None
    check_exposure(settings.listen, token=settings.token, token_file=token_file, insecure=settings.insecure)
    state = Path(settings.state)
    binary = None if settings.redis else find_redis_server(environ.get("PATH"))
    with hold_state(state) as folder:
        _configure_logs(settings, folder)
        store_url = settings.redis or socket_url(str(socket_path(state, "redis.sock")))
        facts = _facts(settings, store_url)
        if folder.was_other(settings.backend, settings.cluster_name):
            folder.clean(environ)
        folder.announce(facts)
        if names := folder.end_leftovers():
            log.warning("leftovers of a killed cluster were ended", extra={"programs": " ".join(names)})
        with closing(open_listener(settings.listen)) as listener:
            facts = replace(facts, address=address_of(listener, dialled=True))
            folder.announce(facts)
            redis = None
            if binary:
                command = redis_command(binary, state / "redis", socket_path(state, "redis.sock"))
                (state / "redis").mkdir(mode=0o700, exist_ok=True)
                redis = redis_program(command, lambda: _answers(store_url), environ)
            choices = Choices(
                state=state,
                bundles=Path(settings.bundles),
                store_url=store_url,
                listen=address_of(listener),
                listen_fd=listener.fileno(),
                processes=settings.processes,
                token=settings.token,
                token_file=token_file,
                insecure=settings.insecure,
                log_level=settings.log_level,
                backend=settings.backend,
                cluster=settings.cluster_name,
                gpus=settings.gpus,
            )
            plan = change_plan(make_plan(choices, environ, redis=redis))
            try:
                asyncio.run(_run_cluster(settings, plan, folder, facts, listener))
            finally:
                folder.close()
                leave_sockets(state)


async def _run_cluster(
    settings: ClusterSettings, plan: Plan, folder: StateFolder, facts: ClusterFacts, listener: socket.socket
) -> None:
    async with _stop_signals() as (stop, hurry), open_children(folder.path) as children, open_task_set() as tasks:
        say = _Voice(foreground=settings.ready_fd is None)
        supervisor = Supervisor(folder, children, tasks, hurry)
        redis = [plan.redis] if plan.redis else []
        if plan.redis is None:
            await _check_redis(facts.store_url)
        else:
            await end_unrecorded_redis(socket_path(folder.path, "redis.sock"))
        try:
            groups: list[list[Program]] = [redis, [plan.scheduler], list(plan.gateways)]
            for group in groups:
                if not await supervisor.start(group, stop=stop):
                    return
            folder.write_ready(facts)
            log.info("cluster is ready", extra={"address": facts.address, "pid": facts.pid})
            _tell_ready(settings, folder)
            say(f"DCF is ready at http://{facts.address} (state in {folder.path}). Ctrl-C stops it.")
            await wait_first(stop, supervisor.broken)
            if supervisor.broken.done():
                supervisor.broken.result()
        finally:
            # A connection that comes now is refused at once; in the backlog it would wait for nobody.
            listener.close()
            say("Stopping: the gateway finishes its calls. Ctrl-C again makes it quicker.")
            await supervisor.stop(plan.gateways, wait_s=GATEWAYS_WAIT_S)
            say("Stopping: scheduler and replicas.")
            await supervisor.stop([plan.scheduler], wait_s=SCHEDULER_WAIT_S)
            await supervisor.run_once(plan.stop_replicas, wait_s=REPLICAS_WAIT_S)
            if redis:
                say("Stopping: Redis. Functions and counts are kept.")
            await supervisor.stop(redis, wait_s=REDIS_WAIT_S)
            say("Stopped.")
            log.info("cluster has stopped")


@asynccontextmanager
async def _stop_signals() -> AsyncIterator[tuple[asyncio.Future[None], asyncio.Future[None]]]:
    """Two futures: done with the first SIGINT or SIGTERM, and with the second."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    hurry: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        for future in (stop, hurry):
            if not future.done():
                future.set_result(None)
                return

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop, hurry
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _answers(url: str) -> bool:
    async with open_store(url) as store:
        try:
            await store.ping()
        except StoreUnavailableError:
            return False
    return True


async def _check_redis(url: str) -> None:
    async with open_store(url) as store:
        try:
            await store.ping()
        except StoreUnavailableError as error:
            raise ConfigError(
                f"{error}: start that Redis, or leave --redis (DCF_REDIS) out for a private one"
            ) from error


def _facts(settings: ClusterSettings, store_url: str) -> ClusterFacts:
    me = identify(os.getpid())
    return ClusterFacts(
        pid=os.getpid(),
        started=me.started if me else "",
        started_at=time.time(),
        address=settings.listen,
        version=__version__,
        backend=settings.backend,
        cluster=settings.cluster_name,
        gateway_processes=settings.processes,
        store_url=store_url,
        bundles=settings.bundles,
    )


def _configure_logs(settings: ClusterSettings, folder: StateFolder) -> None:
    """All to logs/cluster.log; to stderr only what a person at the terminal must see."""
    configure_logs(settings.log_level)
    root = logging.getLogger()
    if settings.log_level != "debug":
        root.handlers[0].setLevel(logging.WARNING)
    file = logging.FileHandler(folder.path / "logs" / "cluster.log")
    file.setFormatter(LineFormatter())
    root.addHandler(file)


def _tell_ready(settings: ClusterSettings, folder: StateFolder) -> None:
    if settings.ready_fd is None:
        return
    # Whoever waits reads our output until here; from now on nobody does.
    with (folder.path / "logs" / "cluster.log").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    root = logging.getLogger()
    root.removeHandler(root.handlers[0])
    with suppress(OSError):  # it has gone
        os.write(settings.ready_fd, b"1")
    with suppress(OSError):
        os.close(settings.ready_fd)


class _Voice:
    """Says what happens to a person at the terminal."""

    def __init__(self, *, foreground: bool) -> None:
        self._foreground = foreground

    def __call__(self, line: str) -> None:
        if self._foreground:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OSError:
                self._foreground = False  # `dcf up | head`
