from __future__ import annotations

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.domain.stats import CallTotals
from dcf.domain.status import FunctionStatus
from dcf.errors import ConfigError, UnauthenticatedError
from dcf.gateway.function_view import view
from dcf.gateway.token import ManagementToken
from tests.gateway.running_gateway import TOKEN, Cluster, Gateway, wait_for

pytestmark = pytest.mark.slow

ECHO = """
    def handler(req):
        print("got", req.text)
        return req.input
"""
BROKEN = """
    class Handler:
        def __init__(self):
            raise ValueError("no weights")

        def __call__(self, req):
            return b""
"""
SPEC = FunctionSpec(name=FunctionName("echo"), image="bundle:echo@0123456789ab", uid="u1", generation=2, replicas=2)


def counted(invocations: int) -> CallTotals:
    return CallTotals.of([{"invocations": invocations}])


def status(**fields: Any) -> FunctionStatus:
    return FunctionStatus(
        **{"name": "echo", "uid": "u1", "generation": 2, "desired": 2, "ready": 2, "settled": True, "updated_at": 100.0}
        | fields
    )


@pytest.fixture(scope="module")
def echo(gateway: Gateway) -> str:
    gateway.deploy("echo", ECHO, description="says it again", maintainer="me", envVars={"KEY": "value"})
    return "echo"


@pytest.fixture

# the view, pure


def test_a_status_of_an_earlier_function_of_that_name_is_not_shown() -> None:
    shown = view(SPEC, status(uid="earlier", reason="old"), counted(3), (), now_s=100.0)

    assert (shown["availableReplicas"], shown["status"], shown["settled"]) == (0, "Not Ready", False)
    assert shown["reason"] == "the scheduler has not looked at it yet"


def test_a_status_of_an_older_generation_is_not_settled_and_its_failure_is_no_news() -> None:
    old = status(generation=1, ready=1, failed=True, log_tail=("boom",), reason="replica failed")

    shown = view(SPEC, old, counted(0), (), now_s=101.0)

    assert (shown["status"], shown["settled"], shown["failed"], shown["logTail"]) == ("Ready", False, False, [])
    assert shown["reason"] == "the update to generation 2 has not begun yet"


def test_a_pinned_number_is_not_settled_before_the_scheduler_has_seen_it() -> None:
    assert not view(SPEC, status(desired=1, ready=1), counted(0), (), now_s=101.0)["settled"]


def test_an_old_status_says_that_no_scheduler_is_at_work() -> None:
    shown = view(SPEC, status(), counted(0), (), now_s=140.0)

    assert shown["reason"] == "no scheduler is at work: the last word on this function is 40 s old"


# the token


def test_only_the_token_opens(token_file: Path) -> None:
    token = ManagementToken.from_file(str(token_file))

    token.check(f"Bearer {TOKEN}")
    token.check(f"bearer {TOKEN}".encode())
    for wrong in (None, "", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \udcff\u00e9"):
        with pytest.raises(UnauthenticatedError, match="Authorization: Bearer <token>"):
            token.check(wrong)
    ManagementToken().check(None)


@pytest.mark.parametrize("text", ["", "\n", "two words", "tök", "x" * 5000])
def test_a_file_without_a_proper_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)

    with pytest.raises(ConfigError, match="expected a file with the token") as raised:
        ManagementToken.from_file(str(tmp_path / "token"))

    assert "tök" not in str(raised.value)


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ManagementToken.from_file(str(tmp_path / "none"))


# over HTTP


def test_what_was_deployed_is_shown(gateway: Gateway, echo: str) -> None:
    _, listed, _ = gateway.http("GET", "/system/functions")
    found = gateway.view(echo)

    row = next(one for one in listed if one["name"] == echo)
    assert (row["image"], row["replicas"], row["availableReplicas"]) == ("bundle:echo@0123456789ab", 1, 1)
    assert (row["status"], row["description"], row["maintainer"]) == ("Ready", "says it again", "me")
    assert row["settled"] is True
    assert "spec" not in row
    assert found["spec"]["service"] == echo
    assert found["spec"]["envVars"] == {"KEY": "value"}
    assert "registryAuth" not in found["spec"]
    assert [one["state"] for one in found["replicaStates"]] == ["ready"]


def test_counts_are_exact_at_once(gateway: Gateway, echo: str) -> None:
    before = gateway.view(echo)["invocationCount"]
    for _ in range(7):
        assert gateway.http("POST", f"/function/{echo}", b"hi", token=None)[0] == 200

    assert gateway.view(echo)["invocationCount"] == before + 7


