"""What a function is as a Swarm service: the whole JSON, and what depends on the engine's age."""

from __future__ import annotations

import dataclasses
from typing import Any

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.names import FunctionName
from dcf.scheduler.backends.swarm_service import (
    ServicePlace,
    anchor_spec,
    service_name,
    service_spec,
    task_replica_name,
)

PLACE = ServicePlace(cluster="dcf", network_id="net1")


def spec_of(**fields: Any) -> FunctionSpec:
    given: dict[str, Any] = {"name": FunctionName("echo"), "image": "host/echo@sha256:1", "uid": "u1", **fields}
    return FunctionSpec(**given)


def container_of(spec: FunctionSpec, place: ServicePlace = PLACE) -> dict[str, Any]:
    made: dict[str, Any] = service_spec(spec, place)["TaskTemplate"]["ContainerSpec"]
    return made


def environ_of(spec: FunctionSpec) -> dict[str, str]:
    return dict(line.split("=", 1) for line in container_of(spec)["Env"])


def test_a_service_is_named_as_a_person_expects_it() -> None:
    made = service_spec(spec_of(replicas=3), PLACE)

    assert made["Name"] == "dcf_echo"
    assert made["Mode"] == {"Replicated": {"Replicas": 3}}
    assert made["EndpointSpec"] == {"Mode": "dnsrr"}
    assert made["TaskTemplate"]["Networks"] == [{"Target": "net1"}]


def test_a_name_that_is_too_long_is_cut_and_still_its_own() -> None:
    one, other = service_name("dcf", "a" * 62 + "b"), service_name("dcf", "a" * 62 + "c")

    assert len(one) == len(other) == 63
    assert one != other
    assert one.startswith("dcf_aaa")


def test_labels_say_what_a_task_runs_also_during_an_update() -> None:
    spec = spec_of(generation=7)

    made = service_spec(spec, PLACE)

    assert made["Labels"] == made["TaskTemplate"]["ContainerSpec"]["Labels"]
    assert made["Labels"]["dcf.generation"] == "7"
    assert made["Labels"]["dcf.digest"] == replica_digest(spec)


def test_a_pin_counts_before_the_number_in_the_config() -> None:
    assert service_spec(spec_of(replicas=1, pinned_replicas=5), PLACE)["Mode"]["Replicated"]["Replicas"] == 5


def test_a_replica_may_drain_as_long_as_its_longest_call_takes() -> None:
    assert container_of(spec_of(timeout_s=60, kill_after_s=30))["StopGracePeriod"] == 100 * 10**9


def test_both_sides_compute_the_same_replica_name() -> None:
    assert environ_of(spec_of())["DCF_REPLICA"] == 'echo-g1-{{.Task.Slot}}-{{printf "%.5s" .Task.ID}}'
    assert task_replica_name("echo", 1, 2, "abcdefgh") == "echo-g1-2-abcde"


def test_braces_of_the_user_are_not_a_template_of_swarms() -> None:
    assert '{{"{{"}} x }}' in environ_of(spec_of(environment={"A": "{{ x }}"}))["DCF_ENVIRONMENT"]


def test_a_new_replica_comes_first_but_for_a_gpu_it_cannot() -> None:
    plain, on_gpu = service_spec(spec_of(), PLACE), service_spec(spec_of(limits={"gpu": "1"}), PLACE)

    assert plain["UpdateConfig"]["Order"] == "start-first"
    assert on_gpu["UpdateConfig"]["Order"] == "stop-first"
    assert plain["UpdateConfig"]["FailureAction"] == "rollback"
    assert plain["RollbackConfig"]["FailureAction"] == "pause"
    assert plain["TaskTemplate"]["RestartPolicy"]["Condition"] == "any"


def test_limits_and_requests_are_limits_and_reservations() -> None:
    spec = spec_of(limits={"cpu": "500m", "memory": "1Gi", "gpu": "2"}, requests={"cpu": "0.1", "memory": "64Mi"})

    resources = service_spec(spec, dataclasses.replace(PLACE, gpu_kind="gpu"))["TaskTemplate"]["Resources"]

    assert resources["Limits"] == {"Pids": 4096, "NanoCPUs": 500_000_000, "MemoryBytes": 1024**3}
    assert resources["Reservations"] == {
        "NanoCPUs": 100_000_000,
        "MemoryBytes": 64 * 1024**2,
        "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
    }


def test_constraints_and_preferences_come_from_one_list() -> None:
    spec = spec_of(constraints=("node.role==worker", "spread=node.labels.rack"))

    placement = service_spec(spec, PLACE)["TaskTemplate"]["Placement"]

    assert placement["Constraints"] == ["node.role==worker"]
    assert placement["Preferences"] == [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}]


def test_a_container_has_no_rights_and_two_places_to_write() -> None:
    made = container_of(spec_of())

    assert made["ReadOnly"] is True
    assert made["CapabilityDrop"] == ["ALL"]
    assert [mount["Target"] for mount in made["Mounts"]] == ["/tmp", "/dev/shm"]


def test_a_newer_engine_is_asked_for_more() -> None:
    old, new = container_of(spec_of()), container_of(spec_of(), dataclasses.replace(PLACE, api=(1, 46)))

    assert "Privileges" not in old
    assert "StartInterval" not in old["HealthCheck"]
    assert new["Privileges"] == {"NoNewPrivileges": True}
    assert new["HealthCheck"]["StartInterval"] < new["HealthCheck"]["Interval"]
    assert new["Mounts"][0]["TmpfsOptions"]["Options"] == [["exec"]]


def test_a_secret_is_a_file_that_the_handler_can_read() -> None:
    place = dataclasses.replace(PLACE, secret_ids={"token": "s1"})

    [secret] = container_of(spec_of(secrets=("token",)), place)["Secrets"]

    assert (secret["SecretID"], secret["SecretName"]) == ("s1", "token")
    assert secret["File"] == {"Name": "token", "UID": "0", "GID": "0", "Mode": 0o444}


def test_a_forced_update_is_not_undone() -> None:
    made = service_spec(spec_of(), dataclasses.replace(PLACE, force_update=3))

    assert made["TaskTemplate"]["ForceUpdate"] == 3


def test_an_anchor_sleeps_on_every_node_and_is_no_function() -> None:
    made = anchor_spec("dcf", "net1", "host/echo@sha256:1")

    assert made["Name"] == "dcf-anchor"
    assert made["Mode"] == {"Global": {}}
    assert made["Labels"] == {"dcf.cluster": "dcf"}
    assert made["TaskTemplate"]["Networks"] == [{"Target": "net1"}]
    assert "Reservations" not in made["TaskTemplate"]["Resources"]
