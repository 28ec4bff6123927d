"""A gateway process with a real Redis, a real scheduler and real replicas behind it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from dcf.rpc import pb_gateway_pb2, v1_gateway_pb2
from dcf.rpc.services import OPTIONS, Stub
from dcf.store.embedded import find_redis_server
from tests.conftest import RedisServer
from tests.gateway.processes import children_of
from tests.scheduler.processes import make_bundle

PB = pb_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]
V1 = v1_gateway_pb2.DESCRIPTOR.services_by_name["Gateway"]
TOKEN = "open-sesame"


def wait_for(look: Callable[[], Any], what: str, *, within_s: float = 30.0) -> Any:
    """The first true answer of `look`; fails when there is none in time."""
    end = time.monotonic() + within_s
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


class Cluster:
    """Redis and a scheduler; gateways come and go."""

    def __init__(self, *, lease_ttl_s: float = 1.5) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dcf-g-", dir="/tmp"))
        self.state, self.bundles = self.folder / "state", self.folder / "bundles"
        self.state.mkdir()
        self.redis = RedisServer(find_redis_server())
        self._processes: list[subprocess.Popen[bytes]] = []
        self._scheduler = {
            "DCF_STORE_URL": self.redis.url,
            "DCF_SCHEDULER_ID": "local-0",
            "DCF_STATE": str(self.state),
            "DCF_BUNDLES": str(self.bundles),
            "DCF_TICK_S": "0.2",
            "DCF_LEASE_TTL_S": str(lease_ttl_s),
        }
        self.scheduler = self.start("dcf.scheduler", self._scheduler)

    def start_standby(self) -> subprocess.Popen[bytes]:
        """Another scheduler, which waits for the lease of the first."""
        return self.start("dcf.scheduler", self._scheduler | {"DCF_SCHEDULER_ID": "local-1"})

    def replicas(self, function: str) -> dict[str, int]:
        """Pids of its watchers by replica, whoever started them."""
        records = [json.loads(path.read_text()) for path in self.state.glob("replicas/*/replica.json")]
        return {one["name"]: one["pid"] for one in records if one["function"] == function}

    def start(self, module: str, environ: dict[str, str], fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        plain = {key: text for key, text in os.environ.items() if not key.startswith("DCF_")}
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env=plain | environ, stdout=log, stderr=log, pass_fds=fds
            )
        self._processes.append(process)
        return process

    def bundle(self, name: str, source: str) -> str:
        """A built function; its image."""
        return make_bundle(self.bundles, name, source)

    def watcher_pids(self) -> list[int]:
        """Of all replicas."""
        pids = [pid for process in self._processes if process.poll() is None for pid in children_of(process.pid)]
        return [pid for pid in pids if b"dcf.watcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def log(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # the test has failed already; leave nothing behind
                process.kill()
                process.wait()
        plain = {key: text for key, text in os.environ.items() if not key.startswith("DCF_")}
        subprocess.run(
            [sys.executable, "-m", "dcf.scheduler", "--stop-replicas"], env=plain | self._scheduler, timeout=30
        )
        self.redis.close()
        print(self.log())  # shown where a test fails
        shutil.rmtree(self.folder)


class Gateway:
    """One gateway process."""

    def __init__(self, cluster: Cluster, name: str = "local-0", **environ: str) -> None:
        self.cluster = cluster
        ready, told = os.pipe()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.address = f"127.0.0.1:{sock.getsockname()[1]}"
            settings = {
                "DCF_STORE_URL": cluster.redis.url,
                "DCF_GATEWAY_ID": name,
                "DCF_LISTEN": self.address,
                "DCF_LISTEN_FD": str(sock.fileno()),
                "DCF_READY_FD": str(told),
                "DCF_DRAIN_S": "10",
            }
            self.process = cluster.start("dcf.gateway", settings | environ, (sock.fileno(), told))
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read() == b"1", f"the gateway did not start\n{cluster.log()}"

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=OPTIONS)

    def http(
        self, method: str, path: str, body: Any = None, *, token: str | None = TOKEN
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, body, headers); a body that is JSON is read."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text, heads = answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                status, text, heads = error.code, error.read(), dict(error.headers)
        with contextlib.suppress(ValueError):
            return status, json.loads(text), heads
        return status, text.decode(), heads

    def deploy(self, name: str, source: str, **fields: Any) -> None:
        """Build, deploy and wait until it is ready."""
        image = self.cluster.bundle(name, source)
        status, answer, _ = self.http("POST", "/system/functions", {"service": name, "image": image, **fields})
        assert status == 202, answer
        self.until(name, lambda view: view["settled"], "settled")

    def view(self, name: str) -> dict[str, Any]:
        _, answer, _ = self.http("GET", f"/system/function/{name}")
        assert isinstance(answer, dict)
        return answer

    def until(self, name: str, right: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            view = self.view(name)
            return view if "error" not in view and right(view) else None

        found = wait_for(look, f"{name} {what}")
        assert isinstance(found, dict)
        return found

    def samples(self) -> list[Any]:
        """All of /metrics, read by Prometheus' own parser."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return [sample for family in families for sample in family.samples]

    def gauges(self, function: str) -> dict[str, int]:
        """One function's calls in this process."""
        return {
            sample.name: int(sample.value)
            for sample in self.samples()
            if sample.labels.get("function_name") == function and "gateway" in sample.labels
        }

    def metric(self, name: str) -> float:
        """One of the process's own gauges."""
        (value,) = [sample.value for sample in self.samples() if sample.name == name]
        return float(value)

    def stop(self) -> int:
        """Ask it to stop, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def pb_stub(channel: Any) -> Stub:
    return Stub(channel, PB)


def v1_stub(channel: Any) -> Stub:
    return Stub(channel, V1)
