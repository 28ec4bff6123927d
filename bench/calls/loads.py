"""The kinds of load, each as data that can put itself on a Side.

In:   a Side, seconds. Out: what loadgen.py saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from exchange import CHUNK, invokes
from loadgen import SIZE, Load, call_at_rate, call_on_one_stream, call_unary, post, read_streams
from sides import Side

MIB = 1 << 20
LONGER = 2
"""So many times as long for bodies of a MiB and more: some peers need a second for one of 16 MiB."""


class Kind(Protocol):
    """One load."""

    @property
    def name(self) -> str:
        """In the results."""

    @property
    def size(self) -> int:
        """Bytes of a body."""

    @property
    def tool(self) -> str:
        """Which generator makes it."""

    def put(self, side: Side, seconds: int) -> Load:
        """Raises LoadFailedError, SideFailedError."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Connections that each send their next request when they have their answer."""

    connections: int
    size: int = SIZE
    tool: str = "wrk"

    @property
    def name(self) -> str:
        body = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size} B"
        return f"{body} x {self.connections}"

    def put(self, side: Side, seconds: int) -> Load:
        length_s = seconds * LONGER if self.size >= MIB else seconds
        return post(side.url, self.connections, length_s, side.exchange(self.size))


@dataclass(frozen=True, slots=True)
class Unary:
    """The same with the streams of one gRPC connection."""

    in_flight: int
    size: int = SIZE
    tool: str = "h2load"

    @property
    def name(self) -> str:
        return f"unary x {self.in_flight}"

    def put(self, side: Side, seconds: int) -> Load:
        exchange = side.exchange(self.size)
        return call_unary(side.url, self.in_flight, seconds, exchange, len(side.answer_to(exchange)))


@dataclass(frozen=True, slots=True)
class Invokes:
    """Messages of pb.Gateway/Invokes, on one stream."""

    in_flight: int
    size: int = SIZE
    tool: str = "bench/load"

    @property
    def name(self) -> str:
        return f"one stream x {self.in_flight}"

    def put(self, side: Side, seconds: int) -> Load:
        url = f"http://{urlsplit(side.url).netloc}/pb.Gateway/Invokes"
        return call_on_one_stream(url, self.in_flight, seconds, invokes(self.size))


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a second, whatever becomes of those before."""

    per_s: int
    connections: int = 64
    size: int = SIZE
    tool: str = "bench/load"

    @property
    def name(self) -> str:
        return f"{self.per_s} a second"

    def put(self, side: Side, seconds: int) -> Load:
        return call_at_rate(side.url, self.per_s, self.connections, seconds, side.exchange(self.size))


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams that are read to their end, `connections` at once; how long that takes is all that counts."""

    streams: int
    connections: int
    size: int = SIZE
    tool: str = "bench/load"

    @property
    def name(self) -> str:
        return f"{self.connections} streams" if self.connections > 1 else "one stream"

    def put(self, side: Side, seconds: int) -> Load:
        return read_streams(side.url, self.connections, self.streams, CHUNK, side.exchange(self.size))
