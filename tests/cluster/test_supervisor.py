"""What a cluster does with its processes, seen from outside, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from dcf.cluster.process_id import identify
from dcf.cluster.state import read_cluster, stop_cluster
from dcf.cluster.supervisor import restart_delay_s
from tests.cluster.conftest import STAND_IN, Up
from tests.conftest import wait_until

Start = Callable[..., Up]
pytestmark = pytest.mark.slow


def client_of(up: Up) -> redis.Redis:
    facts = read_cluster(up.state)
    assert facts
    return redis.Redis.from_url(facts.store_url)


def test_the_back_off_doubles_up_to_ten_seconds() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 6, 7, 1000)] == [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]


def test_it_starts_all_says_so_and_stops_in_order(up: Start) -> None:
    cluster = up(DCF_PROCESSES="2").until_ready()
    facts = read_cluster(cluster.state)
    pids = cluster.pids()

    status, out, err = cluster.stop()

    assert facts
    assert (facts.gateway_processes, facts.backend) == (2, "process")
    assert set(pids) == {"redis", "scheduler", "gateway-0", "gateway-1"}
    assert status == 0
    assert err == ""
    assert f"http://{facts.address}" in out
    order = [line.split()[0] for line in cluster.stopped_in_order()]
    assert sorted(order[:2]) == ["gateway-0", "gateway-1"]
    assert order[2:] == ["scheduler", "stop-replicas"]
    assert all(identify(pid) is None for pid in pids.values())
    assert read_cluster(cluster.state) is None


def test_ctrl_c_is_for_the_cluster_process_alone(up: Start) -> None:
    cluster = up().until_ready()

    cluster.process.send_signal(signal.SIGINT)

    assert cluster.finish()[0] == 0
    assert [line.split()[0] for line in cluster.stopped_in_order()] == ["gateway-0", "scheduler", "stop-replicas"]
    assert all(os.getsid(0) != pid for pid in cluster.pids().values())


def test_its_processes_get_no_dcf_variable_of_the_users_shell(up: Start) -> None:
    cluster = up(DCF_GATEWAY="elsewhere:1", DCF_DEBUG="1").until_ready()

    names = cluster.ask()[2:]

    assert "DCF_GATEWAY" not in names
    assert "DCF_DEBUG" not in names
    assert {"DCF_STORE_URL", "DCF_GATEWAY_ID", "DCF_LISTEN", "DCF_LISTEN_FD", "DCF_BUNDLES"} <= set(names)


def test_a_gateway_that_dies_is_started_again_and_no_connection_is_refused(up: Start) -> None:
    cluster = up().until_ready()
    pid = cluster.pids()["gateway-0"]

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: identify(pid) is None)

    name, answered_by = cluster.ask()[:2]  # waits in the backlog meanwhile
    assert (name, answered_by != str(pid)) == ("gateway-0", True)
    _, _, err = cluster.stop()
    assert "a process died and is started again program=gateway-0 reason=SIGKILL again_in_s=0.2" in err
    assert "program=gateway-0 reason=SIGKILL" in (cluster.state / "logs" / "cluster.log").read_text()


def test_deaths_in_a_row_wait_longer(up: Start) -> None:
    cluster = up().until_ready()

    for _ in range(3):
        pid = cluster.pids()["scheduler"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: cluster.pids().get("scheduler", pid) != pid)

    wait_until(lambda: cluster.pids().get("scheduler"))
    _, _, err = cluster.stop()
    assert [line.split("again_in_s=")[1] for line in err.splitlines()] == ["0.2", "0.4", "0.8"]


def test_a_redis_that_dies_is_started_again_with_all_that_it_had(up: Start) -> None:
    cluster = up().until_ready()
    with client_of(cluster) as client:
        client.set("key", "value")
        pid = cluster.pids()["redis"]

        os.kill(pid, signal.SIGKILL)

        wait_until(lambda: cluster.pids().get("redis", pid) != pid)

        def kept() -> bool:
            try:
                return bool(client.get("key") == b"value")
            except redis.exceptions.ConnectionError:
                return False

        wait_until(kept)


def test_orphans_are_adopted_and_reaped(up: Start) -> None:
    cluster = up(STAND_IN_ORPHAN_S="0.5").until_ready()
    orphan = int(next(line for line in cluster.events() if line.startswith("orphan")).split()[1])

    os.kill(cluster.pids()["scheduler"], signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), what="the orphan's end without a zombie")


def test_a_program_that_does_not_start_ends_the_cluster_with_its_cause(up: Start) -> None:
    cluster = up(STAND_IN_FAIL="gateway-0")

    status, _, err = cluster.finish()

    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith("dcf: gateway-0 does not start (exit status 1): the flux capacitor is missing")
    assert "gateway-0.log" in last
    assert len([line for line in cluster.events() if line.startswith("gateway-0 ")]) == 3
    assert read_cluster(cluster.state) is None
    assert cluster.pids() == {}


def test_a_stop_during_the_start_stops_what_was_started(up: Start) -> None:
    cluster = up(STAND_IN_MUTE="gateway-0")
    wait_until(lambda: "gateway-0" in cluster.pids(), within_s=20)
    pids = cluster.pids()

    status, _, _ = cluster.stop()

    assert status == 0
    assert all(identify(pid) is None for pid in pids.values())


def test_a_second_signal_makes_it_quicker(up: Start) -> None:
    cluster = up(STAND_IN_DRAIN_S="60").until_ready()
    began = time.monotonic()

    cluster.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.process.wait(timeout=0.5)
    cluster.process.terminate()

    assert cluster.finish()[0] == 0
    assert time.monotonic() - began < 20
    assert [line.split()[0] for line in cluster.stopped_in_order()] == ["scheduler", "stop-replicas"]


def test_whoever_waits_at_the_descriptor_hears_that_it_is_ready(short_path: Path) -> None:
    readable, writable = os.pipe()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DCF_")} | {
        "DCF_STATE": str(short_path / "state"),
        "DCF_LISTEN": "127.0.0.1:0",
        "DCF_READY_FD": str(writable),
        "STAND_IN_EVENTS": str(short_path / "events"),
    }
    with subprocess.Popen(
        [sys.executable, str(STAND_IN), "cluster"], env=environ, pass_fds=(writable,), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.close(writable)
        with open(readable, "rb") as pipe:
            assert pipe.read() == b"1"
        facts = read_cluster(short_path / "state")
        assert facts
        assert facts.alive

        assert stop_cluster(short_path / "state", 30) == "stopped"

        assert process.communicate() == (b"", b"")
    assert process.returncode == 0
