"""What a function's status says in each situation, in words."""

from __future__ import annotations

import dataclasses

from dcf.scheduler.backoff import Backoff
from dcf.scheduler.status_report import Failure, describe, gist
from tests.scheduler.test_reconciler import spec_of, view

FAILURE = Failure(replica="echo-g1-0", cause="ValueError: no weights", log_tail=("a", "b"))


def test_all_is_well() -> None:
    spec = spec_of(2)

    status = describe(spec, [view(spec, 1, "busy"), view(spec, 0)], Backoff(), None)

    assert (status.ready, status.desired, status.settled, status.failed, status.reason) == (2, 2, True, False, "")
    assert [one.name for one in status.replicas] == ["echo-g1-0", "echo-g1-1"]


def test_starting() -> None:
    spec = spec_of(2)

    status = describe(spec, [view(spec, 0, "starting")], Backoff(), None)

    assert (status.settled, status.reason) == (False, "starting: 0 of 2 replicas ready")


def test_updating() -> None:
    old, new = spec_of(2), spec_of(2, generation=3)

    status = describe(new, [view(old, 0), view(old, 1), view(new, 0)], Backoff(), None)

    assert (status.ready, status.settled) == (3, False)
    assert status.reason == "updating: 1 of 2 replicas run generation 3"


def test_an_update_is_not_settled_while_an_old_replica_drains() -> None:
    old, new = spec_of(1), spec_of(1, generation=2)

    status = describe(new, [view(old, 0, stopping=True), view(new, 0)], Backoff(), None)

    assert (status.ready, status.settled) == (1, False)
    assert status.reason == "updating: older replicas finish their last calls (1 left)"
    assert [one.state for one in status.replicas] == ["ready", "draining"]


def test_failed_starts() -> None:
    spec, backoff = spec_of(1), Backoff()
    reasons = []
    for _ in range(3):
        backoff = backoff.after_exit(now_s=0.0, ready_for_s=0.0)
        reasons.append((describe(spec, [], backoff, FAILURE).reason, describe(spec, [], backoff, FAILURE).failed))

    assert reasons == [
        ("replica echo-g1-0 failed: ValueError: no weights; next try in 1 s", False),
        ("replica echo-g1-0 failed 2 times: ValueError: no weights; next try in 2 s", False),
        ("replica echo-g1-0 failed 3 times: ValueError: no weights; next try in 4 s", True),
    ]
    trying = describe(spec, [view(spec, 0, "starting")], backoff, FAILURE)
    assert (trying.failed, trying.log_tail) == (True, ("a", "b"))
    assert trying.reason.endswith("; it is tried again now")
    worked = describe(spec, [view(spec, 0)], backoff, FAILURE)
    assert (worked.failed, worked.settled, worked.reason, worked.log_tail) == (False, True, "", ())


def test_a_missing_image_is_the_whole_reason() -> None:
    status = describe(
        spec_of(1), [], Backoff().after_missing_image(now_s=0.0), Failure(replica="echo-g1-0", cause="not there")
    )

    assert (status.failed, status.reason) == (True, "not there")


def test_a_silent_replica_is_named() -> None:
    spec = spec_of(1)

    status = describe(spec, [view(spec, 0, "starting", silent=True, was_ready=True)], Backoff(), None)

    assert (status.ready, status.failed) == (0, False)
    assert status.reason == "replica echo-g1-0 does not report any more, though its process is there"


def test_replicas_of_an_earlier_uid_do_not_serve_the_new_function() -> None:
    gone, spec = spec_of(1, uid="u0"), spec_of(1)

    assert describe(spec, [view(gone, 0)], Backoff(), None).ready == 0


def test_calls_and_memory_alone_are_no_news() -> None:
    spec = spec_of(1)
    idle = describe(spec, [view(spec, 0)], Backoff(), None)
    busy = describe(spec, [view(spec, 0, "busy", in_flight=3, memory_bytes=9)], Backoff(), None)

    assert idle != busy
    assert gist(idle) == gist(dataclasses.replace(busy, updated_at=5.0))
