"""GPUs from `dcf up` to the handler, on a machine whose `nvidia-smi` lists two."""

from __future__ import annotations

import pytest

from tests.flows.cluster import Cluster, until
from tests.gpus import A, B, stub_nvidia_smi

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEVICES = """
import os


class Handler:
    def __call__(self, req):
        return os.environ.get("CUDA_VISIBLE_DEVICES", "none")
"""


def build(cluster: Cluster, name: str) -> None:
    config = cluster.make(name, DEVICES) / "config.yaml"
    text = config.read_text()
    assert 'gpu: ""' in text
    config.write_text(text.replace('gpu: ""', 'gpu: "1"'))
    cluster.run("function", "build", "-f", f"{name}/config.yaml", "--backend", "process")


def test_two_replicas_have_different_gpus_and_the_third_waits_for_one(cluster: Cluster) -> None:
    cluster.environ["PATH"] = stub_nvidia_smi(cluster.root / "bin", A, B)
    cluster.up()
    for name in ("one", "two", "three"):
        build(cluster, name)
    assert "not enforced" not in cluster.run("function", "build", "-f", "one/config.yaml").stderr
    cluster.run("function", "deploy", "-f", "one/config.yaml")
    cluster.run("function", "deploy", "-f", "two/config.yaml")

    assert cluster.run("function", "invoke", "one", "--data", "x").stdout == A
    assert cluster.run("function", "invoke", "two", "--data", "x").stdout == B

    cluster.run("function", "deploy", "-f", "three/config.yaml", "--no-wait")
    until(lambda: "no GPU free: 2 of 2 are held by one-g1-0, two-g1-0" in describe(cluster), what="the reason")
    cluster.run("function", "delete", "one")
    until(lambda: cluster.function("three")["availableReplicas"] == 1, limit_s=40, what="the third's turn")
    assert cluster.run("function", "invoke", "three", "--data", "x").stdout == A


def describe(cluster: Cluster) -> str:
    return cluster.run("function", "describe", "three").stdout


def test_dcf_gpus_says_which_may_be_used_and_a_wrong_one_stops_the_start(cluster: Cluster) -> None:
    cluster.environ["PATH"] = stub_nvidia_smi(cluster.root / "bin", A, B)
    cluster.environ["DCF_GPUS"] = "all"
    refused = cluster.run("up", "--detach", "--listen", cluster.address, check=False)
    assert (refused.returncode, "DCF_GPUS='all' is not allowed" in refused.stderr) == (1, True)

    cluster.environ["DCF_GPUS"] = "1"
    cluster.up()
    del cluster.environ["DCF_GPUS"]
    build(cluster, "one")
    cluster.run("function", "deploy", "-f", "one/config.yaml")

    assert cluster.run("function", "invoke", "one", "--data", "x").stdout == B


def test_a_function_is_tried_on_the_first_gpu_before_any_deployment(cluster: Cluster) -> None:
    build(cluster, "one")
    without = cluster.run(
        "function", "run", "one", "-f", "one/config.yaml", "--data", "x", "--backend", "process", check=False
    )
    cluster.environ["PATH"] = stub_nvidia_smi(cluster.root / "bin", A, B)
    tried = cluster.run("function", "run", "one", "-f", "one/config.yaml", "--data", "x", "--backend", "process")

    assert "one asks for 1 GPU (limits.gpu), and none can be used here: there is no nvidia-smi" in without.stderr
    assert tried.stdout == A
