"""Three engines that form a Swarm, on one machine: to test what a cluster does when one is lost.

In:   the host's engine (where images are built), the bridge.
Out:  ThreeEngines: node 1 is the manager, nodes 2 and 3 are workers; node 3 has two GPUs.
Traffic of an overlay stays inside containers; a port published in host mode is reached at `address(n)`.
The kernel here may have no IPVS: services of the tests ask for the endpoint mode `dnsrr`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import docker
from docker.errors import ImageNotFound

from tests.engine.bridge import plug_in, set_cable
from tests.engine.commands import FOLDER, wait_for
from tests.engine.host_engine import GPU_FLAGS, REGISTRY_FLAGS, Engine
from tests.engine.leftovers import remove_cgroups
from tests.engine.machine import Machine, need_machines

NODES = (1, 2, 3)
GPU_NODE = 3

READY_S = 30.0
"""A node that comes back is Ready after one heartbeat, 5 s at most, once its engine answers."""

LOAD_S = 120.0


class ThreeEngines:
    """A Swarm of three; `n` is 1, 2 or 3 throughout. For one thread."""

    def __init__(self, host: Engine) -> None:
        self._host = host
        self._machines = {
            n: Machine(
                f"dcf-e{n}",
                own_network=True,
                flags=(*REGISTRY_FLAGS, *(GPU_FLAGS if n == GPU_NODE else ())),
            )
            for n in NODES
        }

    @property
    def manager(self) -> docker.DockerClient:
        """The client of node 1, which takes the commands of the Swarm."""
        return self.client(1)

    def client(self, n: int) -> docker.DockerClient:
        """The client of node `n`; made anew after a kill, so ask each time."""
        return self._machines[n].client

    def url(self, n: int) -> str:
        """DOCKER_HOST of node `n`, for a program that runs on the host."""
        return self._machines[n].url

    def address(self, n: int) -> str:
        """The node's address on the bridge; the host reaches it, and the nodes each other."""
        return f"10.77.0.{10 + n}"

    def hostname(self, n: int) -> str:
        """What `docker node ls` calls it."""
        return self._machines[n].name

    def node_id(self, n: int) -> str:
        """The Swarm's id of node `n`, asked at the manager: works for a lost one too."""
        return next(node.id for node in self.manager.nodes.list() if _hostname(node) == self.hostname(n))

    def state(self, n: int) -> str:
        """What the Swarm says of node `n`: ready, down, unknown."""
        return str(self.manager.nodes.get(self.node_id(n)).attrs["Status"]["State"])

    def run_in(self, n: int, *command: str, within_s: float = 60.0) -> str:
        """Run a program of the host in the network of node `n`; returns what it wrote.

        Raises:
            RuntimeError: it ended with an error.
        """
        return self._machines[n].run(*command, within_s=within_s)

    def cut(self, n: int) -> None:
        """Pull the cable of node `n`: a lost host, whose containers go on unseen."""
        set_cable(self._machines[n], connected=False)

    def kill(self, n: int) -> None:
        """Take the power from node `n`: engine and containers end at once, the disk stays."""
        self._machines[n].power_off()

    def kill_engine(self, n: int) -> None:
        """Kill only the dockerd of node `n`; its containers go on and stay reachable."""
        self._machines[n].kill_engine()

    def restore(self, n: int) -> None:
        """Bring node `n` back from whatever was done to it, and wait until the Swarm counts on it."""
        machine = self._machines[n]
        if not machine.is_on:
            machine.power_on()
            plug_in(machine, self.address(n))
        if not machine.has_engine:
            machine.start_engine()
            machine.wait_for_engine()
        set_cable(machine, connected=True)
        wait_for(lambda: self.state(n) == "ready", within_s=READY_S, what=f"node {n} of the Swarm to be ready again")

    def promote(self, n: int) -> None:
        """Make node `n` a manager too; three managers outlive the loss of one."""
        self._set_role(n, "manager")
        wait_for(
            lambda: self.client(n).info()["Swarm"]["ControlAvailable"],
            within_s=READY_S,
            what=f"node {n} of the Swarm to be a manager",
        )

    def demote(self, n: int) -> None:
        """Make node `n` a worker again."""
        self._set_role(n, "worker")
        wait_for(
            lambda: not self.client(n).info()["Swarm"]["ControlAvailable"],
            within_s=READY_S,
            what=f"node {n} of the Swarm to be a worker",
        )

    def load_image(self, *references: str, nodes: tuple[int, ...] = NODES) -> None:
        """Have images of the host's engine in the engines of `nodes` under the same names; cheap where they are.

        A base image takes seconds a node, so name the `nodes` where fewer will do.
        """
        wanted = {reference: _image_id(self._host.client, reference) for reference in references}
        lacking = [n for n in nodes if wanted != {ref: _image_id(self.client(n), ref) for ref in references}]
        if not lacking:
            return
        saved = FOLDER / "images.tar"
        try:
            _finish(_start_docker(self._host.url, "save", "--output", str(saved), *references))
            loads = [_start_docker(self.url(n), "load", "--quiet", "--input", str(saved)) for n in lacking]
            for load in loads:
                _finish(load)
        finally:
            saved.unlink(missing_ok=True)

    def start(self) -> None:
        """Start all three, and join them."""
        for machine in self._machines.values():
            machine.power_on()
        for n, machine in self._machines.items():
            plug_in(machine, self.address(n))
            machine.start_engine()
        for machine in self._machines.values():
            machine.wait_for_engine()
        self.manager.swarm.init(advertise_addr=self.address(1), listen_addr=f"{self.address(1)}:2377")
        token = self.manager.swarm.attrs["JoinTokens"]["Worker"]
        for n in NODES[1:]:
            self.client(n).swarm.join(
                [f"{self.address(1)}:2377"],
                token,
                advertise_addr=self.address(n),
                listen_addr=f"{self.address(n)}:2377",
            )
        wait_for(
            lambda: [node.attrs["Status"]["State"] for node in self.manager.nodes.list()] == ["ready"] * len(NODES),
            within_s=READY_S,
            what="three nodes of the Swarm to be ready",
        )

    def remove(self) -> None:
        """Power off all three, and take their disks away."""
        for machine in self._machines.values():
            machine.remove()
        remove_cgroups()

    def _set_role(self, n: int, role: str) -> None:
        node = self.manager.nodes.get(self.node_id(n))
        node.update({**node.attrs["Spec"], "Role": role})


@contextmanager
def three_engines(host: Engine) -> Iterator[ThreeEngines]:
    """The three for the length of the block; the bridge is up already.

    Raises:
        RuntimeError: one did not start or join; nothing of them is left.
    """
    need_machines()
    engines = ThreeEngines(host)
    with ExitStack() as stack:
        stack.callback(engines.remove)
        engines.start()
        yield engines


def _hostname(node: docker.models.nodes.Node) -> str:
    return str(node.attrs["Description"]["Hostname"])


def _image_id(client: docker.DockerClient, reference: str) -> str | None:
    try:
        return str(client.images.get(reference).id)
    except ImageNotFound:
        return None


def _start_docker(url: str, *command: str) -> subprocess.Popen[str]:
    # The command rather than the SDK: three engines unpack at once, and no image is held in our memory.
    return subprocess.Popen(
        ["docker", "--host", url, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=LOAD_S)
    if process.returncode:
        raise RuntimeError(f"`{' '.join(map(str, process.args))}` ended with {process.returncode}: {said}")
