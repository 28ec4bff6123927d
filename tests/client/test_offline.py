"""What the clients do without a gateway: requests, errors, isolation."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from dcf import AsyncClient, Client
from dcf.client import Function, ReplicaFacts, calls, to_json
from dcf.errors import ConfigError, DeadlineError, GatewayUnreachableError, InvalidInputError


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_travel_as_they_are(data: bytes) -> None:
    assert calls.encode_input(data, None) == (b"x", "application/octet-stream")


def test_text_and_json_have_their_content_types() -> None:
    assert calls.encode_input("é", None) == ("é".encode(), "text/plain; charset=utf-8")
    assert calls.encode_input({"a": [1, None]}, None) == (b'{"a": [1, null]}', "application/json")
    assert calls.encode_input("x", "image/png") == (b"x", "image/png")


@pytest.mark.parametrize("data", [object(), {"a": b"x"}, float("nan")])
def test_what_is_no_json_is_refused_before_it_is_sent(data: object) -> None:
    with pytest.raises(InvalidInputError, match="JSON"):
        calls.encode_input(data, None)


@pytest.mark.parametrize(
    ("address", "read"),
    [("h:1", "h:1"), ("http://h:32222/", "h:32222"), ("[::1]:80", "[::1]:80"), ("unix:/s", "unix:/s")],
)
def test_addresses_as_people_write_them(address: str, read: str) -> None:
    assert calls.check_address(address) == read


@pytest.mark.parametrize("address", ["", "h", "h:", "h:x", "h:0", "h:70000", "https://h/x:1", ":1"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Client(address)


def test_deploy_request_takes_both_spellings_and_names_a_wrong_field() -> None:
    snake = calls.deploy({"service": "echo"}, {"env_vars": {"A": "1"}, "replicas": 2}).request
    camel = calls.deploy({"service": "echo", "envVars": {"A": "1"}, "replicas": 2}, {}).request

    assert snake == camel
    with pytest.raises(InvalidInputError, match="replcas"):
        calls.deploy({"service": "echo"}, {"replcas": 2})


def test_json_has_camel_case_fields_and_the_users_keys_as_they_are() -> None:
    function = Function(
        name="echo",
        image="i",
        invocation_count=2**60,
        labels={"my_label": "x"},
        replica_states=(ReplicaFacts(name="r", state="ready", in_flight=1),),
    )

    shown = to_json([function])[0]

    assert shown["invocationCount"] == 2**60
    assert shown["labels"] == {"my_label": "x"}
    assert shown["replicaStates"][0]["inFlight"] == 1
    assert "spec" not in shown


def test_no_gateway_there_is_said_with_the_address() -> None:
    address = free_address()

    with Client(address) as client, pytest.raises(GatewayUnreachableError, match=r"dcf up") as caught:
        client.invoke("echo", "x")

    assert address in str(caught.value)


async def test_no_gateway_there_is_said_by_the_async_client_too() -> None:
    address = free_address()

    async with AsyncClient(address) as client:
        with pytest.raises(GatewayUnreachableError, match=r"dcf up"):
            await client.list()
        with pytest.raises(GatewayUnreachableError, match=r"dcf up"):
            async for _ in client.log("echo"):
                pass


def test_no_gateway_there_is_said_by_streams_too() -> None:
    with Client(free_address()) as client:
        for chunks in (client.stream("echo", "x"), client.converse("echo", itertools.repeat("x"))):
            with pytest.raises(GatewayUnreachableError, match=r"dcf up"):
                next(chunks)


async def test_no_gateway_there_is_said_by_async_streams_too() -> None:
    async with AsyncClient(free_address()) as client:
        for chunks in (client.stream("echo", "x"), client.converse("echo", itertools.repeat("x"))):
            with pytest.raises(GatewayUnreachableError, match=r"dcf up"):
                await anext(chunks)


def test_server_that_is_no_gateway_is_said() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(GatewayUnreachableError, match="no DCF gateway"):
            client.list()
    finally:
        server.stop(None).wait()


def test_peer_that_never_answers_ends_at_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with Client(f"127.0.0.1:{port}") as client, pytest.raises((DeadlineError, GatewayUnreachableError)):
            client.invoke("echo", "x", timeout_s=0.3)


def test_token_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="token"):
        Client("h:1", token="a\nb")


def test_client_never_imports_package_pb() -> None:
    code = "import dcf.client, sys; print([m for m in sys.modules if 'pb_gateway' in m])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