def test_without_the_token_one_may_look_but_not_touch(gateway: Gateway, echo: str) -> None:
    for method, path in (
        ("POST", "/system/functions"),
        ("PUT", "/system/functions"),
        ("DELETE", "/system/functions"),
        ("DELETE", f"/system/function/{echo}"),
        ("PUT", "/system/scale-function"),
        ("GET", f"/system/function-log/{echo}"),
    ):
        code, answer, _ = gateway.http(method, path, {} if method != "GET" else None, token=None)
        assert (code, answer["error"]["code"]) == (401, "unauthenticated"), (method, path)
    assert gateway.http("GET", "/system/functions", token=None)[0] == 200
    assert gateway.http("GET", "/system/info", token=None)[1]["backend"] == "process"
    hidden = gateway.http("GET", f"/system/function/{echo}", token=None)[1]
    assert hidden["spec"]["envVars"]["KEY"] != "value"


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "text"),
    [
        ("POST", "/system/functions", b"{", 400, "not JSON"),
        ("POST", "/system/functions", [], 400, "expected an object"),
        ("POST", "/system/functions", {"service": "Echo", "image": "i"}, 400, "lower-case letter"),
        ("POST", "/system/functions", {"service": "e", "image": ""}, 400, "build the function first"),
        ("POST", "/system/functions", {"service": "e", "image": "i", "imag": 1}, 400, "unknown field 'imag'"),
        ("POST", "/system/functions", {"service": "e", "image": "i", "limits": {"memory": "1Q"}}, 400, "limits.memory"),
        ("POST", "/system/functions", {"service": "e", "image": "i", "scaling": {"top": 1}}, 400, "scaling"),
        ("POST", "/system/functions", b" " * (1024 * 1024 + 1), 413, "bytes"),
        ("PUT", "/system/functions", {"service": "nobody", "image": "i"}, 404, "'nobody'"),
        ("DELETE", "/system/functions", {"functionName": "nobody"}, 404, "'nobody'"),
        ("DELETE", "/system/functions", {}, 400, "functionName: missing"),
        ("DELETE", "/system/function/ecko", None, 404, "did you mean 'echo'?"),
        ("GET", "/system/function/nobody", None, 404, "'nobody'"),
        ("GET", "/system/function-log/nobody", None, 404, "'nobody'"),
        ("GET", "/system/function-log/echo?tail=-1", None, 400, "tail: '-1'"),
        ("GET", "/system/function-log/echo?since=soon", None, 400, "2026-11-23T10:00:00Z"),
        ("GET", "/system/function-log/echo?follow=maybe", None, 400, "follow: 'maybe'"),
        ("GET", "/system/function-log/echo?format=xml", None, 400, "text or json"),
        ("PUT", "/system/scale-function", {"service": "echo"}, 400, "replicas: missing"),
        ("PUT", "/system/scale-function", {"service": "echo", "replicas": "3"}, 400, "'3'"),
        ("PUT", "/system/scale-function", {"service": "echo", "replicas": 5000}, 400, "0 to 1000"),
        ("PUT", "/system/scale-function", {"serviceName": "nobody", "replicas": 1}, 404, "'nobody'"),
        ("GET", "/system/nothing", None, 404, "/system/functions"),
        ("POST", "/system/info", {}, 405, "takes GET, not POST"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    gateway: Gateway, echo: str, method: str, path: str, body: Any, code: int, text: str
) -> None:
    status, answer, headers = gateway.http(method, path, body)

    assert (status, text in answer["error"]["message"]) == (code, True), answer
    assert "Traceback" not in json.dumps(answer)
    assert status != 405 or headers["Allow"] == "GET"


def test_a_redeploy_keeps_the_pinned_number_and_replaces_what_changed(gateway: Gateway) -> None:
    gateway.deploy("pinned", ECHO)
    code, _, _ = gateway.http("PUT", "/system/scale-function", {"service": "pinned", "replicas": 2})
    assert code == 202
    scaled = gateway.until("pinned", lambda view: view["settled"], "has two")
    request = {"service": "pinned", "image": scaled["image"]}

    _, same, _ = gateway.http("PUT", "/system/functions", {**request, "description": "new words"})
    _, other, _ = gateway.http("PUT", "/system/functions", {**request, "envVars": {"A": "1"}})
    _, released, _ = gateway.http("PUT", "/system/scale-function", {"serviceName": "pinned", "replicas": "auto"})

    assert (scaled["availableReplicas"], scaled["generation"]) == (2, 1)
    assert (same["replicas"], same["generation"], same["description"]) == (2, 1, "new words")
    assert (other["replicas"], other["generation"], other["settled"]) == (2, 2, False)
    assert (released["replicas"], released["generation"]) == (1, 2)
    gateway.until("pinned", lambda view: view["settled"], "runs the new generation")


def test_writes_at_once_all_happen(gateway: Gateway, echo: str) -> None:
    image = gateway.cluster.bundle("crowd", ECHO)
    body = {"service": "crowd", "image": image}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.http("POST", "/system/functions", body)[0], range(8)))

    assert answers == [202] * 8
    assert gateway.http("DELETE", "/system/function/crowd")[0] == 202


def test_a_function_made_again_counts_from_zero(gateway: Gateway) -> None:
    gateway.deploy("again", ECHO)
    gateway.http("POST", "/function/again", b"hi")
    assert gateway.view("again")["invocationCount"] == 1
    image = gateway.view("again")["image"]

    assert gateway.http("DELETE", "/system/functions", {"functionName": "again"})[0] == 202
    gone = gateway.http("GET", "/system/function/again")[0]
    _, made, _ = gateway.http("POST", "/system/functions", {"service": "again", "image": image})

    assert (gone, made["invocationCount"], made["generation"]) == (404, 0, 1)
    assert gateway.http("DELETE", "/system/function/again")[0] == 202


