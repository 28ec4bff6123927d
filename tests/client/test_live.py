"""Both clients against a real gateway: answers, management, every error as its class."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from dcf import AsyncClient, Client
from dcf.errors import (
    ClientGoneError,
    DeadlineError,
    FunctionNotFoundError,
    GatewayUnreachableError,
    HandlerError,
    InvalidInputError,
    PayloadTooLargeError,
    ReplicaLostError,
)
from tests.cli.conftest import Shell, free_port

pytestmark = pytest.mark.slow


def test_bytes_text_and_json_come_back(gateway: str) -> None:
    with Client(gateway) as dcf:
        reply = dcf.invoke("echo", bytes(range(256)))
        shaped = dcf.invoke("shape", "Grüße", metadata={"X-Colour": "blue"})

    assert reply.output == bytes(range(256))
    assert reply.content_type == "application/octet-stream"
    assert reply.invocation_id
    assert shaped.content_type == "application/json"
    assert shaped.json()["text"] == "Grüße"
    assert shaped.json()["headers"]["X-Colour"] == "blue"


def test_big_payload_goes_both_ways(gateway: str) -> None:
    data = b"0123456789abcdef" * (1024 * 1024)

    with Client(gateway) as dcf:
        assert dcf.invoke("echo", data).output == data


def test_each_failure_is_an_error_of_its_class(gateway: str) -> None:
    with Client(gateway) as dcf:
        with pytest.raises(FunctionNotFoundError) as unknown:
            dcf.invoke("ehco", "x")
        with pytest.raises(HandlerError, match="bad picture") as raised:
            dcf.invoke("raiser", "x")
        with pytest.raises(PayloadTooLargeError, match="max_payload"):
            dcf.invoke("shape", b"x" * 2000)
        with pytest.raises(DeadlineError):
            dcf.invoke("sleeper", "1", timeout_s=0.2)
        with pytest.raises(ReplicaLostError):
            dcf.invoke("leaver", "x")
        with pytest.raises(InvalidInputError, match="image"):
            dcf.deploy(service="nothing")

    assert unknown.value.function == "ehco"
    assert raised.value.replica.startswith("raiser-")
    assert raised.value.invocation_id
    assert "ValueError" in raised.value.traceback


def test_management_from_deploy_to_delete(gateway: str) -> None:
    with Client(gateway) as dcf:
        image = dcf.describe("echo").image

        made = dcf.deploy(service="twin", image=image, description="the other", replicas=1, env_vars={"A": "1"})
        deadline = time.monotonic() + 30
        while not dcf.describe("twin").settled and time.monotonic() < deadline:
            time.sleep(0.05)
        facts = dcf.describe("twin")
        scaled = dcf.scale("twin", 2)
        released = dcf.scale("twin", None)
        dcf.delete("twin")

        assert made.name == "twin"
        assert (facts.settled, facts.status, facts.description) == (True, "Ready", "the other")
        assert facts.spec is not None
        assert facts.spec["envVars"] == {"A": "1"}
        assert facts.replica_states[0].state == "ready"
        assert (scaled.replicas, released.replicas) == (2, 1)
        assert "twin" not in [function.name for function in dcf.list()]
        with pytest.raises(FunctionNotFoundError):
            dcf.delete("twin")


def test_log_is_read_and_followed(gateway: str) -> None:
    with Client(gateway) as dcf:
        dcf.invoke("echo", "x" * 77)

        assert "got 77 bytes" in [line.text for line in dcf.log("echo")]
        assert [line.text for line in dcf.log("echo", tail=1)] == ["got 77 bytes"]
        with pytest.raises(FunctionNotFoundError):
            list(dcf.log("nothing"))

        followed = dcf.log("echo", since_at=time.time(), follow=True)
        caller = threading.Thread(target=_call_until_seen, args=(gateway, seen := threading.Event()))
        caller.start()
        line = next(followed)
        seen.set()
        caller.join()
        followed.close()

    assert line.text == "got 5 bytes"
    assert line.replica.startswith("echo-")


def _call_until_seen(gateway: str, seen: threading.Event) -> None:
    with Client(gateway) as dcf:
        while not seen.wait(0.05):
            dcf.invoke("echo", "12345")


def test_info_names_the_backend(gateway: str) -> None:
    with Client(gateway) as dcf:
        assert dcf.info().backend == "process"


async def test_async_client_does_the_same(gateway: str) -> None:
    async with AsyncClient(gateway) as dcf:
        replies = await asyncio.gather(*(dcf.invoke("echo", {"n": n}) for n in range(20)))
        assert [reply.json() for reply in replies] == [{"n": n} for n in range(20)]

        with pytest.raises(HandlerError, match="bad picture"):
            await dcf.invoke("raiser", "x")
        with pytest.raises(FunctionNotFoundError):
            await dcf.describe("ehco")
        assert "echo" in [function.name for function in await dcf.list()]
        assert [line.replica.split("-")[0] async for line in dcf.log("echo", tail=1)] == ["echo"]


async def test_cancelled_call_ends_at_once(gateway: str) -> None:
    async with AsyncClient(gateway) as dcf:
        begun = time.monotonic()

        with pytest.raises((TimeoutError, ClientGoneError)):
            async with asyncio.timeout(0.2):
                await dcf.invoke("sleeper", "2")

    assert time.monotonic() - begun < 1.5


def test_gateway_that_dies_mid_call_is_said_and_the_next_call_works(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "handler.py").write_text(
        "import time\ndef Handler(req):\n    print('asleep')\n    time.sleep(float(req.text))\n    return 'woke'\n"
    )
    (tmp_path / "config.yaml").write_text(
        "functions:\n  sleeper:\n    runtime: python\n    timeout: 30s\n    kill_after: 1s\n"
    )
    shell.ok("up", "--detach", "--listen", address)
    try:
        shell.ok("function", "build")
        shell.ok("function", "deploy")
        with Client(address) as dcf:
            killer = threading.Thread(target=_kill_gateway_when_busy, args=(tmp_path, address))
            killer.start()
            with pytest.raises(GatewayUnreachableError, match="may have run"):
                dcf.invoke("sleeper", "5")
            killer.join()

            assert _answers_within(dcf, 20.0)
    finally:
        shell.ok("down")


def _kill_gateway_when_busy(folder: Path, address: str) -> None:
    with Client(address) as dcf:
        next(line for line in dcf.log("sleeper", follow=True) if line.text == "asleep")
    os.kill(json.loads((folder / "state" / "processes.json").read_text())["gateway-0"]["pid"], signal.SIGKILL)


def _answers_within(dcf: Client, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            return dcf.invoke("sleeper", "0", timeout_s=5).text == "woke"
        except (GatewayUnreachableError, DeadlineError):
            time.sleep(0.05)
    return False
