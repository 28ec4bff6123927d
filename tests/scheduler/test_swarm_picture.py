"""What is read from a Swarm's JSON, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from dcf.scheduler.backends.log_lines import LogTail, split_streams
from dcf.scheduler.backends.swarm_picture import Picture, read_picture
from dcf.scheduler.backends.swarm_words import explain_end, gpu_kind, node_statuses, observed_replica, service_state

LABELS = {"dcf.function": "echo", "dcf.uid": "u1", "dcf.generation": "2", "dcf.digest": "d2", "dcf.grace_s": "100"}
NO_TAIL = LogTail(lines=(), last_own="", last_stderr="")


def task(id: str = "abcdefgh", state: str = "running", **fields: Any) -> dict[str, Any]:
    """As the engine's API has it; fields: desired, err, node, labels, gpus, exit_code."""
    gpus = [{"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": gpu}} for gpu in fields.get("gpus", ())]
    return {
        "ID": id,
        "Slot": 3,
        "NodeID": fields.get("node", "n1"),
        "DesiredState": fields.get("desired", "running"),
        "Spec": {"ContainerSpec": {"Image": "echo:1", "Labels": {**LABELS, **fields.get("labels", {})}}},
        "Status": {
            "State": state,
            "Err": fields.get("err", ""),
            "Timestamp": "2026-01-02T03:04:05.123456789Z",
            "ContainerStatus": {"ExitCode": fields.get("exit_code", 0)},
        },
        "GenericResources": gpus,
        "NetworksAttachments": [
            {"Network": {"Spec": {"Name": "other"}}, "Addresses": ["10.9.9.9/24"]},
            {"Network": {"Spec": {"Name": "net"}}, "Addresses": ["10.0.1.5/24"]},
        ],
    }


def service(update: str = "", replicas: int = 1, **resources: Any) -> dict[str, Any]:
    return {
        "ID": "s1",
        "Version": {"Index": 9},
        "UpdateStatus": {"State": update} if update else {},
        "Spec": {
            "Name": "dcf_echo",
            "Labels": LABELS,
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {
                "Placement": {"Constraints": ["node.role==worker"]},
                "Resources": {"Reservations": resources},
            },
        },
    }


def node(id: str = "n1", state: str = "ready", gpus: tuple[str, ...] = (), kind: str = "NVIDIA-GPU") -> dict[str, Any]:
    named = [{"NamedResourceSpec": {"Kind": kind, "Value": gpu}} for gpu in gpus]
    resources = {"NanoCPUs": 4_000_000_000, "MemoryBytes": 1024**3, "GenericResources": named}
    return {
        "ID": id,
        "Spec": {"Role": "worker", "Availability": "active"},
        "Status": {"State": state, "Message": "heartbeat failure" if state == "down" else ""},
        "Description": {"Hostname": f"host-{id}", "Resources": resources},
    }


GPU = {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 1}}]}


def picture(*tasks: dict[str, Any], of: dict[str, Any] | None = None, nodes: Any = None) -> Picture:
    return read_picture([of or service()], tasks, nodes or [node()], network="net")


def waiting(*tasks: dict[str, Any], of: dict[str, Any] | None = None, nodes: Any = None) -> str:
    seen = picture(*tasks, of=of, nodes=nodes)
    return service_state(seen.services["echo"], seen).waiting


def test_a_task_is_a_replica_from_the_moment_its_container_is_there() -> None:
    seen = picture(task(state="starting"))

    one = observed_replica(seen.tasks["abcdefgh"], seen, started_at=1.0, adopted=False)

    assert seen.is_there(seen.tasks["abcdefgh"])
    assert (one.name, one.address, one.node) == ("echo-g2-3-abcde", "10.0.1.5:32223", "host-n1")
    assert (one.generation, one.digest, one.ordinal, one.grace_s) == (2, "d2", 3, 100.0)


@pytest.mark.parametrize("state", ["new", "pending", "assigned", "preparing", "ready", "failed", "shutdown"])
def test_before_and_after_that_it_is_none(state: str) -> None:
    seen = picture(task(state=state))

    assert not seen.is_there(seen.tasks["abcdefgh"])


def test_what_runs_on_a_node_that_is_down_is_not_there() -> None:
    seen = picture(task(), nodes=[node(state="down")])

    assert not seen.is_there(seen.tasks["abcdefgh"])
    [status] = node_statuses(seen)
    assert (status.ready, status.note) == (False, "worker, lost, heartbeat failure")


def test_a_replica_that_swarm_wants_gone_is_stopping() -> None:
    seen = picture(task("a", desired="shutdown"), task("b", desired="remove"), task("c", desired="running"))

    assert [one.is_stopping for one in seen.tasks.values()] == [True, True, False]


def test_tasks_of_others_are_passed_over() -> None:
    foreign = task()
    foreign["Spec"]["ContainerSpec"]["Labels"] = {}

    assert picture(foreign).tasks == {}


@pytest.mark.parametrize(
    ("update", "updating", "rolling_back"),
    [
        ("", False, False),
        ("updating", True, False),
        ("completed", False, False),
        ("rollback_started", False, True),
        ("rollback_completed", False, False),
        # Neither goes on by itself: nobody may wait for it.
        ("rollback_paused", False, False),
        ("paused", False, False),
    ],
)
def test_what_is_under_way_is_read_from_the_update(update: str, updating: bool, rolling_back: bool) -> None:
    seen = picture(of=service(update))

    state = service_state(seen.services["echo"], seen)

    assert (state.updating, state.rolling_back) == (updating, rolling_back)
    assert (state.uid, state.generation, state.digest) == ("u1", 2, "d2")


