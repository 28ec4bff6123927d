"""Every wrong move ends in the promised status, with a message that names the cause.

None shows a traceback of ours, none hangs: each command has a time limit.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.flows.cluster import DCF, Cluster, free_port, until

pytestmark = pytest.mark.slow

CONSTRUCTOR = """
import time

class Handler:
    def __init__(self):
        {line}

    def __call__(self, req):
        return req.input
"""
ECHO = "class Handler:\n    def __call__(self, req):\n        return req.input\n"


def post(
    url: str, body: bytes = b"", method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, the error in the body, headers."""
    request = urllib.request.Request(url, data=body, method=method)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, {}, dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"], dict(error.headers)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """One clear line of ours, no traceback of ours, the promised exit status."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.startswith("dcf: ") or "\ndcf: " in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert 'File "' not in done.stderr.replace("handler.py", "") or "dcf/" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def up(shared_cluster: Cluster) -> Cluster:
    """A cluster with a working function."""
    shared_cluster.deploy("echo", ECHO, max_payload="1Ki")
    return shared_cluster


# -- the project folder ----------------------------------------------------


def test_name_in_capitals(up: Cluster) -> None:
    assert_refused(up.run("function", "init", "Echo", "--runtime", "python", check=False), "'Echo'", "lower-case")
    assert not (up.work / "Echo").exists()


def test_unknown_runtime(up: Cluster) -> None:
    assert_refused(up.run("function", "init", "x", "--runtime", "cobol", check=False), "cobol", "python")


def test_init_over_something(up: Cluster) -> None:
    before = (up.work / "echo" / "src" / "handler.py").read_text()
    assert_refused(up.run("function", "init", "echo", "--runtime", "python", check=False), "echo")
    assert (up.work / "echo" / "src" / "handler.py").read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    runtime: python", "    runtime: [python", ("config.yaml:",)),
        ("    runtime: python", "    runtime: python\n    timeot: 5s", ("timeot", "timeout", "config.yaml:")),
        ("    runtime: python", "    runtime: python\n    limits: {memory: lots}", ("lots", "memory", "512Mi")),
        ("    runtime: python", "    runtime: python\n    timeout: soon", ("soon", "timeout", "config.yaml:")),
        ("    runtime: python", "    runtime: python\n    workers: many", ("many", "workers", "config.yaml:")),
    ],
    ids=["broken YAML", "unknown key", "bad memory quantity", "bad duration", "bad number"],
)
def test_config_that_cannot_be(up: Cluster, old: str, new: str, words: tuple[str, ...]) -> None:
    folder = up.make("badconfig", ECHO)
    path = folder / "config.yaml"
    good = path.read_text()
    given = ("    limits:", "      memory", "      cpu", "      gpu", "    timeout:", "    workers:")
    lines = [line for line in good.splitlines() if not line.startswith(given)]
    path.write_text("\n".join(lines).replace(old, new) + "\n")
    try:
        assert_refused(up.run("function", "build", "-f", str(path), check=False), *words)
    finally:
        path.write_text(good)


def test_missing_handler_file(up: Cluster) -> None:
    folder = up.make("nofile", ECHO)
    (folder / "src" / "handler.py").unlink()
    assert_refused(up.run("function", "build", "-f", str(folder / "config.yaml"), check=False), "handler.py")


def test_no_config_there(up: Cluster, tmp_path: Path) -> None:
    assert_refused(up.run("function", "build", check=False, cwd=tmp_path), "config.yaml")


def test_python_version_that_is_not_there(up: Cluster) -> None:
    folder = up.make("oldpython", ECHO)
    path = folder / "config.yaml"
    path.write_text(re.sub(r"PYTHON_VERSION=3\.\d+", "PYTHON_VERSION=3.2", path.read_text()))
    assert_refused(up.run("function", "build", "-f", str(path), check=False), "3.2", "3.11")


def test_handler_with_a_syntax_error(up: Cluster) -> None:
    folder = up.make("syntax", "def handler(:\n")
    assert_refused(
        up.run("function", "build", "-f", str(folder / "config.yaml"), check=False), "handler.py:1", "syntax"
    )


def test_deploy_before_build(up: Cluster) -> None:
    folder = up.make("unbuilt", ECHO)
    assert_refused(up.run("function", "deploy", "-f", str(folder / "config.yaml"), check=False), "dcf function build")
    assert up.function("unbuilt") == {}


# -- the local run ---------------------------------------------------------


def run_handler(up: Cluster, name: str, handler: str, stdin: str = "x", **config: object) -> Any:
    folder = up.make(name, handler, **config)
    up.run("function", "build", "-f", str(folder / "config.yaml"))
    return up.run("function", "run", name, stdin=stdin, check=False, timeout_s=30)


def test_run_with_a_constructor_that_raises(up: Cluster) -> None:
    done = run_handler(up, "raises", CONSTRUCTOR.format(line="raise ValueError('no weights')"))
    assert_refused(done, "ValueError: no weights", 'handler.py", line 6')


