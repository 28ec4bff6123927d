"""What runs in a gateway process, and in which order it stops.

Read `serve` top to bottom to start, bottom to top to stop: accept nothing
new, answer what is in flight over HTTP and gRPC, let the replicas' streams
go, write the last counts, close the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGINT, SIGTERM

import uvloop

from dcf.env import read_settings
from dcf.errors import ConfigError, StoreUnavailableError
from dcf.gateway.admin import Admin
from dcf.gateway.endpoint_sync import EndpointSync
from dcf.gateway.grpc_api import open_grpc_api
from dcf.gateway.health import Health
from dcf.gateway.http_api import HttpApi, open_http_api
from dcf.gateway.http_front import HttpFronts, open_http_fronts
from dcf.gateway.http_system import HttpSystem
from dcf.gateway.invoke import Invoker
from dcf.gateway.links import Links
from dcf.gateway.listener import GrpcServers, Listener, open_listener
from dcf.gateway.load_publisher import LoadPublisher
from dcf.gateway.metrics import Metrics
from dcf.gateway.router import Router
from dcf.gateway.settings import GatewaySettings
from dcf.gateway.stats import Stats
from dcf.gateway.stats_publisher import publish, run_stats_publisher
from dcf.gateway.stopping import Stopping
from dcf.gateway.token import ManagementToken
from dcf.gateway.trusted_peers import TrustedPeers
from dcf.heap import keep_heap
from dcf.lifecycle import die_with_parent, open_task_set, running, unpack_group, until_signalled
from dcf.logs import configure_logs
from dcf.rpc.grpc_server import GrpcServer
from dcf.store.contract import CountWriter
from dcf.store.redis_store import open_store

log = logging.getLogger(__name__)

STORE_RETRY_S = 0.2


async def serve(settings: GatewaySettings) -> None:
    """Run until a signal."""
    token = (
        ManagementToken.from_text(settings.token) if settings.token else ManagementToken.from_file(settings.token_file)
    )
    trusted = TrustedPeers.of_this_host() if settings.trusts_this_host_alone else TrustedPeers()
    host, port = settings.address()
    stopping = Stopping(settings.drain_s)
    router, stats = Router(), Stats(settings.gateway_id)
    invoker = Invoker(router)
    async with open_store(settings.store_url) as store, open_task_set() as tasks:
        admin = Admin(store, router, stats, settings, stopping=stopping)
        sync = EndpointSync(store, router)
        health = Health(sync.synced, stopping)
        invoker.find = sync.look_up
        links = Links(router, stats, invoker.invoke, tasks)
        invoker.on_end = links.count_end
        load = LoadPublisher(store, router, stats)
        system = HttpSystem(admin, token, trusted)
        metrics = Metrics(admin, router, invoker, settings.gateway_id)
        http_api = HttpApi(invoker, health, system.handle, metrics, stopping)
        await _resume_counts(store, stats)
        async with (
            _last_counts(store, stats),
            _last_load(load),
            running(
                endpoint_sync=sync.run(),
                endpoint_hints=sync.run_hints(),
                stats_publisher=run_stats_publisher(store, stats),
                load_publisher=load.run(),
                liveness=links.run_liveness(),
            ),
            open_grpc_api(invoker, admin, token, stopping) as grpc,
            _open_others_grpc(grpc, settings, invoker, admin, stopping) as others_grpc,
            open_http_api(http_api, stopping) as make_aiohttp,
            open_http_fronts(HttpFronts(invoker, router, stopping, tasks, make_aiohttp)) as http_protocol,
        ):
            await sync.synced.wait()
            listener = Listener(http_protocol, GrpcServers(trusted=grpc, others=others_grpc, who=trusted))
            async with open_listener(listener, host=host, port=port, descriptor=settings.listen_fd):
                _say_ready(settings.ready_fd)
                log.info("ready", extra={"address": settings.listen, "gateway": settings.gateway_id})
                reason = await until_signalled(SIGINT, SIGTERM)
                log.info("stopping", extra={"signal": reason.name})
                stopping.set()


@asynccontextmanager
async def _open_others_grpc(
    grpc: GrpcServer, settings: GatewaySettings, invoker: Invoker, admin: Admin, stopping: Stopping
) -> AsyncIterator[GrpcServer]:
    """A server of their own for those who may manage nothing; `grpc` where there are none."""
    if not settings.trusts_this_host_alone:
        yield grpc
        return
    async with open_grpc_api(invoker, admin, ManagementToken(closed=True), stopping) as others:
        yield others


async def _resume_counts(store: CountWriter, stats: Stats) -> None:
    """Counting from zero would lose what an earlier process of this slice has counted, so wait for the store."""
    waited = False
    while True:
        try:
            stats.resume(await store.read_counts())
            return
        except StoreUnavailableError as error:
            if not waited:
                log.warning("waiting for the store", extra={"error": str(error)})
            waited = True
            await asyncio.sleep(STORE_RETRY_S)


@asynccontextmanager
async def _last_counts(store: CountWriter, stats: Stats) -> AsyncIterator[None]:
    """Write what was counted until the very end."""
    try:
        yield
    finally:
        try:
            await publish(store, stats)
        except StoreUnavailableError as error:
            log.error("the last counts could not be stored", extra={"error": str(error)})


@asynccontextmanager
async def _last_load(load: LoadPublisher) -> AsyncIterator[None]:
    """What this process holds is no load of others once it has gone."""
    try:
        yield
    finally:
        await load.take_back()


def _say_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):  # whoever waited may be gone
            os.write(descriptor, b"1")
            os.close(descriptor)


def main() -> int:
    """The process: settings, loop, exit status."""
    configure_logs()
    try:
        settings = read_settings(GatewaySettings, os.environ)
        configure_logs(settings.log_level)
        if settings.ready_fd is not None:
            die_with_parent()
        keep_heap()
        uvloop.run(serve(settings))
        return 0
    except Exception as error:
        cause = unpack_group(error)
        if not isinstance(cause, ConfigError):
            raise
        log.error("refused to start", extra={"cause": str(cause)})
        return 1
