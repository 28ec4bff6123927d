"""One replica of a built function, without a cluster: started, called, gone.

In:   a watcher's environment. Out: the reply; what the handler prints goes to
`on_output` line by line. Nothing is left behind, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from dcf.errors import DcfError, HandlerError, LoadError
from dcf.lifecycle import die_with_parent
from dcf.rpc import v1_watcher_pb2 as v1
from dcf.rpc.services import OPTIONS, Stub

STOP_S = 8.0
"""Nothing is in flight any more when the replica is stopped; past this it is killed."""
MARGIN_S = 15.0
"""Over the function's own limits, which the watcher keeps; ours is only there so that nothing ever hangs."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "SSL_CERT_FILE", "SSL_CERT_DIR",
             "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy",
             "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")  # fmt: skip


class LocalReplica:
    """A watcher process and a stub for it. Belongs to the main thread; `_read` runs in its own."""

    def __init__(self, process: subprocess.Popen[str], channel: grpc.Channel, on_output: Callable[[str], None]) -> None:
        self._process = process
        self._stub = Stub(channel, v1.DESCRIPTOR.services_by_name["Watcher"])
        self._on_output = on_output
        self._complaints: list[str] = []
        self._waiting: Any = None
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, name="replica output", daemon=True)
        self._reader.start()

    def wait_until_ready(self, limit_s: float) -> None:
        """Return when the handler is loaded. Raises LoadError with the cause when it cannot be."""
        stream = self._stub.Watch(v1.WatchRequest(), timeout=limit_s + MARGIN_S, wait_for_ready=True)
        self._until_end(stream)
        try:
            for state in stream:
                if state.state in {"ready", "busy"}:
                    return
                if state.state == "failed":
                    break
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LoadError(f"the handler was not ready within {limit_s:g} s") from failure
        finally:
            stream.cancel()
        self._ended.wait(STOP_S)
        raise LoadError(self._cause("the function could not be started"))

    def call(self, data: bytes, metadata: Mapping[str, str], limit_s: float) -> bytes:
        """The handler's answer, within the function's timeout. Raises HandlerError with the cause."""
        request = v1.CallRequest(input=data, metadata=dict(metadata))
        pending = self._stub.Call.future(request, timeout=limit_s)
        self._until_end(pending)
        try:
            return bytes(pending.result().output)
        except grpc.FutureCancelledError:
            raise HandlerError(self._cause("the replica ended during the call")) from None
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise HandlerError(f"no answer within the function's timeout of {limit_s:g} s") from failure
            raise HandlerError(str(failure.details())) from failure

    def stop(self) -> None:
        """End the watcher and everything that it started, and read its last words."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # The group, not only the watcher: a worker that did not notice must not stay.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join(1.0)

    def _until_end(self, rpc: Any) -> None:
        """Cancel `rpc` when the process is gone: gRPC would go on trying to connect."""
        self._waiting = rpc
        if self._ended.is_set():
            rpc.cancel()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                stream, text = _split(line.rstrip("\n"))
                if stream == "dcf":
                    self._complaints.append(text)
                else:
                    self._on_output(text)
        self._ended.set()
        if self._waiting is not None:
            self._waiting.cancel()

    def _cause(self, otherwise: str) -> str:
        self._reader.join(1.0)
        said = [text.removeprefix("dcf: ") for text in self._complaints if text.startswith("dcf: ")]
        return said[-1] if said else "; ".join(self._complaints[-3:]) or otherwise


def _split(line: str) -> tuple[str, str]:
    """Stream and text of `<unix seconds> <stream> <text>`; any other line is the watcher's own."""
    at, _, rest = line.partition(" ")
    stream, _, text = rest.partition(" ")
    if stream in {"stdout", "stderr", "dcf"} and at.replace(".", "", 1).isdigit():
        return stream, text
    return "dcf", line


@contextmanager
def open_local_replica(
    environment: Callable[[str], Mapping[str, str]], *, cwd: Path, on_output: Callable[[str], None]
) -> Iterator[LocalReplica]:
    """Start a watcher here; `environment` makes its DCF_* variables from its address."""
    with tempfile.TemporaryDirectory(prefix="dcf-run-") as folder:
        address = f"unix:{folder}/watcher.sock"
        environ = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # The watcher runs in the bundle's folder: a handler.py or json.py there is the function's, not its own.
        environ |= {"PYTHONSAFEPATH": "1", "DCF_LOG_LEVEL": "error"} | dict(environment(address))
        command = [sys.executable, "-m", "dcf.watcher"]
        with open_replica_process(command, environ, address, cwd=cwd, on_output=on_output) as replica:
            yield replica


@contextmanager
def open_replica_process(
    command: list[str],
    environ: Mapping[str, str],
    address: str,
    *,
    cwd: Path | None = None,
    on_output: Callable[[str], None],
) -> Iterator[LocalReplica]:
    """Start a process whose watcher will answer at `address`, and end it with the block."""
    try:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            # A session of its own: Ctrl-C is ours to pass on, once.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise DcfError(f"the function's watcher cannot be started: {error}") from error
    replica = None
    try:
        with grpc.insecure_channel(address, options=OPTIONS) as channel:
            replica = LocalReplica(process, channel, on_output)
            yield replica
    finally:
        if replica:
            replica.stop()
        else:
            process.kill()
            process.wait()
