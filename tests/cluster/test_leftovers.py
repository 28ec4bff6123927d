"""What is found after a cluster was killed, and what is never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from dcf.cluster.process_id import ProcessId, end, identify, is_alive, send
from dcf.cluster.state import hold_state, read_cluster, stop_cluster
from tests.cluster.conftest import Up

Start = Callable[..., Up]


def test_a_process_is_itself_only_with_its_start_time() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        me = identify(process.pid)
        assert me
        other = ProcessId(pid=me.pid, started=me.started + "0")

        assert is_alive(me)
        assert not is_alive(other)
        assert not send(other, signal.SIGKILL)
        end([other], wait_s=0)
        assert process.poll() is None
        end([me], wait_s=5)
        assert not is_alive(me)  # ended, though its parent has not waited for it yet
        assert process.wait() == -signal.SIGTERM


def test_a_process_whose_start_time_is_not_known_is_never_signalled() -> None:
    assert not send(ProcessId(pid=os.getpid(), started=""), signal.SIGKILL)


def test_an_unreadable_record_is_no_process(short_path: Path) -> None:
    (short_path / "processes.json").write_text('{"redis": {"pid": 1}, "half')
    (short_path / "cluster.json").write_text("{}")

    with hold_state(short_path) as folder:
        assert folder.end_leftovers() == []
    assert read_cluster(short_path) is None


@pytest.mark.slow
def test_a_pid_that_is_somebody_elses_now_is_let_be(short_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        records = {"redis": {"pid": process.pid, "started": "another boot:1"}}
        (short_path / "processes.json").write_text(json.dumps(records))

        with hold_state(short_path) as folder:
            assert folder.end_leftovers() == []

        assert process.poll() is None
        process.kill()


@pytest.mark.slow
def test_after_a_killed_supervisor_the_next_up_has_all_again(up: Start) -> None:
    first = up(DCF_PROCESSES="2").until_ready()
    facts = read_cluster(first.state)
    assert facts
    with redis.Redis.from_url(facts.store_url) as client:
        client.set("key", "value")
    pids = first.pids()
    first.kill()
    stale = read_cluster(first.state)
    assert stale
    assert not stale.alive

    # The same port: no leftover holds it.
    second = up(DCF_LISTEN=facts.address).until_ready()

    assert all(identify(pid) is None for pid in pids.values())
    with redis.Redis.from_url(facts.store_url) as client:
        assert client.get("key") == b"value"
    status, _, err = second.stop()
    assert status == 0
    assert "leftovers of a killed cluster were ended" in err


@pytest.mark.slow
def test_after_everything_was_killed_the_next_up_has_all_again(up: Start) -> None:
    first = up().until_ready()
    facts = read_cluster(first.state)
    assert facts
    with redis.Redis.from_url(facts.store_url) as client:
        client.set("key", "value")
    for pid in first.pids().values():
        os.kill(pid, signal.SIGKILL)
    first.kill()

    up().until_ready()

    with redis.Redis.from_url(facts.store_url) as client:
        assert client.get("key") == b"value"


@pytest.mark.slow
def test_down_stops_a_running_cluster(up: Start) -> None:
    cluster = up().until_ready()
    pids = cluster.pids()

    assert stop_cluster(cluster.state, 30) == "stopped"

    assert cluster.finish()[0] == 0
    assert all(identify(pid) is None for pid in pids.values())
    assert stop_cluster(cluster.state, 30) == "nothing"


@pytest.mark.slow
def test_down_cleans_up_after_a_killed_cluster(up: Start) -> None:
    cluster = up().until_ready()
    pids = cluster.pids()
    cluster.kill()

    assert stop_cluster(cluster.state, 30) == "cleaned"

    assert all(identify(pid) is None for pid in pids.values())
    assert read_cluster(cluster.state) is None
    assert stop_cluster(cluster.state, 30) == "nothing"


def test_down_where_never_was_a_cluster_makes_nothing(short_path: Path) -> None:
    assert stop_cluster(short_path / "state", 1) == "nothing"

    assert not (short_path / "state").exists()
