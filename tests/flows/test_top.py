"""`dcf top` in a real terminal: what the screen shows, and that the shell has its terminal back."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.commands import missing
from tests.flows.cluster import Cluster, until

pytestmark = pytest.mark.slow

ECHO = "class Handler:\n    def __call__(self, req):\n        return req.input\n"
TOP = shlex.join([sys.executable, "-m", "dcf", "top"])
PROMPT = r"^\$\Z"
PAUSE_S = 0.05
"""Between two calls: some twenty a second."""


class Terminal:
    """A shell in a tmux server of its own."""

    def __init__(self, socket: Path, cluster: Cluster) -> None:
        self.folder = cluster.work
        self._socket = socket
        self._environ = {**cluster.environ, "DCF_GATEWAY": cluster.address}
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", "100", "-y", "30", "-c", str(cluster.work), "sh")

    def open(self) -> None:
        """Wait for the shell, whatever its prompt is."""
        self.type("PS1='$ '; clear")
        self.wait_for(r"\A\$\Z")

    def _tmux(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *args],
            env=self._environ, capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        return done.stdout

    def close(self) -> None:
        self._tmux("kill-server")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def key(self, name: str) -> None:
        self._tmux("send-keys", name)

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip()

    def in_front(self) -> bool:
        """Whether a program has the screen for itself."""
        return self._tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def wait_for(self, pattern: str, limit_s: float = 30.0) -> re.Match[str]:
        """The first match on the screen, line by line."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = re.finditer(pattern, self.screen(), re.MULTILINE)
            return bool(found)

        try:
            until(look, limit_s=limit_s, what=pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{self.screen()}") from None
        return found[0]

    def settings(self) -> str:
        """What `stty -g` says, typed at the prompt: that it is seen there at all is the echo."""
        self.wait_for(PROMPT)
        self.type("clear; echo settings=$(stty -g)")
        return self.wait_for(r"^settings=(\S+)$")[1]

    def status(self) -> str:
        """Of the last command."""
        self.wait_for(PROMPT)
        self.type("echo status=$?")
        self.wait_for(r"^\$ echo status=\$\?$")
        return self.wait_for(r"^status=(\d+)$")[1]


@pytest.fixture(scope="module")
def called(shared_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with a function that somebody calls all the time, and one that nobody does."""
    shared_cluster.deploy("echo", ECHO)
    shared_cluster.deploy("quiet", ECHO)
    enough = threading.Event()

    def call() -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not enough.wait(PAUSE_S):
            # Refused while the cluster is down.
            with (
                contextlib.suppress(OSError),
                opener.open(f"{shared_cluster.url}/function/echo", data=b"x", timeout=30) as answer,
            ):
                answer.read()

    caller = threading.Thread(target=call)
    caller.start()
    try:
        # The first calls are reported within a second; one that asks once must not ask before.
        until(lambda: shared_cluster.function("echo")["load"]["perS"] >= 1, what="the calls to be reported")
        yield shared_cluster
    finally:
        enough.set()
        caller.join()


@pytest.fixture
def terminal(called: Cluster, short_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        missing("no tmux: apt-get install tmux")
    terminal = Terminal(short_path / "tmux", called)
    try:
        terminal.open()
        yield terminal
    finally:
        terminal.close()


def test_screen_shows_the_calls_and_q_gives_the_terminal_back(terminal: Terminal, called: Cluster) -> None:
    before = terminal.settings()

    terminal.type(f"{TOP} --interval 500ms")
    busy = terminal.wait_for(r"^echo +([1-9][0-9.]*) .* 1/1")
    shown = terminal.screen()

    assert 0 < float(busy[1]) < 2 / PAUSE_S
    assert terminal.in_front()
    assert "settings=" not in shown
    assert shown.startswith(f"{called.address}  process")
    assert "2 functions" in shown.splitlines()[0]
    assert re.search(r"^quiet +0 +- +- ", shown, re.MULTILINE)

    terminal.resize(60, 4)
    terminal.wait_for(r"^\.\.\. and 2 more$")
    terminal.resize(100, 30)
    terminal.wait_for(r"^quiet ")

    terminal.key("q")

    assert terminal.status() == "0"
    assert not terminal.in_front()
    assert terminal.settings() == before


def test_ctrl_c_ends_it_with_status_0_and_sigterm_as_any_other_program(terminal: Terminal) -> None:
    before = terminal.settings()

    terminal.type(TOP)
    terminal.wait_for(r"^echo ")
    terminal.key("C-c")

    assert terminal.status() == "0"
    assert not terminal.in_front()
    assert terminal.settings() == before

    terminal.type(f"sh -c 'echo $$ >pid; exec {TOP}'")
    terminal.wait_for(r"^echo ")
    os.kill(int((terminal.folder / "pid").read_text()), signal.SIGTERM)

    assert terminal.status() == "143"
    assert not terminal.in_front()
    assert terminal.settings() == before


def test_ctrl_z_stops_it_with_the_terminal_as_it_was_and_fg_brings_it_back(terminal: Terminal) -> None:
    before = terminal.settings()

    terminal.type(TOP)
    terminal.wait_for(r"^echo ")
    terminal.key("C-z")
    terminal.wait_for(r"Stopped|Suspended")

    assert not terminal.in_front()
    assert terminal.settings() == before

    terminal.type("fg")
    terminal.wait_for(r"^echo +[0-9]")
    assert terminal.in_front()
    terminal.key("q")

    assert terminal.status() == "0"
    assert terminal.settings() == before


def test_gateway_that_is_away_is_named_and_seen_again_when_it_is_back(terminal: Terminal, called: Cluster) -> None:
    terminal.type(f"{TOP} --interval 500ms")
    terminal.wait_for(r"^echo +[1-9]")

    called.down()
    terminal.wait_for(rf"^since \d\d:\d\d:\d\d .*no gateway answers at {re.escape(called.address)}")
    assert re.search(r"^echo ", terminal.screen(), re.MULTILINE)

    called.up()
    terminal.wait_for(rf"^{re.escape(called.address)}  process")
    terminal.wait_for(r"^echo +[1-9]")
    terminal.key("q")

    assert terminal.status() == "0"


def test_keys_are_read_while_the_gateway_hangs(terminal: Terminal, called: Cluster) -> None:
    terminal.type(f"{TOP} --interval 500ms")
    terminal.wait_for(r"^echo +[0-9]")
    gateways = [pid for name, pid in called.processes().items() if name.startswith("gateway")]

    for pid in gateways:
        os.kill(pid, signal.SIGSTOP)
    try:
        terminal.wait_for(rf"^since \d\d:\d\d:\d\d .*no .*answer.*{re.escape(called.address)}|^since .*: no answer")
        terminal.key("q")

        assert terminal.status() == "0"
    finally:
        for pid in gateways:
            os.kill(pid, signal.SIGCONT)


def test_screen_of_one_table_is_left_where_it_is(terminal: Terminal) -> None:
    terminal.type(f"{TOP} --once --sort name")

    terminal.wait_for(r"^echo +[1-9]")
    assert not terminal.in_front()
    assert terminal.status() == "0"


def test_without_a_keyboard_it_still_shows_and_ends(terminal: Terminal) -> None:
    before = terminal.settings()

    terminal.type(f"{TOP} </dev/null")
    terminal.wait_for(r"^echo +[0-9]")
    assert terminal.in_front()
    terminal.key("C-c")

    assert terminal.status() == "0"
    assert terminal.settings() == before

    terminal.type(f"clear; TERM=dumb {TOP}")
    terminal.wait_for(r"^echo +[0-9]")

    assert not terminal.in_front()
    assert terminal.status() == "0"
