"""Every verb of a function's life, in each runtime: what holds on every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.flows.cluster import Cluster, until

HANDLERS = {
    "python": (
        "handler.py",
        """
class Handler:
    def __call__(self, req):
        print("was sent %d bytes" % len(req.input))
        return b"python says " + req.input
""",
    ),
    "go": (
        "handler.go",
        """
package function

import (
	"fmt"

	"dcf"
)

func Handler(req dcf.Request) (dcf.Reply, error) {
	fmt.Println("was sent", len(req.Input), "bytes")
	return dcf.Bytes(append([]byte("go says "), req.Input...)), nil
}
""",
    ),
    "node": (
        "handler.js",
        """
exports.Handler = class {
  call(req) {
    console.log(`was sent ${req.input.length} bytes`);
    return Buffer.concat([Buffer.from("node says "), req.input]);
  }
};
""",
    ),
}
"""Runtime -> file and text of a handler that prints and answers."""
BUILD_S = 300.0


def write_handler(folder: Path, runtime: str) -> None:
    """Instead of the template's."""
    file, text = HANDLERS[runtime]
    (folder / "src" / file).write_text(text.lstrip())


def check_every_verb(cluster: Cluster, runtime: str, *, carry: Callable[[str], None] = lambda image: None) -> None:
    """init, build, run, deploy, invoke, log, delete, as a user types them.

    Args:
        carry: takes the image of a build to where it runs, where nothing else does.
    """
    name = f"verbs-{runtime}"
    file = f"{name}/config.yaml"
    cluster.run("function", "init", name, "--runtime", runtime)
    write_handler(cluster.work / name, runtime)
    [built] = cluster.json("function", "build", "-f", file, timeout_s=BUILD_S)
    assert "unchanged" in cluster.run("function", "build", "-f", file).stdout
    assert cluster.run("function", "run", name, stdin="Hello").stdout == f"{runtime} says Hello"

    carry(built["image"])
    deployed = cluster.run("function", "deploy", "-f", file, "--timeout", "90s", timeout_s=120)
    assert f"{name} is Ready, 1/1 replicas" in deployed.stdout
    try:
        assert cluster.run("function", "invoke", name, stdin="Hello").stdout == f"{runtime} says Hello"
        until(
            lambda: "was sent 5 bytes" in cluster.run("function", "log", name).stdout, what="what the handler printed"
        )
        until(lambda: cluster.function(name)["invocationCount"] == 1, what="one invocation")
    finally:
        cluster.run("function", "delete", name)
    assert [row["name"] for row in cluster.json("function", "list") if row["name"] == name] == []