def test_the_log_of_all_replicas_comes_in_order(gateway: Gateway) -> None:
    gateway.deploy("talker", ECHO, replicas=2)
    for word in ("one", "two", "three"):
        assert gateway.http("POST", "/function/talker", word.encode())[0] == 200

    def kept() -> list[dict[str, Any]] | None:
        _, text, _ = gateway.http("GET", "/system/function-log/talker?format=json")
        lines = [json.loads(line) for line in text.splitlines()] if isinstance(text, str) else []
        return lines if sum(line["stream"] == "stdout" for line in lines) == 3 else None

    lines = wait_for(kept, "three lines of output")
    _, tail, headers = gateway.http("GET", "/system/function-log/talker?tail=2")

    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert {line["text"] for line in lines if line["stream"] == "stdout"} == {"got one", "got two", "got three"}
    assert {line["replica"] for line in lines} <= {"talker-g1-0", "talker-g1-1"}
    assert len(tail.splitlines()) == 2
    assert " stdout got three" in tail.splitlines()[-1]
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert gateway.http("GET", "/system/function-log/talker?tail=0")[1] == ""


def test_a_followed_log_tells_each_line_once_also_of_a_later_replica(gateway: Gateway) -> None:
    gateway.deploy("stream", ECHO)
    assert gateway.http("POST", "/function/stream", b"before")[0] == 200
    request = urllib.request.Request(
        f"http://{gateway.address}/system/function-log/stream?follow=1", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    seen: list[str] = []

    with urllib.request.urlopen(request, timeout=30) as answer:

        def read_until(text: str) -> None:
            while not seen or text not in seen[-1]:
                seen.append(answer.readline().decode())

        read_until("got before")
        assert gateway.http("POST", "/function/stream", b"after")[0] == 200
        read_until("got after")
        # New replicas, under new names: generation 2.
        image = gateway.view("stream")["image"]
        gateway.http("PUT", "/system/functions", {"service": "stream", "image": image, "envVars": {"A": "1"}})
        gateway.until("stream", lambda view: view["settled"] and view["generation"] == 2, "runs generation 2")
        assert gateway.http("POST", "/function/stream", b"new")[0] == 200
        read_until("got new")

    for text in ("got before", "got after", "got new"):
        assert sum(text in line for line in seen) == 1
    assert "stream-g2-0" in seen[-1]


def test_the_log_of_a_function_that_cannot_start_says_why(gateway: Gateway) -> None:
    image = gateway.cluster.bundle("broken", BROKEN)
    gateway.http("POST", "/system/functions", {"service": "broken", "image": image})

    view = gateway.until("broken", lambda view: view["failed"], "failed")
    text = wait_for(
        lambda: (t := gateway.http("GET", "/system/function-log/broken")[1]) and "no weights" in t and t, "its log"
    )

    assert "no weights" in view["reason"] + "".join(view["logTail"])
    assert "no weights" in text
    assert gateway.http("DELETE", "/system/function/broken")[0] == 202


def test_without_its_store_the_gateway_shows_what_it_knows_and_refuses_writes(token_file: Path) -> None:
    cluster = Cluster()
    try:
        gateway = Gateway(cluster, DCF_TOKEN_FILE=str(token_file))
        gateway.deploy("echo", ECHO)
        cluster.redis.kill()

        _, listed, _ = gateway.http("GET", "/system/functions")
        code, answer, headers = gateway.http("PUT", "/system/scale-function", {"service": "echo", "replicas": 2})
        called = gateway.http("POST", "/function/echo", b"still here")

        assert [(one["name"], one["availableReplicas"]) for one in listed] == [("echo", 1)]
        assert "store (Redis) does not answer" in listed[0]["reason"]
        assert (code, answer["error"]["code"], answer["error"]["retryable"]) == (503, "cluster_unavailable", True)
        assert int(headers["Retry-After"]) >= 1
        assert called[:2] == (200, "still here")
        cluster.redis.restart()
        wait_for(
            lambda: gateway.http("PUT", "/system/scale-function", {"service": "echo", "replicas": 2})[0] == 202,
            "a write once the store is back",
        )
    finally:
        cluster.close()


def test_a_followed_log_does_not_hold_the_gateways_stop(cluster: Cluster, token_file: Path, gateway: Gateway) -> None:
    gateway.deploy("held", ECHO)
    other = Gateway(cluster, "local-1", DCF_TOKEN_FILE=str(token_file), DCF_DRAIN_S="30")
    request = urllib.request.Request(
        f"http://{other.address}/system/function-log/held?follow=1", headers={"Authorization": f"Bearer {TOKEN}"}
    )

    with urllib.request.urlopen(request, timeout=30) as answer:
        began = time.monotonic()
        assert other.stop() == 0
        answer.read()

    assert time.monotonic() - began < 10
