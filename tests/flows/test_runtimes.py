"""Functions in every language, as processes. The same verbs on Docker and a Swarm: tests/engine."""

from __future__ import annotations

import struct

import pytest

from dcf.build.runtimes import list_runtimes
from dcf.build.toolchains import version_here
from tests.engine.commands import missing
from tests.flows.cluster import Cluster
from tests.flows.runtimes import check_every_verb

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _toolchains() -> None:
    for runtime in list_runtimes():
        if not version_here(runtime):
            missing(f"{runtime} is not on this machine")


@pytest.mark.parametrize("runtime", sorted(list_runtimes()))
def test_every_verb(shared_cluster: Cluster, runtime: str) -> None:
    check_every_verb(shared_cluster, runtime)


@pytest.mark.parametrize("runtime", sorted(list_runtimes()))
def test_a_function_as_init_writes_it_answers_with_its_input(shared_cluster: Cluster, runtime: str) -> None:
    name = f"written-{runtime}"
    shared_cluster.run("function", "init", name, "--runtime", runtime)
    shared_cluster.run("function", "build", "-f", f"{name}/config.yaml")

    assert shared_cluster.run("function", "run", name, stdin="Hello").stdout == "Hello"


def test_an_input_in_node_is_memory_of_its_own(shared_cluster: Cluster) -> None:
    """As tensors are read: at offset 0, whatever came with it, and with no other call's bytes behind it."""
    shared_cluster.run("function", "init", "floats", "--runtime", "node")
    (shared_cluster.work / "floats/src/handler.js").write_text(
        "exports.Handler = ({ input }) => [...new Float32Array(input.buffer), input.byteOffset];\n"
    )
    shared_cluster.run("function", "build", "-f", "floats/config.yaml")
    shared_cluster.run("function", "deploy", "-f", "floats/config.yaml")

    for extra in ("a", "ab", "abc", "abcd"):
        call = ("function", "invoke", "floats", "--header", f"X-Extra: {extra}")
        assert shared_cluster.run(*call, stdin=struct.pack("<2f", 1.5, -2.0)).stdout == "[1.5,-2,0]"


def test_the_runtimes_are_listed_with_their_versions(shared_cluster: Cluster) -> None:
    lines = shared_cluster.run("runtime", "list").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["Runtime", "go", "node", "python"]
    for runtime in shared_cluster.json("runtime", "list"):
        assert runtime["versions"].endswith(" and later")
        # This machine has all of them, or the test above could not pass.
        assert all(part.isdigit() for part in runtime["here"].split("."))
