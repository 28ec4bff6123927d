"""`dcf demo`: the tour, with the real commands on a real cluster of its own.

Everything lives in one temporary folder: state, builds, settings, functions.
Every `$ dcf ...` line is run as it stands there; nothing is left behind
unless --keep asks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dcf.cli.output import say, write
from dcf.errors import ConfigError, DcfError

DIGIT_PICTURE = "samples/7.png"
STEP_S = 120.0
"""No step takes a quarter of this; one that does is stuck."""

_PB_INVOKE = """\
import grpc
from dcf.rpc import pb_gateway_pb2 as pb
channel = grpc.insecure_channel("{address}")
invoke = channel.unary_unary("/pb.Gateway/Invoke", pb.InvokeServiceRequest.SerializeToString, pb.Message.FromString)
print(invoke(pb.InvokeServiceRequest(Service="echo", Input=b"Hello from gRPC"), timeout=30).Msg)
"""
_CLIENT = """\
from dcf import Client
with Client("{address}") as dcf:
    print(dcf.invoke("echo", "Hello from Python").text)
    print([(f.name, f.invocation_count) for f in dcf.list()])
"""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster running, and the folder.")] = False,
) -> None:
    """Show everything once: a cluster, a function from folder to answer, a model that reads a digit.

    \b
    Example:
      dcf demo
    """
    digits = examples_folder() / "digits"
    if not (digits / "config.yaml").is_file():
        raise ConfigError(f"the digits example is not at {digits}: install dcf again, or run it from its repository")
    signal.signal(signal.SIGTERM, _on_terminate)
    folder = Path(tempfile.mkdtemp(prefix="dcf-demo-"))
    tour = Tour(folder)
    started, done = time.monotonic(), False
    try:
        digit = _walk(tour, digits, keep=keep)
        done = True
    finally:
        if not (keep and done):
            tour.clean_up()
    write("")
    write(f"Done in {time.monotonic() - started:.0f} s: the picture shows a {digit}.")
    if keep:
        write(f"The cluster runs on {tour.address}. To go on with it, and to stop it:")
        for name in ("DCF_STATE", "DCF_BUNDLES", "DCF_CONFIG"):
            write(f"  export {name}={shlex.quote(tour.environ[name])}")
        write(f"  cd {shlex.quote(str(folder))} && dcf function list")
        write(f"  dcf down && rm -r {shlex.quote(str(folder))}")


def _walk(tour: Tour, digits: Path, *, keep: bool) -> str:
    write(f"A tour of DCF, in {tour.folder}. Every line after a $ is what you would type.")

    tour.title("Start a cluster on this machine: Redis, scheduler and gateway, nothing else needed")
    tour.dcf("up", "--detach", "--listen", tour.address)

    tour.title("Make a function from nothing, and build it")
    tour.dcf("function", "init", "echo", "--runtime", "python")
    tour.edit("echo/src/handler.py", "return req.input", 'print("asked for:", req.text.strip())')
    tour.dcf("function", "build", "-f", "echo/config.yaml")

    tour.title("Test it here, before anything is deployed")
    tour.dcf("function", "run", "echo", stdin="Hello from run")

    tour.title("Deploy it, and call it: with the CLI, HTTP, gRPC and Python")
    tour.dcf("function", "deploy", "-f", "echo/config.yaml")
    tour.dcf("function", "invoke", "echo", stdin="Hello from invoke")
    tour.http("echo", "Hello from HTTP")
    tour.python(_PB_INVOKE)
    tour.python(_CLIENT)

    tour.title("See what runs, how often it was called, and what it said")
    tour.dcf("function", "list")
    tour.dcf("function", "log", "echo", "--tail", "5")

    tour.title("A real model: scikit-learn reads a hand-written digit from a PNG")
    write(f"$ cp -r {digits} digits")
    shutil.copytree(digits, tour.folder / "digits", ignore=shutil.ignore_patterns("__pycache__"))
    picture = tour.picture()
    tour.dcf("function", "build", "-f", "digits/config.yaml")
    tour.dcf("function", "deploy", "-f", "digits/config.yaml")
    answer = tour.dcf("function", "invoke", "digits", "--file", picture)
    digit = tour.read_digit(answer)
    write(f"The picture {picture} shows a {digit}.")

    tour.dcf("function", "list")
    if not keep:
        tour.title("Take it all away")
        tour.dcf("function", "delete", "echo")
        tour.dcf("function", "delete", "digits")
        tour.dcf("down")
    return digit


class Tour:
    """Runs the steps in one folder with settings that touch nothing of the user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        foreign = {"DCF_GATEWAY", "DCF_TOKEN_FILE"}
        self.environ = {key: value for key, value in os.environ.items() if key not in foreign} | {
            "DCF_STATE": str(folder / "state"),
            "DCF_BUNDLES": str(folder / "bundles"),
            "DCF_CONFIG": str(folder / "config" / "config.yaml"),
            # The steps run in the folder of the tour: a file there must not stand before DCF's own modules.
            "PYTHONSAFEPATH": "1",
        }
        self._child: subprocess.Popen[bytes] | None = None

    def title(self, text: str) -> None:
        """What comes next."""
        write(f"\n== {text}")

    def edit(self, file: str, before: str, line: str) -> None:
        """Put `line` before the line that begins with `before`, as a user would in an editor."""
        path = self.folder / file
        lines = path.read_text().splitlines(keepends=True)
        at = next((index for index, text in enumerate(lines) if text.strip().startswith(before)), None)
        if at is None:
            raise DcfError(f"the step failed: {file} has no line {before!r}")
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        path.write_text("".join([*lines[:at], f"{indent}{line}\n", *lines[at:]]))
        write(f"(in {file}, a line more: {line})")

    def dcf(self, *args: str, stdin: str | None = None) -> bytes:
        """One `dcf` command: shown, run, its output shown and returned."""
        shown = f"dcf {shlex.join(args)}"
        write(f"$ echo {shlex.quote(stdin)} | {shown}" if stdin is not None else f"$ {shown}")
        data = f"{stdin}\n".encode() if stdin is not None else None
        return self._run([sys.executable, "-m", "dcf", *args], shown, data)

    def http(self, function: str, body: str) -> None:
        """One call over HTTP: with curl, or where that is missing, with Python's own client."""
        url = f"http://{self.address}/function/{function}"
        write(f"$ curl -d {shlex.quote(body)} {url}")
        if curl := shutil.which("curl"):
            self._run([curl, "-sS", "--fail-with-body", "--noproxy", "*", "-d", body, url], "curl", None)
            return
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, data=body.encode(), timeout=STEP_S) as reply:
                _show(reply.read())
        except OSError as error:
            raise DcfError(f"the step failed: POST {url}: {error}") from error

    def python(self, code: str) -> None:
        """A program of a few lines: shown as in an interpreter, run in one of its own."""
        program = code.format(address=self.address)
        write("$ python")
        for line in program.splitlines():
            write(f"{'...' if line.startswith(' ') else '>>>'} {line}")
        self._run([sys.executable, "-c", program], "the Python program above", None)

    def picture(self) -> str:
        """A sample of the digits example, relative to the folder. Raises DcfError where there is none."""
        wanted = self.folder / "digits" / DIGIT_PICTURE
        found = [wanted] if wanted.is_file() else sorted((self.folder / "digits").rglob("*.png"))
        if not found:
            raise DcfError("the digits example has no picture to show")
        return str(found[0].relative_to(self.folder))

    def read_digit(self, answer: bytes) -> str:
        """The digit in the classifier's JSON."""
        try:
            return str(json.loads(answer)["digit"])
        except (ValueError, KeyError, TypeError) as error:
            raise DcfError(f"the step failed: digits answered {answer[:200]!r}, expected JSON with a digit") from error

    def _run(self, command: Sequence[str], shown: str, data: bytes | None) -> bytes:
        child = self._child = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            output, _ = child.communicate(data, timeout=STEP_S)
        except subprocess.TimeoutExpired:
            raise DcfError(f"the step was stuck for {STEP_S:.0f} s and was stopped: {shown}") from None
        finally:
            self._end_child()
        _show(output)
        if child.returncode != 0:
            raise DcfError(f"the step failed with status {child.returncode}: {shown}")
        return output

    def _end_child(self) -> None:
        """A step that still runs (Ctrl-C, stuck) ends by itself when told to, else by force."""
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(10.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def clean_up(self) -> None:
        """Stop the cluster if it runs, remove the folder. A second Ctrl-C does not cut it short."""
        before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            if (self.folder / "state").exists():
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(
                        [sys.executable, "-m", "dcf", "down"],
                        cwd=self.folder,
                        env=self.environ,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        timeout=60,
                    )
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.exists():
                say(f"dcf demo could not remove {self.folder}")
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)


def _show(output: bytes) -> None:
    text = output.decode("utf-8", "replace")
    if text:
        write(text.rstrip("\n"))


def _on_terminate(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def examples_folder() -> Path:
    """Where the examples are: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parent / "examples"


def add_to(app: typer.Typer) -> None:
    """The verb of this file."""
    app.command("demo")(demo)