def test_run_with_a_constructor_that_never_ends(up: Cluster) -> None:
    done = run_handler(up, "endless", CONSTRUCTOR.format(line="time.sleep(1000)"), start_timeout="1s")
    assert_refused(done, "start_timeout", "1 s")


def test_run_with_a_missing_import(up: Cluster) -> None:
    assert_refused(run_handler(up, "noimport", "import torchvision_of_my_dreams\n"), "torchvision_of_my_dreams")


def test_run_with_a_handler_that_raises(up: Cluster) -> None:
    done = run_handler(up, "boom", "class Handler:\n    def __call__(self, req):\n        return 1 / 0\n")
    assert_refused(done, "ZeroDivisionError", 'handler.py", line 3')
    assert done.stdout == ""


# -- calls -----------------------------------------------------------------


def test_misspelt_function(up: Cluster) -> None:
    assert_refused(up.run("function", "invoke", "ecko", check=False), "ecko", "echo")
    assert_refused(up.run("function", "delete", "ecko", check=False), "ecko")
    status, error, _ = post(f"{up.url}/function/ecko")
    assert (status, error["code"]) == (404, "function_not_found")


def test_payload_over_the_limit(up: Cluster) -> None:
    for headers in ({}, {"Expect": "100-continue"}):
        status, error, _ = post(f"{up.url}/function/echo", b"x" * 2000, **headers)
        assert (status, error["code"]) == (413, "payload_too_large")
        assert "1024" in error["message"]
    assert_refused(up.run("function", "invoke", "echo", stdin="x" * 2000, check=False), "max_payload")


BAD = """
import os, sys

class Handler:
    def __call__(self, req):
        what = req.text
        if what == "exit": sys.exit(3)
        if what == "die": os._exit(7)
        if what == "type": return object()
        if what == "nan": return float("nan")
        if what == "json": return req.json()
        if what == "raise": raise RuntimeError("the model is tired")
        return what
"""


@pytest.fixture(scope="module")
def bad(up: Cluster) -> Cluster:
    up.deploy("bad", BAD)
    return up


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ("exit", 500, "handler_error", "sys.exit(3)"),
        ("type", 500, "handler_error", "object"),
        ("nan", 500, "handler_error", "JSON"),
        ("json", 400, "invalid_input", "not JSON"),
        ("raise", 500, "handler_error", "RuntimeError: the model is tired"),
        ("die", 502, "replica_lost", "status 7"),
    ],
)
def test_handler_that_misbehaves(bad: Cluster, body: str, status: int, code: str, words: str) -> None:
    until(lambda: post(f"{bad.url}/function/bad", b"fine")[0] == 200, what="the function to be well")
    got, error, _ = post(f"{bad.url}/function/bad", body.encode())
    assert (got, error["code"]) == (status, code), error
    assert words in error["message"]
    assert error["function"] == "bad"
    assert error["replica"].startswith("bad-g")
    assert error["invocation_id"]


def test_timeout_and_full_queue(up: Cluster) -> None:
    up.deploy("slow", ECHO.replace("return", "import time; time.sleep(0.5); return"), timeout="5s", queue=2)
    # The first answer also tells the watcher that this handler is slow: it takes no call ahead of its slot.
    assert post(f"{up.url}/function/slow", b"x")[0] == 200

    status, error, _ = post(f"{up.url}/function/slow", b"x", X_Timeout="100ms")
    assert (status, error["code"]) == (504, "deadline_exceeded")

    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: post(f"{up.url}/function/slow", b"x"), range(12)))
    by_status = {status: (error, headers) for status, error, headers in answers}
    assert set(by_status) == {200, 429}, by_status
    assert by_status[429][0]["code"] == "overloaded"
    assert "queue" in by_status[429][0]["message"]
    assert int(by_status[429][1]["Retry-After"]) >= 1
    until(lambda: post(f"{up.url}/function/slow", b"x")[0] == 200, what="the function to be well again")

    hopeless = [post(f"{up.url}/function/slow", b"x", X_Timeout="1ms") for _ in range(3)]
    assert {status for status, _, _ in hopeless} <= {429, 504}


def test_headers_that_cannot_be(up: Cluster) -> None:
    assert post(f"{up.url}/function/echo", X_Timeout="soon")[0] == 400
    assert post(f"{up.url}/function/echo", X_Timeout="0s")[0] == 400
    assert post(f"{up.url}/function/echo", X_Call_Id="x" * 500)[0] == 400
    assert post(f"{up.url}/function/")[0] == 400
    assert post(f"{up.url}/nowhere")[0] == 404
    assert post(f"{up.url}/system/functions", b"{not json")[0] == 400
    assert post(f"{up.url}/system/functions", b'{"service": "x", "imag": "y"}')[0] == 400
    assert post(f"{up.url}/system/functions", method="PATCH")[0] == 405


