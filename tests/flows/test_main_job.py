"""From a folder to an answer, as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest

from dcf.build.interpreters import find_interpreter
from dcf.errors import BuildError
from dcf.rpc import pb_gateway_pb2 as pb
from dcf.rpc.services import OPTIONS, Stub
from tests.flows.cluster import Cluster, until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_init_build_run_deploy_invoke(cluster: Cluster) -> None:
    cluster.up()
    cluster.run("function", "init", "echo", "--runtime", "python", "--gateway", cluster.address)
    cluster.run("function", "build", "-f", "echo/config.yaml")
    assert cluster.run("function", "run", "echo", stdin="Hello\n").stdout == "Hello\n"
    cluster.run("function", "deploy", "-f", "echo/config.yaml")

    curl = subprocess.run(
        ["curl", "-sS", "-d", "Hello DCF", f"{cluster.url}/function/echo"], capture_output=True, text=True, check=True
    )
    assert curl.stdout == "Hello DCF"
    with grpc.insecure_channel(cluster.address, options=OPTIONS) as channel:
        stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Gateway"])
        assert stub.Invoke(pb.InvokeServiceRequest(Service="echo", Input=b"Hello DCF"), timeout=10).Msg == "Hello DCF"
    assert cluster.run("function", "invoke", "echo", stdin="Hello\n").stdout == "Hello\n"

    until(lambda: cluster.function("echo")["invocationCount"] == 3, what="exactly three invocations")
    head, row = cluster.run("function", "list").stdout.splitlines()[:2]
    assert head.split() == ["Function", "Image", "Maintainer", "Invocations", "Replicas", "Status", "Description"]
    assert row.split()[0] == "echo"
    assert row.split()[1].startswith("bundle:echo@")
    assert row.split()[2:] == ["3", "1/1", "Ready"]

    cluster.run("function", "delete", "echo")
    assert cluster.json("function", "list") == []
    until(lambda: not cluster.replicas("echo"), what="the replica to go")


def test_restart_keeps_functions_and_counts(cluster: Cluster) -> None:
    cluster.up("--processes", "2")
    cluster.deploy("echo", "class Handler:\n    def __call__(self, req):\n        return req.input\n")
    for _ in range(5):
        cluster.run("function", "invoke", "echo", stdin="x")
    cluster.down()
    assert not list((cluster.state / "replicas").glob("*/sock*"))
    cluster.up()
    assert cluster.function("echo")["invocationCount"] == 5
    until(lambda: cluster.function("echo")["availableReplicas"] == 1, what="the replica to be back")


def test_one_function_calls_another(cluster: Cluster) -> None:
    cluster.up()
    inner = "class Handler:\n    def __call__(self, req):\n        return b'<' + req.input + b'>'\n"
    outer = """
import mesh

class Handler:
    def __call__(self, req):
        try:
            return mesh.mesh_call(req.metadata["query"] or "inner", req.input)
        except mesh.MeshError as error:
            return {"code": error.code, "message": str(error)}
"""
    cluster.deploy("inner", inner)
    cluster.deploy("outer", outer)
    curl = ["curl", "-sS", "-d", "hello"]

    def call(query: str) -> str:
        url = f"{cluster.url}/function/outer{query}"
        return subprocess.run([*curl, url], capture_output=True, text=True, check=True).stdout

    assert call("") == "<hello>"
    assert json.loads(call("?outer"))["code"] == "mesh_cycle"
    assert "outer -> outer" in json.loads(call("?outer"))["message"]
    assert json.loads(call("?nobody"))["code"] == "function_not_found"
    until(lambda: cluster.function("inner")["invocationCount"] == 1, what="the mesh call to be counted")


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
def test_a_handler_on_another_python(shared_cluster: Cluster, version: str) -> None:
    if not has_python(version):
        pytest.skip(f"this machine has no Python {version}")
    name = "py" + version.replace(".", "-")
    folder = shared_cluster.make(
        name, "import sys\n\nclass Handler:\n    def __call__(self, req):\n        return sys.version\n"
    )
    path = folder / "config.yaml"
    path.write_text(re.sub(r"PYTHON_VERSION=\S+", f"PYTHON_VERSION={version}", path.read_text()))
    shared_cluster.run("function", "build", "-f", str(path))
    shared_cluster.run("function", "deploy", "-f", str(path))

    assert shared_cluster.run("function", "invoke", name, stdin="").stdout.startswith(f"{version}.")


def has_python(version: str) -> bool:
    try:
        find_interpreter(version)
    except BuildError:
        return False
    return True


def test_manual_scale(cluster: Cluster) -> None:
    cluster.up()
    cluster.deploy("echo", "class Handler:\n    def __call__(self, req):\n        return req.info.replica\n")
    cluster.run("function", "scale", "echo", "3")
    until(lambda: cluster.function("echo")["availableReplicas"] == 3, what="three replicas")
    cluster.run("function", "scale", "echo", "0")
    until(lambda: not cluster.replicas("echo"), what="no replica")
    refused = cluster.run("function", "invoke", "echo", stdin="x", check=False)
    assert refused.returncode == 1
    assert "scaled to 0" in refused.stderr
    cluster.run("function", "scale", "echo", "--auto")
    until(lambda: cluster.function("echo")["availableReplicas"] == 1, what="the spec's own number")
    assert cluster.run("function", "invoke", "echo", stdin="x").stdout.startswith("echo-g1-")


def test_wheel_carries_templates_and_the_example(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        timeout=110,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for name in (
        "dcf/compose/local.yaml",
        "dcf/compose/Dockerfile",
        "dcf/templates/config.yaml",
        "dcf/templates/runtimes.yaml",
        "dcf/templates/python/src/handler.py",
        "dcf/watcher/worker/worker.py",
        "dcf/store/scripts/write_counts.lua",
        "dcf/examples/digits/src/handler.py",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
