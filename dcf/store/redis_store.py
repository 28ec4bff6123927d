"""The store in Redis (6.2 or later): all of `contract.py` in one class.

Each write is one Lua script, so that it is whole, is fenced, and says so on
the changes channel in the same moment. Errors of redis-py become
StoreUnavailableError here; nobody else sees them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.resources
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast
from urllib.parse import quote, urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dcf.domain.function import FunctionSpec, spec_from_json, spec_to_json
from dcf.domain.load import FunctionLoad, LoadReport, load_from_json, load_to_json
from dcf.domain.scaling import ScaleDecision, decision_from_json, decision_to_json
from dcf.domain.stats import Totals
from dcf.domain.status import (
    Endpoint,
    FunctionStatus,
    NodeStatus,
    node_from_json,
    node_to_json,
    status_from_json,
    status_to_json,
)
from dcf.errors import ConfigError, LeaseLostError, StoreUnavailableError
from dcf.store import keys
from dcf.store.contract import ChangedKey, Fence

log = logging.getLogger(__name__)

ANSWER_S = 5.0
"""A Redis that takes longer for one command is as good as gone: the longest script takes milliseconds."""

MAX_CONNECTIONS = 32
"""Of one process; more commands at once than that wait for a connection, up to ANSWER_S."""

SILENCE_S = 10.0
"""After that long without a hint the channel is tested: a lost host breaks no connection by itself."""

STATUSES_AT_ONCE = 100

LOAD_KEPT_S = 60.0
"""A report that nobody writes again is gone after so long; it counts for REPORT_TTL_S."""

RECONNECT_S = (0.1, 2.0)
"""First and longest wait before the channel is opened again."""


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[RedisStore]:
    """The store at `unix:///path` or `redis://host:port/0`; nothing is sent before the first call.

    Raises:
        ConfigError: `url` is none.
    """
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            # No socket_timeout: redis-py would wrap every send in asyncio.wait_for, which on Python 3.11 swallows a
            # cancellation that comes as the send ends, and the loop that was to end goes on. `_door` has the time.
            socket_timeout=None,
            decode_responses=True,
            # Once again at once: a pooled connection is dead after a restart of Redis. Every write may be repeated.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address of a store: expected redis://host:port/0 or unix:///path") from error
    client = redis.asyncio.Redis.from_pool(pool)
    try:
        yield RedisStore(client, shown=_without_password(url))
    finally:
        await client.aclose()


def socket_url(path: str) -> str:
    """The URL of a Redis that listens on a Unix socket."""
    return f"unix://{quote(path)}"


class RedisStore:
    """Reads and writes for all roles. Touched only by the event loop of its process."""

    def __init__(self, client: redis.asyncio.Redis, *, shown: str) -> None:
        self._client = client
        self._shown = shown
        self._specs: dict[str, tuple[str, FunctionSpec]] = {}
        """As they were read last, with their texts: a scheduler reads all of them every second."""
        scripts = importlib.resources.files("dcf.store") / "scripts"
        self._scripts = {
            name: client.register_script((scripts / f"{name}.lua").read_text())
            for name in (
                "write_spec", "delete_spec", "write_counts", "read_counts",
                "acquire_lease", "renew_lease", "release_lease", "write_fenced", "write_statuses", "write_load",
                "read_load",
            )
        }  # fmt: skip

    async def ping(self) -> None:
        """Raises StoreUnavailableError unless Redis answers and has its data loaded."""
        async with self._door():
            await cast("Awaitable[Any]", self._client.ping())

    # specs

    async def read_specs(self) -> dict[str, FunctionSpec]:
        """All specs by function name; one that has not changed is the same object as before."""
        async with self._door():
            texts = await cast("Awaitable[dict[str, str]]", self._client.hgetall(keys.SPECS))
        known, self._specs = self._specs, {}
        for name, text in texts.items():
            before = known.get(name)
            self._specs[name] = before if before and before[0] == text else (text, spec_from_json(json.loads(text)))
        return {name: spec for name, (_, spec) in self._specs.items()}

    async def read_spec(self, function: str) -> FunctionSpec | None:
        """One spec, None where the function is not deployed."""
        async with self._door():
            text = await cast("Awaitable[str | None]", self._client.hget(keys.SPECS, function))
        return spec_from_json(json.loads(text)) if text else None

    async def write_spec(self, spec: FunctionSpec, *, expected_revision: int) -> bool:
        """Store `spec` if the stored revision is `expected_revision` (0: none is stored); whether it was."""
        text = json.dumps(spec_to_json(spec))
        return bool(await self._run("write_spec", [keys.SPECS], [keys.CHANGES, spec.name, text, expected_revision]))

    async def delete_spec(self, function: str) -> bool:
        """Remove the spec and its counts, all slices; whether there was one."""
        return bool(await self._run("delete_spec", [keys.SPECS], [keys.CHANGES, function, keys.COUNTS]))

    # counts

    async def read_counts(self) -> dict[str, dict[str, Totals]]:
        """uid of a function -> slice -> running totals; a function without invocations is left out."""
        flat = iter(cast("list[str]", await self._run("read_counts", [keys.SPECS], [keys.COUNTS])))
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for uid, field, total in zip(flat, flat, flat, strict=True):
            slice_name, _, measure = field.partition("/")
            counts.setdefault(uid, {}).setdefault(slice_name, {})[measure] = int(total)
        return cast("dict[str, dict[str, Totals]]", counts)

    async def write_counts(self, slice_name: str, totals: Mapping[tuple[str, str], Totals]) -> None:
        """Store running totals by (function, uid). Never lowers one; drops those whose function is gone."""
        if totals:
            arguments: list[str | int] = [keys.COUNTS]
            for (function, uid), measures in totals.items():
                arguments += [function, uid, len(measures)]
                for measure, total in measures.items():
                    arguments += [f"{slice_name}/{measure}", total]
            await self._run("write_counts", [keys.SPECS], arguments)

    # load

    async def write_load(self, slice_name: str, functions: Mapping[str, FunctionLoad], *, urgent: bool) -> None:
        """Replace the slice's report; `urgent`: the scheduler is woken."""
        text = json.dumps({name: load_to_json(load) for name, load in functions.items()}, separators=(",", ":"))
        arguments: list[str | int] = [
            keys.LOAD_OF,
            slice_name,
            text,
            _milliseconds(LOAD_KEPT_S),
            keys.CHANGES if urgent else "",
        ]
        await self._run("write_load", [keys.LOAD], arguments)

    async def clear_load(self, slice_name: str) -> None:
        """The slice reports no more."""
        async with self._door():
            await self._client.delete(keys.LOAD_OF + slice_name)

    async def read_load(self) -> list[LoadReport]:
        """Every slice's last report, with its age."""
        now, *flat = cast("list[str]", await self._run("read_load", [keys.LOAD], [keys.LOAD_OF]))
        reports = []
        for slice_name, stamped in zip(flat[::2], flat[1::2], strict=True):
            at, _, text = stamped.partition(" ")
            functions = {name: load_from_json(data) for name, data in json.loads(text).items()}
            reports.append(
                LoadReport(slice_name=slice_name, age_s=max(0.0, float(now) - float(at)), functions=functions)
            )
        return reports

    # endpoints and status

    async def read_endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        """Endpoints of all functions by name."""
        found = await self._read_hash(keys.ENDPOINTS)
        return {name: tuple(Endpoint(**endpoint) for endpoint in data) for name, data in found.items()}

    async def read_statuses(self) -> dict[str, FunctionStatus]:
        """Statuses of all functions by name."""
        return {name: status_from_json(data) for name, data in (await self._read_hash(keys.STATUS)).items()}

    async def write_endpoints(self, fence: Fence, function: str, endpoints: Sequence[Endpoint]) -> None:
        """Replace a function's endpoints; an empty list removes the key. Raises LeaseLostError."""
        text = json.dumps([dataclasses.asdict(endpoint) for endpoint in endpoints]) if endpoints else ""
        await self._write_fenced(fence, function, {"endpoints": text})

    async def write_statuses(
        self, fence: Fence, statuses: Sequence[FunctionStatus], *, quiet: Sequence[FunctionStatus] = ()
    ) -> None:
        """Replace the statuses of functions; the `quiet` ones without a hint. Raises LeaseLostError."""
        flat = [
            part
            for news, group in (("1", statuses), ("", quiet))
            for status in group
            for part in (status.name, json.dumps(status_to_json(status), separators=(",", ":")), news)
        ]
        # In pieces: Redis answers nobody else while a script runs.
        for at in range(0, len(flat), 3 * STATUSES_AT_ONCE):
            arguments = [keys.CHANGES, str(fence), *flat[at : at + 3 * STATUSES_AT_ONCE]]
            if not await self._run("write_statuses", [keys.FENCE, keys.STATUS], arguments):
                raise LeaseLostError("another scheduler leads now: no status was written")

    async def write_nodes(self, fence: Fence, nodes: Sequence[NodeStatus]) -> None:
        """Replace what is known of the machines. Raises LeaseLostError."""
        await self._write_fenced(fence, "all", {"nodes": json.dumps([node_to_json(node) for node in nodes])})

    async def read_nodes(self) -> list[NodeStatus]:
        """The machines, as the scheduler saw them last; none before it has looked."""
        return [node_from_json(node) for node in (await self._read_hash(keys.NODES)).get("all", [])]

    async def write_decisions(self, fence: Fence, function: str, decisions: Sequence[ScaleDecision]) -> None:
        """Replace a function's last decisions. Raises LeaseLostError."""
        text = json.dumps([decision_to_json(one) for one in decisions])
        await self._write_fenced(fence, function, {"decisions": text})

    async def read_decisions(self, function: str) -> tuple[ScaleDecision, ...]:
        """The last decisions on a function's number, oldest first; none where it is fixed."""
        async with self._door():
            text = await cast("Awaitable[str | None]", self._client.hget(keys.DECISIONS, function))
        return tuple(decision_from_json(one) for one in json.loads(text)) if text else ()

    async def delete_status(self, fence: Fence, function: str) -> None:
        """Remove status, endpoints and decisions of a function that is gone. Raises LeaseLostError."""
        await self._write_fenced(fence, function, {"endpoints": "", "status": "", "decisions": ""})

    async def _write_fenced(self, fence: Fence, function: str, texts: Mapping[str, str]) -> None:
        hashes = {
            "endpoints": keys.ENDPOINTS,
            "status": keys.STATUS,
            "nodes": keys.NODES,
            "decisions": keys.DECISIONS,
        }
        arguments = [keys.CHANGES, str(fence), function, *(text for pair in texts.items() for text in pair)]
        if not await self._run("write_fenced", [keys.FENCE, *(hashes[family] for family in texts)], arguments):
            raise LeaseLostError(f"another scheduler leads now: nothing was written about {function}")

    # lease

    async def acquire_lease(self, owner: str, *, ttl_s: float) -> Fence | None:
        """The fence if nobody or `owner` itself holds the lease; None while another does."""
        fence = await self._run("acquire_lease", [keys.LEASE, keys.FENCE], [owner, _milliseconds(ttl_s)])
        return None if fence is None else Fence(int(fence))

    async def renew_lease(self, owner: str, fence: Fence, *, ttl_s: float) -> None:
        """Raises LeaseLostError where another has it."""
        if not await self._run("renew_lease", [keys.LEASE, keys.FENCE], [owner, str(fence), _milliseconds(ttl_s)]):
            raise LeaseLostError(f"another scheduler leads now, {owner} no longer does")

    async def release_lease(self, owner: str, fence: Fence) -> None:
        """Give it up, if it is still ours."""
        await self._run("release_lease", [keys.LEASE], [owner, str(fence)])

    # hints

    async def changes(self) -> AsyncIterator[ChangedKey]:
        """Yields hints as they come; ends only by cancellation; reconnects by itself.

        Each connection, the first one too, begins with one hint of every family
        with function "": anything may have changed while nobody listened.
        """
        first_s, longest_s = RECONNECT_S
        wait_s = 0.0
        while True:
            try:
                async with aclosing(self._listen()) as hints:
                    async for hint in hints:
                        if wait_s:
                            log.info("changes are heard again", extra={"store": self._shown})
                            wait_s = 0.0
                        yield hint
            except StoreUnavailableError as error:
                if not wait_s:
                    log.warning("changes cannot be heard", extra={"reason": error})
                wait_s = min(wait_s * 2 or first_s, longest_s)
                await asyncio.sleep(wait_s)

    async def _listen(self) -> AsyncGenerator[ChangedKey, None]:
        async with self._client.pubsub() as channel:
            async with self._door():
                await channel.subscribe(keys.CHANGES)
            tested = False
            while True:
                async with self._door(SILENCE_S + ANSWER_S):
                    message = await channel.get_message(timeout=SILENCE_S)
                    if message is None:
                        if tested:
                            raise StoreUnavailableError(f"the store at {self._shown} is silent")
                        await channel.ping()
                tested = message is None
                # redis-py connects again by itself, too: each connection begins with this message.
                if message and message["type"] == "subscribe":
                    for family in keys.FAMILIES:
                        yield ChangedKey(family=family, function="")
                elif message and message["type"] == "message":
                    family, _, function = message["data"].partition(" ")
                    yield ChangedKey(family=family, function=function)

    # the door

    async def _read_hash(self, key: str) -> dict[str, Any]:
        async with self._door():
            found = await cast("Awaitable[dict[str, str]]", self._client.hgetall(key))
        return {name: json.loads(text) for name, text in found.items()}

    async def _run(self, script: str, key_names: Sequence[str], arguments: Sequence[str | int]) -> Any:
        async with self._door():
            return await self._scripts[script](keys=key_names, args=arguments)

    @asynccontextmanager
    async def _door(self, limit_s: float = ANSWER_S) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except (RedisError, OSError) as error:
            text = str(error) or f"no answer within {limit_s:g} s"
            raise StoreUnavailableError(f"the store at {self._shown} does not answer: {text}") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
