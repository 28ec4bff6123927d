"""Put load on one URL and say what came back, with programs that are not Python.

In:   a URL, an Exchange, how many connections, how long. Out: a Load.
wrk:        HTTP, a connection sends its next request when it has its answer.
h2load:     unary gRPC, the same with the streams of one connection.
bench/load: what these cannot: a constant rate, streams, one gRPC stream.
Raises LoadFailedError where a generator fails or is not there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from exchange import Exchange, raw

BENCH = Path(__file__).parent
TOOLS = BENCH.parent / ".nox" / "bench-tools"
SIZE = 100
"""Bytes of a body where nothing else is said."""
WAIT_S = 30
"""An answer that takes longer is an error."""
_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
_COUNTS = re.compile(r"(\d+) (done|succeeded|failed|errored|timeout)")


class LoadFailedError(Exception):
    """The load generator itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of one load."""

    requests: int
    """Answers; chunks where the load is streams."""
    duration_us: int
    p50_us: int
    p99_us: int
    bad_answers: int
    """Status, length or content is not what it should be. (wrk knows statuses of 400 and up, and the length of all.)"""
    socket_errors: int
    """Time-outs too."""


def post(url: str, connections: int, seconds: int, exchange: Exchange | None = None) -> Load:
    """wrk, with one thread; without an exchange the body is SIZE bytes."""
    exchange = exchange or raw(SIZE)
    with tempfile.TemporaryDirectory(prefix="dcf-load-") as folder:
        body = Path(folder, "body")
        body.write_bytes(exchange.request)
        command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{WAIT_S}s"]
        command += ["-s", str(BENCH / "post.lua"), url, "--", str(body), exchange.content_type]
        output = _run(command, seconds)
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if not found:
        raise LoadFailedError(f"wrk said {output.strip()!r}")
    facts = json.loads(found[1])
    if facts.pop("read_bytes") < facts["requests"] * len(exchange.answer):
        facts["bad_answers"] = max(facts["bad_answers"], 1)
    return Load(**facts)


def call_unary(url: str, in_flight: int, seconds: int, exchange: Exchange, answer_bytes: int) -> Load:
    """h2load, with one connection; `answer_bytes` is how long each answer has to be: an error of gRPC's has none."""
    with tempfile.TemporaryDirectory(prefix="dcf-load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(exchange.request)
        command = [tool("h2load"), "-D", str(seconds), "-c1", f"-m{in_flight}", "-d", str(body), f"--log-file={log}"]
        command += ["-H", f"content-type: {exchange.content_type}", "-H", "te: trailers", url]
        output = _run(command, seconds)
        # Columns: start in microseconds, status, microseconds until the end of the answer.
        times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    counts = {name: int(number) for number, name in _COUNTS.findall(output)}
    read = re.search(r"\((\d+)\) data", output)
    if not read or not counts:
        raise LoadFailedError(f"h2load said {output.strip()!r}")
    done = counts["done"]
    # Of those that are under way at the end some may have sent their message and not yet their trailers.
    is_whole = done * answer_bytes <= int(read[1]) <= (done + in_flight) * answer_bytes
    return Load(
        requests=done,
        duration_us=seconds * 1_000_000,
        p50_us=percentile(times, 0.50),
        p99_us=percentile(times, 0.99),
        bad_answers=max(done - counts["succeeded"], 0 if is_whole else 1),
        socket_errors=counts["failed"] + counts["errored"] + counts["timeout"],
    )


def call_at_rate(url: str, per_s: int, connections: int, seconds: int, exchange: Exchange) -> Load:
    """Requests evenly spaced in time; a latency counts from when its request was due."""
    words = ("rate", "-url", url, "-per-s", str(per_s), "-connections", str(connections), "-seconds", str(seconds))
    return _run_own(words, exchange, seconds)


def read_streams(url: str, connections: int, streams: int, chunk: int, exchange: Exchange) -> Load:
    """`streams` in all, each read to its end; latencies are those of the first chunk."""
    words = ("streams", "-url", url, "-connections", str(connections), "-streams", str(streams))
    return _run_own((*words, "-size", str(len(exchange.answer)), "-chunk", str(chunk)), exchange, seconds=120)


def call_on_one_stream(url: str, in_flight: int, seconds: int, exchange: Exchange) -> Load:
    """Messages on one gRPC stream."""
    words = ("invokes", "-url", url, "-in-flight", str(in_flight), "-seconds", str(seconds))
    return _run_own(words, exchange, seconds)


def percentile(ordered: list[int], share: float) -> int:
    """0 where there is none."""
    return ordered[round(share * (len(ordered) - 1))] if ordered else 0


def tool(name: str) -> str:
    """Path of a program of Debian's."""
    found = shutil.which(name)
    if not found:
        raise LoadFailedError(f"{name} is not on this machine (Debian, Ubuntu: apt install {_PACKAGES[name]})")
    return found


@cache
def build_own() -> Path:
    """Compile bench/load; from the second time on that is quick."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not go:
        raise LoadFailedError("bench/load is compiled with Go 1.24 or later, which is not on this machine")
    program = TOOLS / "load"
    command = [go, "build", "-o", str(program), "."]
    environ = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(command, cwd=BENCH / "load", env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailedError(f"bench/load does not compile: {done.stderr.strip()}")
    return program


def versions() -> dict[str, str]:
    """Of all generators: those that are installed are not pinned, so a result says which it was made with."""
    found = {}
    with suppress(LoadFailedError):
        # `wrk -v` ends with status 1.
        found["wrk"] = subprocess.run([tool("wrk"), "-v"], capture_output=True, text=True, check=False).stdout.split()[
            1
        ]
    with suppress(LoadFailedError):
        found["h2load"] = _run([tool("h2load"), "--version"], 0).split()[-1]
    with suppress(LoadFailedError):
        words = _run([shutil.which("go") or "/usr/local/go/bin/go", "version", str(build_own())], 0).split()
        found["bench/load"] = f"of {words[-1]}"
    return found


def _run_own(words: tuple[str, ...], exchange: Exchange, seconds: int) -> Load:
    with tempfile.TemporaryDirectory(prefix="dcf-load-") as folder:
        body, answer = Path(folder, "body"), Path(folder, "answer")
        body.write_bytes(exchange.request)
        answer.write_bytes(exchange.answer)
        command = [str(build_own()), *words, "-body", str(body)]
        command += ["-answer", str(answer), "-type", exchange.content_type]
        return Load(**json.loads(_run(command, seconds)))


def _run(command: list[str], seconds: int) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 2 * WAIT_S)
    except subprocess.TimeoutExpired as error:
        raise LoadFailedError(f"{name} did not end") from error
    if done.returncode:
        raise LoadFailedError(f"{name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
