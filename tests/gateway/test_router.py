"""Choosing a replica, and the queue in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.domain.scaling import ScalingPolicy
from dcf.domain.status import Endpoint, FunctionStatus
from dcf.errors import FunctionNotFoundError, NoReplicaError, OverloadedError
from dcf.gateway.call import PendingCall
from dcf.gateway.mesh import BodySender
from dcf.gateway.reply import Reply, ReplyStream
from dcf.gateway.router import FunctionEntry, Router, pick
from dcf.rpc.frames import LAST, PIECE_BYTES, WINDOW_BYTES


@dataclass
class Replica:
    """Where a link would be: it keeps what it was given."""

    endpoint: Endpoint = field(default_factory=lambda: Endpoint(replica="echo-g1-0", address="unix:/x", generation=1))
    open: bool = True
    outstanding: int = 0
    uploads: int = 0
    in_flight: int = 0
    bidirectional: bool = False
    takes_uploads: bool = True
    capacity: int = 1
    concurrency: int = 1
    sent: list[PendingCall] = field(default_factory=list)
    cancelled: list[PendingCall] = field(default_factory=list)

    def send(self, call: PendingCall) -> None:
        call.link = self
        self.outstanding += 1
        self.sent.append(call)

    def cancel(self, call: PendingCall) -> None:
        self.cancelled.append(call)

    def grant(self, call: PendingCall, number_bytes: int) -> None:
        raise AssertionError("no answer was sent")

    def send_input(self, call: PendingCall, piece: bytes, flags: int) -> None:
        raise AssertionError("all input was in the call")


def spec(**fields: object) -> FunctionSpec:
    return FunctionSpec(name=FunctionName("echo"), image="x", uid="u1", **fields)  # type: ignore[arg-type]


def make_call(entry: FunctionEntry, limit_s: float = 60.0) -> PendingCall:
    loop = asyncio.get_running_loop()
    return PendingCall(entry, b"", metadata=b"", invocation_id="i", deadline=loop.time() + limit_s, chain=(), loop=loop)


async def outcome(call: PendingCall) -> Reply | ReplyStream | None:
    """Its answer; raises its error."""
    settled = asyncio.Event()
    call.on_settled = lambda call: settled.set()
    if not call.settled:
        await settled.wait()
    if call.error is not None:
        raise call.error
    return call.answer


def test_the_least_loaded_replica_for_its_size_is_picked() -> None:
    big = Replica(outstanding=4, capacity=10, concurrency=8)
    small = Replica(outstanding=1, capacity=2, concurrency=1)

    assert pick([small, big]) is big


def test_a_replica_without_room_or_out_of_routing_is_never_picked() -> None:
    assert pick([Replica(outstanding=1), Replica(open=False), Replica(capacity=0)]) is None


async def test_calls_wait_in_order_and_the_one_given_back_goes_first() -> None:
    entry, replica = FunctionEntry(spec()), Replica()
    entry.links = {"a": replica}
    first, second, third = (make_call(entry) for _ in range(3))
    for call in (first, second, third):
        entry.submit(call)
    assert replica.sent == [first]
    assert entry.queued == 2

    replica.outstanding = 0  # the replica refused the first: it had not started it
    entry.requeue(first)
    replica.capacity = 3
    entry.dispatch()

    assert replica.sent == [first, first, second, third]
    assert entry.queued == 0


async def test_a_call_given_up_in_the_queue_is_never_sent() -> None:
    entry, replica = FunctionEntry(spec()), Replica(capacity=0)
    entry.links = {"a": replica}
    calls = [make_call(entry) for _ in range(200)]
    for call in calls:
        entry.submit(call)
    for call in calls[:-1]:
        entry.give_up(call)

    replica.capacity = 300
    entry.dispatch()

    assert replica.sent == calls[-1:]
    assert entry.queued == 0


async def test_a_call_given_up_at_a_replica_is_cancelled_there() -> None:
    entry, replica = FunctionEntry(spec()), Replica()
    entry.links = {"a": replica}
    call = make_call(entry)
    entry.submit(call)

    entry.give_up(call)

    assert replica.cancelled == [call]


async def test_the_queue_is_bounded() -> None:
    entry = FunctionEntry(spec(queue=2))
    entry.links = {"a": Replica(capacity=0)}
    entry.submit(make_call(entry))
    entry.submit(make_call(entry))

    with pytest.raises(OverloadedError, match=r"2 calls wait \(queue: 2\)") as refused:
        entry.submit(make_call(entry))
    assert refused.value.retry_after_s


async def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once() -> None:
    entry = FunctionEntry(spec())
    entry.links = {"a": Replica(capacity=0)}
    entry.mean_handler_s = 2.0
    entry.submit(make_call(entry))
    entry.submit(make_call(entry))

    with pytest.raises(OverloadedError, match=r"about 4\.0 s of work") as refused:
        entry.submit(make_call(entry, limit_s=3.0))
    assert refused.value.retry_after_s == 4.0
    entry.submit(make_call(entry, limit_s=5.0))


async def test_calls_are_held_while_a_replica_starts_and_fail_at_once_when_it_has_failed() -> None:
    router = Router()
    router.apply_spec(spec())
    entry = router.functions["echo"]
    held = make_call(entry)
    entry.submit(held)

    router.apply_status("echo", FunctionStatus(name="echo", uid="u1", generation=1, failed=True, reason="no weights"))

    with pytest.raises(NoReplicaError, match="no weights"):
        await outcome(held)
    with pytest.raises(NoReplicaError, match="no weights"):
        entry.submit(make_call(entry))


async def test_a_failed_status_of_an_older_spec_fails_nobody() -> None:
    router = Router()
    router.apply_spec(spec(generation=2))
    entry = router.functions["echo"]
    held = make_call(entry)
    entry.submit(held)

    router.apply_status("echo", FunctionStatus(name="echo", uid="u1", generation=1, failed=True, reason="no weights"))
    router.apply_status("echo", FunctionStatus(name="echo", uid="u0", generation=2, failed=True, reason="no weights"))

    assert not held.settled


async def test_a_failed_update_leaves_the_old_replicas_in_routing() -> None:
    router = Router()
    router.apply_spec(spec(generation=2))
    entry, replica = router.functions["echo"], Replica()
    entry.links = {"a": replica}
    router.apply_status("echo", FunctionStatus(name="echo", uid="u1", generation=2, failed=True, reason="no weights"))

    entry.submit(make_call(entry))

    assert len(replica.sent) == 1


async def test_waiting_calls_of_a_deleted_function_fail() -> None:
    router = Router()
    router.apply_spec(spec())
    held = make_call(router.functions["echo"])
    router.functions["echo"].submit(held)

    router.remove("echo")

    with pytest.raises(FunctionNotFoundError, match="deleted"):
        await outcome(held)


async def test_an_older_revision_does_not_overwrite_a_newer_one() -> None:
    router = Router()
    router.apply_spec(spec(revision=3, replicas=3))
    router.apply_spec(spec(revision=2, replicas=2))

    assert router.functions["echo"].spec.replicas == 3


def test_a_body_is_sent_no_further_ahead_than_its_window() -> None:
    sent: list[tuple[bytes, int]] = []
    body = bytes(range(256)) * (12 * 1024)  # 3 MiB
    sender = BodySender(body, PIECE_BYTES, lambda piece, flags: sent.append((piece, flags)))

    sender.pump()
    assert PIECE_BYTES + sum(len(piece) for piece, _ in sent) == WINDOW_BYTES
    while not sent[-1][1] & LAST:
        before = len(sent)
        sender.on_credit(PIECE_BYTES)
        assert len(sent) == before + 1

    assert body[:PIECE_BYTES] + b"".join(piece for piece, _ in sent) == body
    assert [flags for _, flags in sent].count(LAST) == 1


async def test_a_stream_of_input_goes_only_where_it_is_understood() -> None:
    """During an update replicas of both kinds are in routing, and nobody behind the stream waits for it."""
    router = Router()
    router.apply_spec(spec())
    entry, old, new = router.functions["echo"], Replica(), Replica(bidirectional=True, outstanding=1)
    entry.links = {"old": old, "new": new}
    loop = asyncio.get_running_loop()
    stream = PendingCall(
        entry, b"", metadata=b"", invocation_id="s", deadline=loop.time() + 60, chain=(), loop=loop, bidirectional=True
    )

    entry.submit(stream)
    entry.submit(single := make_call(entry))
    assert (stream.queued, old.sent, new.sent) == (True, [single], [])
    new.outstanding = 0
    entry.dispatch()

    assert new.sent == [stream]


async def test_a_replica_that_refused_an_upload_gets_none_until_it_has_told_its_state() -> None:
    router = Router()
    router.apply_spec(spec())
    entry, replica = router.functions["echo"], Replica(takes_uploads=False)
    entry.links = {"a": replica}
    loop = asyncio.get_running_loop()

    async def rest() -> AsyncIterator[bytes]:
        yield b""

    upload = PendingCall(
        entry, b"x", metadata=b"", invocation_id="u", deadline=loop.time() + 60, chain=(), loop=loop, rest=rest()
    )
    entry.submit(upload)
    entry.submit(single := make_call(entry))
    assert (upload.queued, replica.sent) == (True, [single])
    replica.takes_uploads = True
    entry.dispatch()

    assert replica.sent == [single, upload]


async def test_a_deleted_function_takes_no_call_any_more() -> None:
    router = Router()
    router.apply_spec(spec())
    entry = router.functions["echo"]
    router.remove("echo")

    with pytest.raises(FunctionNotFoundError, match="deleted"):
        entry.submit(make_call(entry))
    entry.requeue(refused := make_call(entry))
    with pytest.raises(FunctionNotFoundError, match="deleted"):
        await outcome(refused)


async def test_an_elastic_function_refuses_nobody_for_the_replicas_that_it_has_now() -> None:
    """More come while the call waits; a fixed number is what it is."""
    elastic, fixed = (
        FunctionEntry(spec(scaling=scaling)) for scaling in (ScalingPolicy(min_replicas=1, max_replicas=40), None)
    )
    for entry in (elastic, fixed):
        entry.links = {"unix:/x": Replica(capacity=0)}
        entry.mean_handler_s = 20.0
        for _ in range(3):
            entry.submit(make_call(entry))

    elastic.submit(make_call(elastic))
    with pytest.raises(OverloadedError, match="3 calls of echo wait already"):
        fixed.submit(make_call(fixed))


async def test_calls_of_an_elastic_function_without_replicas_are_held_and_measured() -> None:
    told: list[int] = []
    entry = FunctionEntry(spec(scaling=ScalingPolicy(min_replicas=0), pinned_replicas=None))
    entry.on_queue = lambda one: told.append(one.queued)

    for _ in range(5):
        entry.submit(make_call(entry))

    assert told == [1, 2, 4], "at the first, and each time that they are twice as many"
    assert entry.meter.held_at is not None
    assert 0.0 <= entry.oldest_wait_s(asyncio.get_running_loop().time()) < 5.0
