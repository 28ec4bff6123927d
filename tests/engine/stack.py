"""DCF on the Swarm of three, as `docker stack deploy -c compose/swarm.yaml` makes it, and a user of it on the host."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcf.cluster.stack import remove_stack
from tests.engine.dcf_image import ROOT
from tests.engine.host_engine import Engine
from tests.engine.three_engines import NODES, ThreeEngines
from tests.flows.cluster import Cluster, until

TOKEN = "the-token-of-the-tests"
PORT = 32222
READY_S = 90.0


class StackCluster(Cluster):
    """The commands of a user on the host; the gateway is node 1's."""

    def __init__(self, root: Path, engines: ThreeEngines, host: Engine, dcf_image: str) -> None:
        super().__init__(root)
        self.engines = engines
        self.host = host
        self.name = "dcf"
        self.address = f"{engines.address(1)}:{PORT}"
        self.url = f"http://{self.address}"
        self.environ |= {"DCF_GATEWAY": self.address, "DCF_TOKEN": TOKEN}
        self._image = dcf_image

    def start(self) -> None:
        """As the head of swarm.yaml says."""
        self.engines.load_image(self._image, "redis:7-alpine", nodes=(1,))
        self.docker("node", "update", "--label-add", "dcf.redis=true", self.engines.node_id(1))
        self.docker("secret", "create", f"{self.name}_token", "-", stdin=TOKEN)
        self.docker("stack", "deploy", "-c", str(ROOT / "compose" / "swarm.yaml"), self.name)
        until(self.is_ready, limit_s=READY_S, what="the gateway of node 1 is ready")

    def remove(self) -> None:
        """The stack, the functions, the token and the volume."""
        remove_stack(self.name, self.root, {**os.environ, "DOCKER_HOST": self.engines.url(1)}, lambda line: None)
        self.docker("secret", "rm", f"{self.name}_token")
        until(self._removed_volume, limit_s=30, what="the volume is gone")

    def docker(self, *args: str, stdin: str = "") -> str:
        """Docker's command on the manager."""
        done = subprocess.run(
            ["docker", *args],
            env={**os.environ, "DOCKER_HOST": self.engines.url(1), "DCF_IMAGE": self._image},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"docker {args}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path, None)

    def call(self, name: str, data: bytes = b"x") -> tuple[int, bytes]:
        return self.request("POST", f"/function/{name}", data)

    def request(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        """Status and body; 0 where nobody answers."""
        connection = http.client.HTTPConnection(self.address, timeout=90)
        try:
            connection.request(method, path, body=data)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError as error:
            return 0, str(error).encode()
        finally:
            connection.close()

    def build_image(self, name: str, handler: str, nodes: tuple[int, ...] = NODES, **config: object) -> str:
        """Built on the host, and on `nodes` afterwards: these engines share no registry here."""
        self.make(name, handler, **config)
        built = self.json("function", "build", "-f", f"{name}/config.yaml", "--backend", "swarm")
        image = str(built[0]["image"])
        self.engines.load_image(image, nodes=nodes)
        return image

    def deploy_image(self, name: str, handler: str, **config: object) -> subprocess.CompletedProcess[str]:
        self.build_image(name, handler, **config)
        return self.run(
            "function", "deploy", "-f", f"{name}/config.yaml", "--timeout", "90s", check=False, timeout_s=120
        )

    def info(self, name: str) -> dict[str, Any]:
        return dict(self.json("function", "describe", name))

    def running(self, name: str) -> dict[str, str]:
        """Id -> node of the tasks that run and shall."""
        form = "{{.ID}} {{.Node}} {{.CurrentState}}"
        lines = self.docker(
            "service", "ps", f"{self.name}_{name}", "--filter", "desired-state=running", "--format", form
        ).splitlines()
        rows = [line.split(maxsplit=2) for line in lines]
        return {row[0]: row[1] for row in rows if len(row) == 3 and row[2].startswith("Running")}

    def tasks(self, function: str) -> str:
        """All of its tasks, also those that ended, as `docker service ps` shows them."""
        return self.docker("service", "ps", "--no-trunc", f"{self.name}_{function}")

    def _removed_volume(self) -> bool:
        volumes = self.docker("volume", "ls", "-q").split()
        if f"{self.name}_redis" not in volumes:
            return True
        subprocess.run(
            ["docker", "volume", "rm", f"{self.name}_redis"],
            env={**os.environ, "DOCKER_HOST": self.engines.url(1)},
            capture_output=True,
            timeout=30,
        )
        return False

    def logs(self) -> str:
        """The last lines of gateway and scheduler, for a failure's message."""
        said = []
        for service in ("gateway", "scheduler"):
            for container in self.engines.client(1).containers.list(
                all=True, filters={"label": f"com.docker.swarm.service.name={self.name}_{service}"}
            ):
                text = container.logs(tail=30).decode(errors="replace")
                said.append(f"--- {service} {container.short_id}\n{text}")
        return "\n".join(said)


class Callers:
    """Calls of one function, so many at once, until told to stop."""

    def __init__(self, cluster: StackCluster, function: str, *, at_once: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.failures: list[tuple[float, int, str]] = []
        """When (time.monotonic), status and body of each that did not answer with 200."""
        self.failed_from: list[float] = []
        """When each of those had begun."""
        self.answered_at: list[float] = []
        self._cluster = cluster
        self._function = function
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(at_once)]

    @contextmanager
    def calling(self) -> Iterator[Callers]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._done.set()
            for thread in self._threads:
                thread.join(100)

    @property
    def number(self) -> int:
        return sum(self.statuses.values())

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self._cluster.address, timeout=90)
        while not self._done.is_set():
            begun_at = time.monotonic()
            try:
                connection.request("POST", f"/function/{self._function}", body=b"x")
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, repr(error).encode()
                connection.close()
            with self._lock:
                self.statuses[status] += 1
                if status == 200:
                    self.bodies[body] += 1
                    self.answered_at.append(time.monotonic())
                else:
                    self.failed_from.append(begun_at)
                    self.failures.append((time.monotonic(), status, body.decode(errors="replace")[:300]))
        connection.close()


def error_of(body: bytes) -> str:
    """The message of an answer that is an error."""
    return str(json.loads(body)["error"]["message"])


def timed(condition: Callable[[], Any], *, limit_s: float, what: str) -> float:
    """Seconds until it holds."""
    begun_s = time.monotonic()
    until(condition, limit_s=limit_s, what=what)
    return time.monotonic() - begun_s
