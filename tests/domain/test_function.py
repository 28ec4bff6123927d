"""A deploy request becomes a spec, and a spec the successor of another."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dcf.domain.bundle import BundleManifest, manifest_from_json, manifest_to_json, watcher_environment
from dcf.domain.function import (
    FunctionSpec,
    needs_new_replicas,
    parse_spec,
    replica_digest,
    spec_from_json,
    spec_to_json,
    spec_to_request,
    succeed,
)
from dcf.domain.scaling import ScalingPolicy
from dcf.domain.status import FunctionStatus, ReplicaStatus, status_from_json, status_to_json
from dcf.env import read_settings
from dcf.errors import ImageNotFoundError, InvalidInputError
from dcf.watcher.settings import WatcherSettings

FULL: dict[str, Any] = {
    "service": "echo", "image": "bundle:echo@0123456789ab", "envVars": {"A": "b"}, "labels": {"l": "m"},
    "annotations": {"n": "o"}, "constraints": ["node.role==worker"], "secrets": ["s"],
    "limits": {"memory": "1G", "cpu": "500m", "gpu": "1"}, "requests": {"memory": "512Mi"}, "runtime": "python",
    "description": "says it again", "maintainer": "me", "replicas": 3, "concurrency": 4, "workers": 2, "timeout": "5s",
    "startTimeout": "2m", "killAfter": "500ms", "queue": 0, "maxPayload": "1Mi", "debug": True,
}  # fmt: skip
SMALL: dict[str, Any] = {"service": "echo", "image": "x"}


def test_full_request_reads_and_shows_the_same() -> None:
    spec = parse_spec(FULL)

    assert (spec.timeout_s, spec.kill_after_s, spec.queue, spec.max_payload_bytes) == (5.0, 0.5, 0, 1024**2)
    assert parse_spec(spec_to_request(spec)) == spec
    assert spec_from_json(json.loads(json.dumps({**spec_to_json(spec), "of_a_newer_release": 1}))) == spec


def test_least_request_has_the_defaults() -> None:
    spec = parse_spec(SMALL | {"limits": {"memory": "", "gpu": None}, "timeout": "", "concurrency": None})

    assert (spec.replicas, spec.workers, spec.timeout_s, spec.queue, spec.limits) == (1, 1, 60.0, 1000, {})
    assert parse_spec(spec_to_request(spec)) == spec


def test_scaling_is_kept_and_its_minimum_runs() -> None:
    spec = parse_spec(SMALL | {"scaling": {"min": 2, "max": 5}})

    assert (spec.replicas, spec.scaling) == (2, ScalingPolicy(min_replicas=2, max_replicas=5))
    assert parse_spec(spec_to_request(spec)) == spec


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"service": "Echo"}, "function name 'Echo'"), ({"service": 3}, "service"), ({"image": ""}, "image"),
        ({"nonsense": 1}, "unknown field 'nonsense'"), ({"replicas": -1}, "replicas"), ({"replicas": True}, "replicas"),
        ({"replicas": 1.5}, "replicas"), ({"concurrency": 0}, "concurrency"), ({"workers": 1000}, "workers"),
        ({"timeout": "soon"}, "timeout"), ({"timeout": 0}, "timeout"), ({"maxPayload": "much"}, "maxPayload"),
        ({"limits": {"memory": "1X"}}, "limits.memory"), ({"limits": {"disk": "1G"}}, "limits.disk"),
        ({"limits": []}, ""), ({"limits": [1]}, "limits"), ({"requests": {"gpu": "²"}}, "limits.gpu"),
        ({"envVars": {"DCF_X": "1"}}, "DCF_X"), ({"envVars": {"A=B": "1"}}, "A=B"), ({"envVars": {"A": 1}}, "envVars"),
        ({"envVars": {"A": "b\0"}}, "envVars"), ({"secrets": "s"}, "secrets"), ({"debug": "yes"}, "debug"),
        ({"envVars": {"A": "b" * 130_000}}, "expected at most 122880"), ({"constraints": ["spread="]}, "constraints"),
        ({"constraints": ["node.role=worker"]}, "spread="), ({"constraints": ["role==worker"]}, "'role==worker'"),
        ({"scaling": 3}, "scaling"), ({"scaling": {"min": "many"}}, "scaling.min"),
        ({"scaling": {"min": 10**9}}, "scaling.min"), ({"scaling": {"min": 1}, "replicas": 1}, "replicas and scaling"),
    ],
)  # fmt: skip
def test_wrong_field_is_named(wrong: dict[str, Any], named: str) -> None:
    if not named:
        parse_spec(SMALL | wrong)
        return
    with pytest.raises(InvalidInputError) as caught:
        parse_spec(SMALL | wrong)

    assert named in caught.value.message


def test_constraints_are_as_swarm_takes_them() -> None:
    right = ["node.labels.zone==a", "node.hostname != box3", "engine.labels.disk==ssd", "spread=node.labels.rack"]

    assert parse_spec(SMALL | {"constraints": right}).constraints == tuple(right)


def test_successor_carries_the_identity_on() -> None:
    first = succeed(None, parse_spec(SMALL), uid="u1")
    pinned = dataclasses.replace(first, pinned_replicas=4)
    same = succeed(pinned, parse_spec(SMALL | {"description": "new words", "replicas": 2}), uid="ignored")
    changed = succeed(same, parse_spec(SMALL | {"image": "y"}), uid="ignored")

    assert (first.uid, first.generation, first.revision) == ("u1", 1, 1)
    assert (same.uid, same.generation, same.revision, same.desired) == ("u1", 1, 2, 4)
    assert (changed.uid, changed.generation, changed.revision) == ("u1", 2, 3)


def test_only_what_a_replica_is_made_of_needs_new_ones() -> None:
    old = parse_spec(FULL)
    for key, value in {"image": "z", "envVars": {}, "concurrency": 9, "timeout": "9s", "debug": False}.items():
        assert needs_new_replicas(old, parse_spec(FULL | {key: value})), key
        assert replica_digest(old) != replica_digest(parse_spec(FULL | {key: value}))
    for key, value in {"description": "z", "replicas": 9, "queue": 9, "labels": {}}.items():
        assert not needs_new_replicas(old, parse_spec(FULL | {key: value})), key


def test_status_reads_back_and_newer_keys_are_ignored() -> None:
    status = FunctionStatus(
        name="echo", uid="u", replicas=(ReplicaStatus(name="r", state="ready", generation=1),), log_tail=("a",), ready=1
    )
    data = json.loads(json.dumps(status_to_json(status)))
    data["newer"] = data["replicas"][0]["newer"] = 1

    assert status_from_json(data) == status
    assert (status.label, FunctionStatus(name="e", uid="u").label) == ("Ready", "Not Ready")


MANIFEST = BundleManifest(
    function="echo", digest="0123456789ab", runtime="python", command=("/usr/bin/python3",), version="3.6.15",
    handler_file="handler.py", handler_name="Handler",
)  # fmt: skip


def test_manifest_reads_back_and_odd_ones_are_refused() -> None:
    assert manifest_from_json(manifest_to_json(MANIFEST)) == MANIFEST
    for odd in ("", "[]", "3", "{}", '{"format": 2}', '{"format": 1}'):
        with pytest.raises(ImageNotFoundError, match="build the function again"):
            manifest_from_json(odd)


def test_watcher_settings_read_what_the_bundle_says() -> None:
    for request in (FULL, SMALL):
        spec = parse_spec(request)
        environ = watcher_environment(spec, MANIFEST, replica="echo-g1-0", listen="unix:/w", source="/s", log_file="/l")

        settings = read_settings(WatcherSettings, environ | {"DCF_STATE": "of the user's shell", "PATH": "x"})

        assert settings.command() == list(MANIFEST.command)
        assert settings.worker_environment() == spec.environment
        assert settings.concurrency == (spec.concurrency or 0)
        assert (settings.timeout_s, settings.kill_after_s) == (spec.timeout_s, spec.kill_after_s)
        assert (settings.max_payload_bytes, settings.debug) == (spec.max_payload_bytes, spec.debug)


def test_fields_of_the_spec_and_of_the_watcher_share_their_names() -> None:
    shared = {"concurrency", "workers", "timeout_s", "start_timeout_s", "kill_after_s", "max_payload_bytes", "debug"}

    assert shared <= {field.name for field in dataclasses.fields(FunctionSpec)}
    assert shared <= {field.name for field in dataclasses.fields(WatcherSettings)}
