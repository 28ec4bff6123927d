"""A cluster on a Swarm: the stack of compose/swarm.yaml, through Docker's command.

In:   the cluster's name and the environment; an engine that manages a Swarm.
Out:  a stack that answers, or that is gone; swarm.json in the state folder
      remembers that there is one.
What `up` does here is what the head of swarm.yaml says for people.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dcf
from dcf import __version__
from dcf.cluster.doctor_swarm import REDIS_LABEL
from dcf.errors import ConfigError, DcfError

DEFAULT_IMAGE = "dcf:local"
DEFAULT_PORT = 32222
READY_S = 180.0
"""Pulling Redis, placing four services and starting them takes seconds on a good day."""
DRAIN_S = 80.0
"""The gateways finish their calls: as stop_grace_period in swarm.yaml, and a margin."""
GONE_S = 60.0
BUILD_S = 900.0
COMMAND_S = 120.0
POLL_S = 0.3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts:
    """swarm.json."""

    cluster: str
    """Name of the stack, the network, and the mark on functions."""
    port: int
    image: str
    version: str
    deployed_at: float

    @property
    def address(self) -> str:
        """Of the gateway on this node."""
        return f"127.0.0.1:{self.port}"


def read_stack(state: Path) -> StackFacts | None:
    """The stack that was deployed from this machine and not removed; None: there is none."""
    try:
        return StackFacts(**json.loads((state / "swarm.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def deploy_stack(facts: StackFacts, state: Path, environ: Mapping[str, str], say: Say) -> None:
    """Make what is missing, deploy, wait until this node's gateway and a scheduler are ready. Raises DcfError.

    Args:
        say: is told what takes time, and what a person must know.
    """
    docker = Docker(environ)
    _require_image(docker, facts.image, environ, say)
    _require_token(docker, facts.cluster, environ, say)
    _require_place_for_redis(docker, say)
    variables = {"DCF_IMAGE": facts.image, "DCF_CLUSTER": facts.cluster, "GATEWAY_PORT": str(facts.port)}
    file = str(compose_folder() / "swarm.yaml")
    docker.run("stack", "deploy", "--with-registry-auth", "--compose-file", file, facts.cluster, variables=variables)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "swarm.json").write_text(json.dumps(dataclasses.asdict(facts), indent=2) + "\n")
    say("waiting for the gateway on this node, and for a scheduler ...")
    deadline = time.monotonic() + READY_S
    while trouble := not_ready(facts.port) or _no_scheduler(facts.cluster, environ):
        if time.monotonic() > deadline:
            raise DcfError(
                f"the stack {facts.cluster} was deployed, and is not ready after {READY_S:g} s: "
                f"{trouble}{_task_errors(docker, facts.cluster)}; docker stack ps --no-trunc {facts.cluster} shows all"
            )
        time.sleep(POLL_S)


def remove_stack(cluster: str, state: Path, environ: Mapping[str, str], say: Say) -> bool:
    """Remove gateways, functions and the rest, in this order; volume and token stay. Whether there was anything."""
    docker = Docker(environ)
    services = docker.lines("service", "ls", "--format", "{{.Name}}", "--filter", _of_stack(cluster))
    functions = _functions(docker, cluster)
    if not services and not functions:
        (state / "swarm.json").unlink(missing_ok=True)
        return False
    say("stopping: calls under way are finished first ...")
    # The scheduler with the gateways: it would make services anew that go next.
    first = [name for name in (f"{cluster}_gateway", f"{cluster}_scheduler") if name in services]
    if first:
        docker.run("service", "rm", *first)
    _until(lambda: not _tasks_here(docker, f"{cluster}_gateway"), DRAIN_S)
    for name in _functions(docker, cluster):
        docker.run("service", "rm", name)
    if services:
        docker.run("stack", "rm", cluster)
    say("waiting for networks to go ...")
    # It has none left when its last task has ended.
    _until(lambda: not docker.lines("network", "ls", "--quiet", "--filter", _of_stack(cluster)), GONE_S)
    (state / "swarm.json").unlink(missing_ok=True)
    return True


def list_services(cluster: str, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and replicas (`2/2`) of what the stack is made of; functions are not in it. Raises DcfError."""
    form = "{{.Name}}\t{{.Replicas}}"
    lines = Docker(environ).lines("service", "ls", "--format", form, "--filter", _of_stack(cluster))
    pairs = [line.partition("\t") for line in lines]
    return sorted((name.removeprefix(f"{cluster}_"), number) for name, _, number in pairs)


def new_facts(cluster: str, port: int, environ: Mapping[str, str]) -> StackFacts:
    """Of a stack that is deployed now."""
    image = environ.get("DCF_IMAGE") or DEFAULT_IMAGE
    return StackFacts(cluster=cluster, port=port, image=image, version=__version__, deployed_at=time.time())


def token_path(environ: Mapping[str, str]) -> Path:
    """DCF_TOKEN_FILE, else ~/.dcf/token."""
    if named := environ.get("DCF_TOKEN_FILE"):
        return Path(named).expanduser().absolute()
    return Path(environ.get("HOME") or Path.home()) / ".dcf" / "token"


def compose_folder() -> Path:
    """Where swarm.yaml is: in the installed package, or beside it in a clone."""
    package = Path(dcf.__file__).parent
    for folder in (package / "compose", package.parent / "compose"):
        if (folder / "swarm.yaml").is_file():
            return folder
    raise ConfigError(f"compose/swarm.yaml is not in this installation ({package}): install DCF again")


