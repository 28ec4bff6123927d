"""What `up` refuses, each with one line that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dcf.cluster.listener import address_of, check_exposure, open_listener
from dcf.errors import ConfigError
from tests.cluster.conftest import Up

Start = Callable[..., Up]


def refusal(cluster: Up) -> str:
    status, out, err = cluster.finish()
    assert (status, out) == (1, "")
    assert err.startswith("dcf: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.slow
def test_a_second_up_on_the_same_state_names_the_first(up: Start) -> None:
    first = up().until_ready()
    host, port = first.address

    err = refusal(up())

    assert f"pid {first.process.pid}" in err
    assert f"{host}:{port}" in err
    assert "dcf down" in err
    assert first.ask()[0] == "gateway-0"


@pytest.mark.slow
def test_a_taken_port_is_refused(up: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        err = refusal(up(DCF_LISTEN=address))

    assert f"{address} is taken" in err
    assert "--listen" in err


@pytest.mark.slow
def test_a_state_folder_that_cannot_be_written_is_refused(up: Start, short_path: Path) -> None:
    (short_path / "file").write_text("")

    err = refusal(up(state=short_path / "file"))

    assert "--state" in err


@pytest.mark.slow
def test_a_redis_that_does_not_answer_is_refused(up: Start) -> None:
    err = refusal(up(DCF_REDIS="redis://127.0.0.1:1/0"))

    assert "127.0.0.1:1" in err
    assert "--redis" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DCF_PROCESSES", "0", "1 to 64"),
        ("DCF_LOG_LEVEL", "loud", "debug"),
        ("DCF_UNKNOWN", "1", "DCF_UNKNOWN"),
        ("DCF_LISTEN", "0.0.0.0:0", "--token-file"),
        ("DCF_REDIS", "localhost", "redis://"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_starts(up: Start, name: str, value: str, expected: str) -> None:
    cluster = up(**{name: value})

    assert expected in refusal(cluster)
    assert not (cluster.state / "processes.json").exists()


@pytest.mark.slow
def test_another_redis_is_used_where_one_is_named(up: Start, redis_url: str) -> None:
    cluster = up(DCF_REDIS=redis_url).until_ready()

    assert "redis" not in cluster.pids()
    assert cluster.stop()[0] == 0


@pytest.mark.parametrize("listen", ["", "32222", ":32222", "localhost:", "localhost:x", "localhost:65536"])
def test_an_address_of_another_form_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        open_listener(listen)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of this machine"):
        open_listener("192.0.2.1:0")


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="not known"):
        open_listener("no-such-host.invalid:0")


def test_others_reach_it_only_with_a_token_or_by_permission(tmp_path: Path) -> None:
    token, empty = tmp_path / "token", tmp_path / "empty"
    token.write_text("secret\n")
    empty.write_text("\n")

    check_exposure("127.0.0.1:1", token_file=None, insecure=False)
    check_exposure("localhost:1", token_file=None, insecure=False)
    check_exposure("0.0.0.0:1", token_file=None, insecure=True)
    check_exposure("0.0.0.0:1", token_file=token, insecure=False)
    with pytest.raises(ConfigError, match="without a token"):
        check_exposure("0.0.0.0:1", token_file=None, insecure=False)
    with pytest.raises(ConfigError, match="is empty"):
        check_exposure("127.0.0.1:1", token_file=empty, insecure=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_exposure("127.0.0.1:1", token_file=tmp_path / "none", insecure=False)


def test_a_wildcard_is_dialled_at_loopback() -> None:
    with open_listener("0.0.0.0:0") as listener:
        assert address_of(listener).startswith("0.0.0.0:")
        assert address_of(listener, dialled=True).startswith("127.0.0.1:")
