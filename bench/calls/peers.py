"""Install the peers, each in an environment of its own, and say how each is started.

In:   a peer's name, a workload. Out: a Launch, or the reason why there is none.
`peers/<name>/requirements.txt` pins a peer and all it needs; `.nox/bench-peers/<name>` is where it lives.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from exchange import OfSize, invoke, json_list, raw, stream, v2_grpc, v2_json
from sides import Launch, free_port

BENCH = Path(__file__).parents[1]
ENVIRONMENTS = BENCH.parent / ".nox" / "bench-peers"


class PeerMissingError(Exception):
    """It cannot be installed; why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One of those that DCF is measured against."""

    name: str
    packages: tuple[str, ...]
    """Whose versions are told."""
    workloads: tuple[str, ...]
    lacks: str
    """Workloads that are left out, and why."""
    settings: str
    """How it is started, for people."""
    launch: Callable[[str], Launch]
    """Of a workload. The peer is installed."""

    @property
    def is_installed_apart(self) -> bool:
        """Else it is of DCF's own environment."""
        return (BENCH / "peers" / self.name).exists()


def install(name: str) -> None:
    """Make the environment anew where its requirements have changed. Raises PeerMissingError."""
    requirements = BENCH / "peers" / name / "requirements.txt"
    folder = ENVIRONMENTS / name
    stamp = folder / "installed"
    wanted = f"{sys.version} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or ["no word why"]
            raise PeerMissingError(words[-1])
    stamp.write_text(wanted)


def versions(name: str) -> dict[str, str]:
    """Of a peer that is installed."""
    peer = PEERS[name]
    places = [str(path) for path in (ENVIRONMENTS / name).glob("lib/python*/site-packages")]
    found = {}
    for package in peer.packages:
        for distribution in metadata.distributions(name=package, path=places if peer.is_installed_apart else sys.path):
            found[package] = distribution.version
    return found


def _program(peer: str, name: str = "python") -> str:
    return str(ENVIRONMENTS / peer / "bin" / name)


def _source(peer: str) -> str:
    return str(BENCH / "peers" / peer / "server.py")


def _of(workload: str) -> OfSize:
    return stream if workload == "stream" else raw


def _fastapi(workload: str) -> Launch:
    port = free_port()
    command = [_program("fastapi"), "-m", "uvicorn", "server:app", "--app-dir", str(BENCH / "peers" / "fastapi")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-access-log"]
    return Launch(command=command, url=f"http://127.0.0.1:{port}/{workload}", exchange=_of(workload))


def _litserve(workload: str) -> Launch:
    port = free_port()
    command = [_program("litserve"), _source("litserve"), workload, str(port)]
    return Launch(command=command, url=f"http://127.0.0.1:{port}/predict", exchange=_of(workload))


def _bentoml(workload: str) -> Launch:
    port = free_port()
    folder = str(BENCH / "peers" / "bentoml")
    command = [_program("bentoml", "bentoml"), "serve", "server:Bench", "--working-dir", folder]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return Launch(
        command=command,
        url=f"http://127.0.0.1:{port}/{workload}",
        environ={"BENTOML_DO_NOT_TRACK": "True"},
        exchange=json_list if workload == "batch" else _of(workload),
    )


def _ray_serve(workload: str) -> Launch:
    port, grpc_port = free_port(), free_port()
    is_grpc = workload == "grpc"
    return Launch(
        command=[_program("ray-serve"), _source("ray-serve"), workload, str(port), str(grpc_port)],
        url=f"http://127.0.0.1:{grpc_port}/pb.Gateway/Invoke" if is_grpc else f"http://127.0.0.1:{port}/{workload}",
        environ={
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join([str(BENCH / "peers" / "ray-serve"), str(BENCH.parent / "dcf" / "rpc")]),
        },
        exchange=invoke if is_grpc else _of(workload),
    )


def _mlserver(workload: str) -> Launch:
    http, grpc, metrics = free_port(), free_port(), free_port()
    model = "echo" if workload == "grpc" else workload
    folder = BENCH / "peers" / "mlserver"
    if workload == "grpc":
        url = f"http://127.0.0.1:{grpc}/inference.GRPCInferenceService/ModelInfer"
    else:
        url = f"http://127.0.0.1:{http}/v2/models/{model}/infer"
    return Launch(
        command=[_program("mlserver", "mlserver"), "start", str(folder / "models" / model)],
        url=url,
        environ={
            "PYTHONPATH": str(folder),
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(http),
            "MLSERVER_GRPC_PORT": str(grpc),
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_DEBUG": "false",
            "MLSERVER_PARALLEL_WORKERS": "0",
        },
        exchange=v2_grpc if workload == "grpc" else v2_json,
    )


def _grpc_aio(workload: str) -> Launch:
    port = free_port()
    command = [sys.executable, "-P", str(BENCH / "grpc_echo.py"), str(port)]
    return Launch(command=command, url=f"http://127.0.0.1:{port}/pb.Gateway/Invoke", exchange=invoke)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="fastapi",
            packages=("fastapi", "uvicorn", "uvloop", "httptools"),
            workloads=("echo", "stream", "sleep"),
            lacks="no batches, no gRPC",
            settings="`uvicorn server:app --workers 1 --no-access-log`, with uvloop and httptools",
            launch=_fastapi,
        ),
        Peer(
            name="litserve",
            packages=("litserve", "uvicorn", "uvloop", "httptools"),
            workloads=("echo", "stream", "sleep", "batch"),
            lacks="no gRPC",
            settings="`LitServer(api, accelerator='cpu', workers_per_device=1, fast_queue=True)`, one API server, "
            "no access log; batches of 64; the handler that sleeps is async",
            launch=_litserve,
        ),
        Peer(
            name="bentoml",
            packages=("bentoml", "uvicorn", "uvloop", "httptools"),
            workloads=("echo", "stream", "sleep", "batch"),
            lacks="its services have no gRPC any more",
            settings="`bentoml serve server:Bench`, `workers=1`, async methods, no access log; batches of 64, whose "
            "callers send a list of one in JSON",
            launch=_bentoml,
        ),
        Peer(
            name="mlserver",
            packages=("mlserver", "uvicorn", "uvloop", "httptools", "grpcio"),
            workloads=("echo", "sleep", "batch", "grpc"),
            lacks="its streams are events with a JSON document each, which compare with nothing here",
            settings="`mlserver start`, `debug: false`, `parallel_workers: 0`, which is the faster one here; bodies "
            "are its own protocol's (V2), JSON over HTTP; batches of 64 within 5 ms",
            launch=_mlserver,
        ),
        Peer(
            name="ray-serve",
            packages=("ray", "uvicorn", "uvloop", "httptools", "grpcio"),
            workloads=("echo", "stream", "sleep", "batch", "grpc"),
            lacks="",
            settings="one replica, `max_ongoing_requests=100`, no dashboard, no access log, "
            "`RAY_SERVE_THROUGHPUT_OPTIMIZED=1`; batches of 64",
            launch=_ray_serve,
        ),
        Peer(
            name="grpc.aio",
            packages=("grpcio", "uvloop"),
            workloads=("grpc",),
            lacks="gRPC alone",
            settings="`bench/grpc_echo.py`: one process, `grpc.aio` with uvloop, in DCF's own environment",
            launch=_grpc_aio,
        ),
    )
}
