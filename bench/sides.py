"""Start and stop what is measured: a DCF cluster with its functions, and any other server.

In:   a folder for everything that is written. Out: a Side that answers.
Raises SideFailedError with the last words of what failed; leaves no process.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from cpu import alive, descendants
from exchange import GRPC, RAW, Exchange, OfSize, invoke, raw
from loadgen import SIZE, WAIT_S

START_S = 60.0
STOP_S = 20.0


class SideFailedError(Exception):
    """A side did not start, or answers wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One contestant."""

    name: str
    url: str
    pid: int
    """All its processes are this one and its descendants."""
    exchange: OfSize = raw

    def check(self) -> None:
        """Raise SideFailedError unless calls are answered as they should be."""
        exchanges = [self.exchange(SIZE)]
        if self.exchange is raw:
            every = bytes(range(256))
            exchanges.append(Exchange(content_type=RAW, request=every, answer=every))
        for exchange in exchanges:
            answer = self.answer_to(exchange)
            if not exchange.is_answered_by(answer):
                raise SideFailedError(
                    f"{self.name} answered a body of {len(exchange.request)} bytes with {len(answer)}: {answer[:200]!r}"
                )

    def answer_to(self, exchange: Exchange) -> bytes:
        """Of one call. Raises SideFailedError, and OSError where nobody listens."""
        if exchange.content_type == GRPC:
            return _call_grpc(self.url, exchange)
        status, answer = _post(self.url, exchange)
        if status != 200:
            size = len(exchange.request)
            raise SideFailedError(f"{self.name} answered a body of {size} bytes with {status} and {answer[:200]!r}")
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a server that is not DCF is started."""

    command: list[str]
    url: str
    environ: dict[str, str] = field(default_factory=dict)
    exchange: OfSize = raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`dcf up` with default settings, in a state folder of its own."""

    name: str
    address: str
    pid: int
    work: Path
    environ: dict[str, str]

    @contextmanager
    def open_function(
        self,
        name: str = "echo",
        *,
        runtime: str = "python",
        handler: str | None = None,
        config: str = "",
        exchange: OfSize = raw,
    ) -> Iterator[Side]:
        """The function that `init` writes, deployed, and deleted afterwards.

        Args:
            name: of the function.
            runtime: of the function.
            handler: another source for it.
            config: lines to add to its part of config.yaml, indented by four blanks.
            exchange: what its handler answers.
        """
        folder = self.work / name
        if not folder.exists():
            self.dcf("function", "init", name, "--runtime", runtime, "--gateway", self.address)
            if handler is not None:
                (folder / "src" / "handler.py").write_text(handler)
            path = folder / "config.yaml"
            path.write_text(path.read_text().replace("dcf:\n", f"{config}dcf:\n", 1))
        self.dcf("function", "build", "-f", f"{name}/config.yaml")
        self.dcf("function", "deploy", "-f", f"{name}/config.yaml")
        yield Side(name=self.name, url=f"http://{self.address}/function/{name}", pid=self.pid, exchange=exchange)
        self.dcf("function", "delete", name, "--gateway", self.address)

    def grpc_side(self) -> Side:
        """The function echo by pb.Gateway/Invoke."""
        return Side(name=self.name, url=f"http://{self.address}/pb.Gateway/Invoke", pid=self.pid, exchange=invoke)

    def dcf(self, *words: str) -> str:
        return _dcf(self.work, self.environ, *words)


@contextmanager
def open_cluster(folder: Path, *, name: str = "dcf", options: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """`dcf up` with default settings, but for `options`."""
    work = folder / "work"
    work.mkdir(parents=True)
    environ = _environ() | {"DCF_BUNDLES": str(folder / "bundles"), "DCF_CONFIG": str(folder / "config.yaml")}
    state = ("--state", str(folder / "state"))
    try:
        _dcf(work, environ, "up", "--detach", *state, "--listen", "127.0.0.1:0", *options)
        facts = json.loads(_dcf(work, environ, "status", *state, "--output", "json"))
        yield Cluster(name=name, address=facts["address"], pid=facts["pid"], work=work, environ=environ)
    except BaseException:
        with suppress(SideFailedError):  # what failed first is what counts
            _dcf(work, environ, "down", *state)
        raise
    _dcf(work, environ, "down", *state)


@contextmanager
def open_dcf(
    folder: Path, *, runtime: str = "python", name: str = "dcf", handler: str | None = None, config: str = ""
) -> Iterator[Side]:
    """A cluster and one function, as in `open_function`; the function that `init` writes answers already."""
    with (
        open_cluster(folder, name=name) as cluster,
        cluster.open_function(runtime=runtime, handler=handler, config=config) as side,
    ):
        if handler is None:
            wait_for(side)
        yield side


@contextmanager
def open_server(name: str, launch: Launch, folder: Path) -> Iterator[Side]:
    """A server that is not DCF; `folder`, whose path is short for the sake of Ray's sockets, is its home."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{name}.log"
    environ = _environ() | {"HOME": str(folder), "TMPDIR": str(folder)} | launch.environ
    with output.open("wb") as file:
        process = subprocess.Popen(launch.command, cwd=folder, env=environ, stdout=file, stderr=file)
    try:
        side = Side(name=name, url=launch.url, pid=process.pid, exchange=launch.exchange)
        try:
            wait_for(side, process)
        except SideFailedError as error:
            words = output.read_text(errors="replace").strip()[-2000:]
            raise SideFailedError(f"{error}\n{words}") from error
        yield side
    finally:
        _stop(process)


def wait_for(side: Side, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return when it answers as it should; a server may listen before it does."""
    end = time.monotonic() + START_S
    while True:
        try:
            side.check()
            return
        except (OSError, http.client.HTTPException, SideFailedError) as error:
            if process and process.poll() is not None:
                raise SideFailedError(f"{side.name} ended with {process.returncode}") from error
            if time.monotonic() > end:
                raise SideFailedError(f"{side.name} did not answer within {START_S:g} s: {error}") from error
            time.sleep(0.1)


def free_port() -> int:
    """One that nobody listened on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end as Ctrl-C does, which all of them know; then end what is left of it."""
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid, started in family.items():
        if alive(pid) == started:  # a pid may have been given to somebody else
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def _dcf(work: Path, environ: dict[str, str], *words: str) -> str:
    # -P and another folder: the installed package, not the tree that the bench stands in.
    command = [sys.executable, "-P", "-m", "dcf", *words]
    done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SideFailedError(f"`dcf {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _post(url: str, exchange: Exchange) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=WAIT_S)
    try:
        connection.request("POST", parts.path, exchange.request, {"Content-Type": exchange.content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _call_grpc(url: str, exchange: Exchange) -> bytes:
    """By a real client, which frames a message itself."""
    parts = urlsplit(url)
    with grpc.insecure_channel(parts.netloc) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(parts.path)
        try:
            answer: bytes = call(exchange.request[5:], timeout=WAIT_S)
        except grpc.RpcError as error:
            raise SideFailedError(f"{url} answered with {error}") from error
    return b"\0" + len(answer).to_bytes(4, "big") + answer


def _environ() -> dict[str, str]:
    """Ours without what would change a default of a side."""
    ours = (
        "BENTOML_", "DCF_", "MLSERVER_", "RAY_", "SERVE_", "UVICORN_", "WEB_CONCURRENCY",
        "PYTHONPATH", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE",
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
