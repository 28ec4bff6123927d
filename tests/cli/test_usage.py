"""What a command line answers before any cluster is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import Shell, free_port

VERBS = [
    ("up",),
    ("down",),
    ("status",),
    ("demo",),
    ("top",),
    ("config", "set"),
    ("config", "show"),
    ("runtime", "list"),
    *(
        ("function", verb)
        for verb in (
            "init", "build", "run", "deploy", "list", "info", "describe", "invoke", "call", "log", "scale", "delete",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("verb", [(), ("config",), ("runtime",), ("function",), *VERBS], ids=" ".join)
def test_help_of_every_verb_has_an_example(shell: Shell, verb: tuple[str, ...]) -> None:
    text = shell.ok(*verb, "--help")

    assert "Example:" in text
    example = text.split("Example:")[1].split("\n\n")[0]
    assert f"dcf {' '.join(verb)}".strip() in example, text


def test_help_is_there_at_once_and_imports_nothing_heavy() -> None:
    code = "import sys, dcf.cli.main; print([m for m in ('grpc', 'aiohttp', 'redis', 'docker') if m in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("function", "list", "--nonsense"),
        ("function", "delete"),
        ("function", "log", "echo", "--tail", "many"),
        ("function", "list", "--output", "xml"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_status_2(shell: Shell, args: tuple[str, ...]) -> None:
    error = shell.fails(*args, code=2)

    assert len(error.strip().splitlines()) == 1
    assert "--help" in error


def test_no_gateway_there_names_the_address_and_what_to_do(shell: Shell) -> None:
    address = f"127.0.0.1:{free_port()}"

    for args in (("list",), ("invoke", "echo"), ("log", "echo"), ("delete", "echo"), ("scale", "echo", "1")):
        error = shell.fails("function", *args, "--gateway", address)

        assert address in error
        assert "dcf up" in error


def test_traceback_only_with_debug(shell: Shell) -> None:
    plain = shell.dcf("function", "list", "--gateway", "nowhere")
    debugged = shell.dcf("function", "list", "--gateway", "nowhere", "--debug")

    assert plain.returncode == debugged.returncode == 1
    assert b"Traceback" not in plain.stderr
    assert b"Traceback" in debugged.stderr


def test_gateway_is_chosen_in_the_promised_order(shell: Shell) -> None:
    def named(**env: str) -> tuple[str, str]:
        done = shell.dcf("config", "show", "--output", "json", env=env)
        used = json.loads(done.stdout)["gateway"]
        return used["address"], used["namedBy"]

    assert named() == ("127.0.0.1:32222", "default")

    shell.ok("config", "set", "gateway", "set.example:2")
    assert named()[0] == "set.example:2"

    (shell.folder / "config.yaml").write_text("functions: {}\ndcf: {gateway: 'file.example:3'}\n")
    assert named()[0] == "file.example:3"

    assert named(DCF_GATEWAY="env.example:4") == ("env.example:4", "DCF_GATEWAY")

    error = shell.dcf("function", "list", "--gateway", "127.0.0.1:1", env={"DCF_GATEWAY": "env.example:4"}).stderr
    assert b"127.0.0.1:1" in error


def test_config_set_refuses_what_it_does_not_know(shell: Shell) -> None:
    assert "gateway" in shell.fails("config", "set", "gatway", "x:1")
    assert "host:port" in shell.fails("config", "set", "gateway", "nowhere")


def test_config_set_to_nothing_forgets(shell: Shell) -> None:
    shell.ok("config", "set", "gateway", "set.example:2")
    shell.ok("config", "set", "gateway", "")

    assert json.loads(shell.ok("config", "show", "--output", "json"))["settings"] == {}


def test_broken_user_config_is_named(shell: Shell) -> None:
    (shell.folder / "user").mkdir()
    (shell.folder / "user" / "config.yaml").write_text("gateway: [\n")

    assert str(shell.folder / "user" / "config.yaml") in shell.fails("function", "list")


def test_token_file_that_is_missing_is_named(shell: Shell) -> None:
    done = shell.dcf("function", "list", env={"DCF_TOKEN_FILE": "/nowhere/token"})

    assert done.returncode == 1
    assert b"/nowhere/token" in done.stderr


def test_status_without_a_cluster_is_1(shell: Shell) -> None:
    assert "dcf up" in shell.fails("status")


def test_down_without_a_cluster_is_no_error(shell: Shell) -> None:
    shell.ok("down")


def test_reader_that_goes_away_gets_no_traceback(shell: Shell) -> None:
    process = shell.start("runtime", "list")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()

    error = process.stderr.read()
    process.wait(30)
    process.stderr.close()

    assert error == b""


def test_ctrl_c_is_status_130_without_a_traceback(shell: Shell) -> None:
    # stdin stays open: invoke waits for its input until Ctrl-C.
    process = shell.start("function", "invoke", "echo")
    assert process.stdin is not None
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not _waits_for_input(process.pid):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"Traceback" not in error


def _waits_for_input(pid: int) -> bool:
    """Whether the process sleeps in a read of a pipe."""
    try:
        with open(f"/proc/{pid}/syscall") as file:
            return file.read().startswith("0 0x0 ")
    except OSError:
        return False


def test_commands_go_to_the_swarms_gateway_at_the_port_that_it_was_given(shell: Shell) -> None:
    facts = {"cluster": "dcf", "port": 8080, "image": "dcf:local", "version": "0", "deployed_at": 0.0}
    (shell.folder / "state").mkdir()
    (shell.folder / "state" / "swarm.json").write_text(json.dumps(facts))

    used = json.loads(shell.dcf("config", "show", "--output", "json").stdout)["gateway"]

    assert used == {"address": "127.0.0.1:8080", "namedBy": "the cluster on this machine"}
