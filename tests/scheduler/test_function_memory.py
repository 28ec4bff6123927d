"""What is remembered of a function that failed, when somebody calls again."""

from __future__ import annotations

from dcf.scheduler.backoff import Backoff
from dcf.scheduler.function_memory import FunctionMemory

NOW = 1000.0


def failed(times: int, *, image_missing: bool = False) -> FunctionMemory:
    backoff = Backoff()
    for _ in range(times):
        after = backoff.after_missing_image if image_missing else backoff.after_exit
        backoff = after(now_s=NOW) if image_missing else backoff.after_exit(now_s=NOW, ready_for_s=0.0)
    return FunctionMemory(backoff=backoff)


def test_a_call_that_wakes_it_waits_for_the_back_off_of_its_starts() -> None:
    memory = failed(3)
    assert memory.hopeless

    memory.ask(0, 1, NOW + 1.0)

    assert memory.hopeless
    assert memory.backoff.next_at == NOW + 4.0


def test_once_that_is_over_it_is_tried_and_calls_are_held_until_it_fails_again() -> None:
    memory = failed(3)

    memory.ask(0, 1, NOW + 5.0)

    assert not memory.hopeless
    assert memory.backoff.failures == 3
    memory.backoff = memory.backoff.after_exit(now_s=NOW + 6.0, ready_for_s=0.0)
    assert memory.hopeless


def test_an_image_that_was_missing_is_looked_for_at_once() -> None:
    memory = failed(1, image_missing=True)
    assert memory.hopeless

    memory.ask(0, 1, NOW + 0.1)

    assert not memory.hopeless
    assert memory.backoff.next_at <= NOW + 0.1


def test_more_replicas_of_one_that_runs_are_no_new_try() -> None:
    memory = failed(3)

    memory.ask(1, 2, NOW + 60.0)

    assert memory.hopeless
    assert memory.asked_at == NOW + 60.0