def test_a_gpu_that_is_held_is_named_by_its_holder() -> None:
    none_free = task("new", "pending", node="", err="no suitable node (insufficient resources on 1 node)")
    holder = task("holder", gpus=("GPU-aaaa",))

    said = waiting(none_free, holder, of=service(**GPU), nodes=[node(gpus=("GPU-aaaa",))])

    assert said == "no GPU free: 1 of 1 are held by echo-g2-3-holde"


def test_a_swarm_without_gpus_is_told_how_to_get_them() -> None:
    none_there = task("new", "pending", node="", err="no suitable node (insufficient resources on 1 node)")

    assert "node-generic-resources" in waiting(none_there, of=service(**GPU))


def test_more_gpus_than_any_node_has_are_said_to_be_too_many() -> None:
    wanted = {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "NVIDIA-GPU", "Value": 4}}]}
    pending = task("new", "pending", node="", err="no suitable node (insufficient resources on 2 nodes)")
    nodes = [node("n1", gpus=("GPU-a", "GPU-b")), node("n2", gpus=("GPU-c", "GPU-d"))]

    assert "asks for 4, and no node has more than 2" in waiting(pending, of=service(**wanted), nodes=nodes)


def test_what_else_there_is_too_little_of_is_said() -> None:
    pending = task("new", "pending", node="", err="no suitable node (insufficient resources on 1 node)")

    said = waiting(pending, of=service(NanoCPUs=8_000_000_000, MemoryBytes=1024**3))

    assert said == (
        "no node has room: insufficient resources on 1 node; each replica reserves 8 CPUs and 1024 MiB (requests)"
    )


def test_constraints_that_no_node_fits_are_named() -> None:
    pending = task("new", "pending", node="", err="no suitable node (scheduling constraints not satisfied on 1 node)")

    assert waiting(pending).startswith("no node fits the constraints (node.role==worker): ")


def test_an_older_version_that_waits_is_no_reason() -> None:
    pending = task("old", "pending", err="no suitable node (...)", labels={"dcf.digest": "d1"})

    assert waiting(pending) == ""


def test_gpus_are_asked_for_by_the_name_that_the_nodes_have_for_them() -> None:
    def kind(*kinds: str) -> str:
        nodes = [node(f"n{number}", gpus=("GPU-a",), kind=one) for number, one in enumerate(kinds)]
        return gpu_kind(picture(nodes=nodes or None).nodes.values())

    assert kind() == "NVIDIA-GPU"
    assert kind("gpu", "gpu", "NVIDIA-GPU") == "NVIDIA-GPU"
    assert kind("gpu", "gpu", "tesla-gpu") == "gpu"


def test_what_nodes_have_and_what_replicas_were_given_of_it() -> None:
    labels = {"dcf.cpu": "0.5", "dcf.memory": "1048576"}

    [status] = node_statuses(picture(task(gpus=("GPU-b",), labels=labels), nodes=[node(gpus=("GPU-a", "GPU-b"))]))

    assert (status.name, status.ready, status.note, status.replicas) == ("host-n1", True, "worker", 1)
    assert (status.cpus, status.cpus_used, status.memory_used_bytes) == (4.0, 0.5, 1048576)
    assert (status.gpus, status.gpus_used) == (("GPU-a", "GPU-b"), ("GPU-b",))


def explained(tail: LogTail = NO_TAIL, **fields: Any) -> str:
    seen = picture(task(**fields))
    return explain_end(seen.tasks["abcdefgh"], seen, tail)


def test_the_watchers_own_words_are_the_cause() -> None:
    tail = LogTail(lines=(), last_own="ValueError: no weights", last_stderr="")

    assert explained(tail, state="failed", err="task: non-zero exit (1)") == "ValueError: no weights"
    assert explained(state="failed", err="task: non-zero exit (1)") == "its container ended with exit status 1"
    assert explained(state="complete") == "it ended by itself"


def test_a_kill_is_said_to_be_memory_with_the_limit() -> None:
    said = explained(state="failed", err="task: non-zero exit (137)", labels={"dcf.memory": str(512 * 1024**2)})

    assert "SIGKILL" in said
    assert "512 MiB, limits.memory" in said


def test_an_image_that_a_node_cannot_have_says_which_and_where() -> None:
    seen = picture(task(state="rejected", err="No such image: echo:1"))
    rejected = seen.tasks["abcdefgh"]

    assert rejected.image_missing
    assert "node host-n1 could not fetch image echo:1" in explain_end(rejected, seen, NO_TAIL)


def test_what_swarm_misplaces_is_no_failed_start() -> None:
    seen = picture(
        task("a", "rejected", err="assigned node no longer meets constraints"),
        task("b", "rejected", err="node is missing network attachments, ip addresses may be exhausted"),
        task("c", "rejected", err="No such image: echo:1"),
    )

    assert [one.was_misplaced for one in seen.tasks.values()] == [True, True, False]


def test_a_log_comes_in_pieces_that_name_their_stream() -> None:
    data = b"\1\0\0\0\0\0\0\5a\nb\nc" + b"\2\0\0\0\0\0\0\5oops\n" + b"\1\0\0\0\0\0\0\2d\n" + b"\1\0\0"

    assert split_streams(data) == (["a", "b", "cd"], ["oops"])


def test_a_replica_that_swarm_takes_off_its_node_says_so() -> None:
    said = explained(state="rejected", err="assigned node no longer meets constraints")

    assert said == "Swarm took it off node host-n1, which had changed: assigned node no longer meets constraints"