def test_deploy_of_a_function_that_cannot_start(up: Cluster) -> None:
    folder = up.make("stillborn", CONSTRUCTOR.format(line="raise OSError('weights.bin is not there')"))
    up.run("function", "build", "-f", str(folder / "config.yaml"))

    done = up.run("function", "deploy", "-f", str(folder / "config.yaml"), check=False, timeout_s=60)

    assert_refused(done, "weights.bin is not there")
    status, error, _ = post(f"{up.url}/function/stillborn")
    assert (status, error["code"]) == (503, "no_replica")
    assert "weights.bin is not there" in error["message"]
    up.run("function", "delete", "stillborn")


def test_bundle_that_is_not_there(up: Cluster) -> None:
    body = {"service": "ghost", "image": "bundle:ghost@0123456789ab"}
    assert post(f"{up.url}/system/functions", json.dumps(body).encode())[0] in (200, 201, 202)
    answer = until(lambda: (a := post(f"{up.url}/function/ghost"))[0] == 503 and a, what="503")
    assert "dcf function build" in answer[1]["message"]
    up.run("function", "delete", "ghost")


def test_scale_that_cannot_be(up: Cluster) -> None:
    assert_refused(up.run("function", "scale", "echo", "-3", check=False), code=2)
    assert_refused(up.run("function", "scale", "echo", "999999", check=False), "1000")
    assert_refused(up.run("function", "scale", "echo", check=False), code=2)


# -- the cluster -----------------------------------------------------------


def test_no_gateway_there(up: Cluster) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for verb in (["list"], ["invoke", "echo"], ["log", "echo"], ["delete", "echo"]):
        assert_refused(up.run("function", *verb, "--gateway", nowhere, check=False), nowhere, "dcf up")


def test_gateway_that_is_no_address(up: Cluster) -> None:
    assert_refused(up.run("config", "set", "gateway", "not an address", check=False), "not an address")


def test_port_taken_and_second_up(up: Cluster, tmp_path: Path) -> None:
    second = up.run("up", "--detach", "--listen", f"127.0.0.1:{free_port()}", check=False)
    assert_refused(second, up.address)
    taken = up.run("up", "--detach", "--listen", up.address, "--state", str(tmp_path / "other"), check=False)
    assert_refused(taken, up.address, "taken")


def test_state_folder_that_cannot_be(up: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = up.run("up", "--listen", f"127.0.0.1:{free_port()}", "--state", str(tmp_path / "file" / "s"), check=False)
    assert_refused(done, str(tmp_path / "file"))


def test_redis_that_does_not_answer(up: Cluster, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    where = ["--listen", f"127.0.0.1:{free_port()}", "--state", str(tmp_path / "s")]
    done = up.run("up", *where, "--redis", url, check=False)
    assert_refused(done, url.removeprefix("redis://").removesuffix("/0"))


def test_open_to_the_world_without_a_token(up: Cluster, tmp_path: Path) -> None:
    done = up.run("up", "--listen", f"0.0.0.0:{free_port()}", "--state", str(tmp_path / "s"), check=False)
    assert_refused(done, "token")


def test_management_without_the_token(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    token = tmp_path / "token"
    token.write_text("secret-of-the-cluster\n")
    token.chmod(0o600)
    try:
        cluster.up("--token-file", str(token))
        refused = cluster.run("function", "delete", "echo", check=False)
        assert_refused(refused, "token")
        assert post(f"{cluster.url}/system/function/echo", method="DELETE")[0] == 401
        authorized = {"Authorization": "Bearer secret-of-the-cluster"}
        assert post(f"{cluster.url}/system/function/echo", method="DELETE", **authorized)[0] == 404
        cluster.environ["DCF_TOKEN_FILE"] = str(token)
        assert_refused(cluster.run("function", "delete", "echo", check=False), "echo")
    finally:
        cluster.down()


def test_gateway_that_dies_in_the_middle_of_a_call(cluster: Cluster) -> None:
    cluster.up()
    cluster.deploy("slow", ECHO.replace("return", "print('began'); import time; time.sleep(5); return"))
    client = subprocess.Popen(
        [*DCF, "function", "invoke", "slow", "--data", "x"],
        cwd=cluster.work,
        env=cluster.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: "began" in cluster.run("function", "log", "slow").stdout, what="the call to begin")
    os.kill(cluster.processes()["gateway-0"], signal.SIGKILL)

    _, text = client.communicate(timeout=20)

    assert client.returncode == 1
    assert text.startswith("dcf: ")
    assert cluster.address in text
    until(lambda: cluster.run("function", "list", check=False).returncode == 0, what="the gateway to be back")


def test_client_that_talks_nonsense(up: Cluster) -> None:
    host, port = up.address.split(":")
    for nonsense in (
        b"\x00\x01\x02\x03 what\r\n\r\n",
        b"PRI * HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 200,
    ):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(nonsense)
            sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + 10
            while sock.recv(4096) and time.monotonic() < end:
                pass
    assert up.run("function", "invoke", "echo", stdin="still here").stdout == "still here"
