"""How long from `deploy` to the first answer, and from a changed handler to its answer.

`python bench/cold_start.py [--backend docker|swarm] [--rounds 5]`, on an idle machine with a Docker engine that
answers and the base images present; with swarm on a manager whose cluster runs (`dcf up --backend swarm`).
Prints the medians; each round deletes the function and deploys it again, with its image built and here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

DCF = [sys.executable, "-m", "dcf"]
NAME = "cold"
POLL_S = 0.01


class Bench:
    """A cluster, and one function in a folder."""

    def __init__(self, folder: Path, gateway: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self.gateway = gateway
        self.environ = environ
        self.config = str(folder / NAME / "config.yaml")

    def dcf(self, *args: str) -> str:
        done = subprocess.run([*DCF, *args], cwd=self.folder, env=self.environ, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"dcf {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def answer(self) -> bytes | None:
        request = urllib.request.Request(f"http://{self.gateway}/function/{NAME}", data=b"x")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return bytes(reply.read())
        except (urllib.error.URLError, OSError):
            return None

    def handler(self, text: str) -> None:
        (self.folder / NAME / "src" / "handler.py").write_text(f"def Handler(req):\n    return {text!r}\n")

    def until(self, text: str, since_s: float) -> float:
        """Seconds from `since_s` until a call answers with `text`."""
        while self.answer() != text.encode():
            time.sleep(POLL_S)
        return time.monotonic() - since_s

    def first_answer(self, text: str, *verbs: list[str]) -> float:
        """Seconds from the start of the verbs until a call answers with `text`; it is asked all the while."""
        begun_s = time.monotonic()
        took: list[float] = []
        asking = threading.Thread(target=lambda: took.append(self.until(text, begun_s)))
        asking.start()
        for verb in verbs:
            self.dcf(*verb)
        asking.join()
        return took[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("docker", "swarm", "process"), default="docker")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gateway", help="of a cluster that runs; without it `dcf up` makes one (not for swarm)")
    parser.add_argument("--registry", default="", help="docker_registry of the function, for a Swarm of many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcf-cold-", dir="/tmp") as name:
        folder = Path(name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DCF_") or key == "DCF_TOKEN"}
        environ = kept | {
            "DCF_STATE": str(folder / "state"),
            "DCF_BUNDLES": str(folder / "bundles"),
            "DCF_CONFIG": str(folder / "config.yaml"),
            "DCF_CLUSTER": "dcf-bench",
        }
        if options.gateway:
            measure(Bench(folder, options.gateway, environ), options)
            return
        bench = Bench(folder, "127.0.0.1:32299", environ)
        bench.dcf("up", "--detach", "--listen", bench.gateway, "--backend", options.backend)
        try:
            measure(bench, options)
        finally:
            bench.dcf("down")


def measure(bench: Bench, options: argparse.Namespace) -> None:
    bench.dcf("function", "init", NAME, "--runtime", "python", "--gateway", bench.gateway)
    if options.registry:
        path = Path(bench.config)
        path.write_text(path.read_text().replace('docker_registry: ""', f"docker_registry: {options.registry}"))
    deploy = ["function", "deploy", "-f", bench.config]
    build = ["function", "build", "-f", bench.config, "--backend", options.backend]
    bench.handler("warm")
    bench.dcf(*build)
    starts, changes, nothings = [], [], []
    for number in range(options.rounds):
        bench.handler("warm")
        bench.dcf(*build)
        nothing_s = time.monotonic()
        bench.dcf("function", "list")
        nothings.append(time.monotonic() - nothing_s)
        starts.append(bench.first_answer("warm", deploy))
        text = f"changed {number} {time.time_ns()}"
        bench.handler(text)
        changes.append(bench.first_answer(text, build, deploy))
        bench.dcf("function", "delete", NAME)
        wait_until_gone(bench)
    show("from deploy to the first answer", starts)
    show("from a changed handler (build, deploy) to its answer", changes)
    show("of that, a dcf command that does nothing", nothings)


def wait_until_gone(bench: Bench) -> None:
    """Until the gateway knows nothing of it; its containers may still drain."""
    while NAME in bench.dcf("function", "list"):
        time.sleep(0.1)
    time.sleep(2.0)  # a start beside a stop would measure both


def show(what: str, seconds: list[float]) -> None:
    rounds = ", ".join(f"{one:.2f}" for one in seconds)
    print(f"{what}: median {statistics.median(seconds):.2f} s ({rounds})")


if __name__ == "__main__":
    main()