def not_ready(port: int) -> str:
    """Why the gateway of this node takes no calls; "" where it does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return "" if answer.status == 200 else text.strip()[:200]
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


class Docker:
    """Docker's command, whose words become our errors."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def run(
        self,
        *args: str,
        stdin: str | None = None,
        limit_s: float = COMMAND_S,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """What it writes to stdout. Raises DcfError with what it complains of."""
        done = self._done(args, stdin, limit_s, variables or {})
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"status {done.returncode}"]
            raise DcfError(f"docker {' '.join(args[:2])} failed: {' '.join(said[-3:])}")
        return done.stdout

    def lines(self, *args: str) -> list[str]:
        """What it writes, by lines. Raises DcfError."""
        return self.run(*args).splitlines()

    def succeeds(self, *args: str) -> bool:
        """Whether it ends with 0."""
        return self._done(args, None, COMMAND_S, {}).returncode == 0

    def _done(
        self, args: tuple[str, ...], stdin: str | None, limit_s: float, variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["docker", *args],
                env=self._environ | dict(variables),
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except OSError as error:
            raise ConfigError(f"Docker's command cannot be run ({error.strerror}): install docker-ce-cli") from error
        except subprocess.TimeoutExpired as error:
            raise DcfError(f"docker {' '.join(args[:2])} did not end within {limit_s:g} s") from error


def _require_image(docker: Docker, image: str, environ: Mapping[str, str], say: Say) -> None:
    if image != DEFAULT_IMAGE or docker.succeeds("image", "inspect", image):
        return
    root = compose_folder().parent
    if not (root / "setup.cfg").is_file():
        raise ConfigError(
            f"there is no image {image} on this node, and it is built from a clone of DCF's repository: "
            f"run `docker build -t {image} -f compose/Dockerfile .` in one, or name an image with DCF_IMAGE"
        )
    say(f"building the image {image} ...")
    args = [f"--build-arg={name}={environ[name]}" for name in ("BASE_IMAGE", "PIP_CA") if environ.get(name)]
    file = str(root / "compose" / "Dockerfile")
    docker.run("build", "--tag", image, "--file", file, *args, str(root), limit_s=BUILD_S)
    managers = docker.lines("node", "ls", "--quiet", "--filter", "role=manager")
    if len(managers) > 1:
        say(f"{image} is on this node alone: push it to a registry and name it with DCF_IMAGE for the other managers")


def _require_token(docker: Docker, cluster: str, environ: Mapping[str, str], say: Say) -> None:
    name = f"{cluster}_token"
    path = token_path(environ)
    if docker.succeeds("secret", "inspect", name):
        if not path.exists() and not environ.get("DCF_TOKEN"):
            say(f"the secret {name} is there, and no file {path}: bring the token from where the Swarm was set up")
        return
    token = environ.get("DCF_TOKEN") or _read_or_make(path, say)
    docker.run("secret", "create", name, "-", stdin=token)


def _read_or_make(path: Path, say: Say) -> str:
    try:
        if path.exists():
            token = path.read_text().strip()
            if not token:
                raise ConfigError(f"the token file {path} is empty: expected one line with the cluster's token")
            return token
        token = secrets.token_hex(32)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise ConfigError(f"the token file {path}: {error.strerror}; name another with DCF_TOKEN_FILE") from error
    say(f"the token for management calls is new, in {path}; for your commands: dcf config set token_file {path}")
    return token


def _require_place_for_redis(docker: Docker, say: Say) -> None:
    form = f'{{{{index .Spec.Labels "{REDIS_LABEL}"}}}}'
    nodes = docker.lines("node", "ls", "--quiet")
    if any(line.strip() == "true" for line in docker.lines("node", "inspect", "--format", form, *nodes)):
        return
    node = docker.run("info", "--format", "{{.Swarm.NodeID}}").strip()
    docker.run("node", "update", "--label-add", f"{REDIS_LABEL}=true", node)
    say(f"Redis and its volume are on this node from now on (label {REDIS_LABEL}=true)")


def _no_scheduler(cluster: str, environ: Mapping[str, str]) -> str:
    running = dict(list_services(cluster, environ)).get("scheduler", "0/0")
    return "no scheduler runs" if running.startswith("0/") else ""


def _of_stack(cluster: str) -> str:
    return f"label=com.docker.stack.namespace={cluster}"


def _functions(docker: Docker, cluster: str) -> list[str]:
    return docker.lines("service", "ls", "--format", "{{.Name}}", "--filter", f"label=dcf.cluster={cluster}")


def _tasks_here(docker: Docker, service: str) -> list[str]:
    return docker.lines("ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={service}")


def _task_errors(docker: Docker, cluster: str) -> str:
    try:
        lines = docker.lines("stack", "ps", "--no-trunc", "--format", "{{.Name}}: {{.Error}}", cluster)
    except DcfError:
        return ""
    errors = [line.strip() for line in lines if not line.rstrip().endswith(":")]
    return f": {'; '.join(errors[:3])}" if errors else ""


def _until(condition: Callable[[], bool], within_s: float) -> None:
    """Wait for it, but not for ever: what comes after works all the same."""
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)
