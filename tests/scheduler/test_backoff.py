"""How long the next start waits."""

from __future__ import annotations

from dcf.scheduler.backoff import Backoff


def fail(backoff: Backoff, times: int, *, ready_for_s: float = 0.0) -> list[float]:
    delays = []
    for _ in range(times):
        backoff = backoff.after_exit(now_s=100.0, ready_for_s=ready_for_s)
        delays.append(backoff.next_at - 100.0)
    return delays


def test_failed_starts_wait_longer_and_longer_up_to_a_minute() -> None:
    assert fail(Backoff(), 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_replica_that_had_worked_is_replaced_at_once() -> None:
    assert Backoff(failures=2).after_exit(now_s=100.0, ready_for_s=10.0) == Backoff()


def test_one_that_ends_soon_after_it_was_ready_counts_as_a_failed_start() -> None:
    assert Backoff().after_exit(now_s=100.0, ready_for_s=9.9).failures == 1


def test_three_failed_starts_give_up() -> None:
    backoff = Backoff()
    given_up = []
    for _ in range(3):
        backoff = backoff.after_exit(now_s=0.0, ready_for_s=0.0)
        given_up.append(backoff.given_up)

    assert given_up == [False, False, True]


def test_a_missing_image_gives_up_at_once_and_is_looked_for_often() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff = backoff.after_missing_image(now_s=0.0)
        assert backoff.given_up

    assert backoff.delay_s == 5.0
    assert backoff.after_start() == Backoff()


def test_failures_of_another_kind_begin_at_one() -> None:
    missing = Backoff().after_missing_image(now_s=0.0).after_missing_image(now_s=0.0).after_missing_image(now_s=0.0)

    assert missing.after_exit(now_s=0.0, ready_for_s=0.0).failures == 1


def test_only_a_replica_that_started_after_the_failure_proves_something() -> None:
    backoff = Backoff().after_exit(now_s=100.0, ready_for_s=0.0)

    assert backoff.after_proof(started_at=99.0) == backoff
    assert backoff.after_proof(started_at=101.0) == Backoff()


def test_a_spec_that_was_written_again_is_tried_at_once() -> None:
    backoff = Backoff().after_exit(now_s=100.0, ready_for_s=0.0).after_new_wish(now_s=100.2)

    assert (backoff.next_at, backoff.failures) == (100.2, 1)
