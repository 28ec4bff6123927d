"""Cancels, deadlines, drains and deaths: who is hurt, and who is not."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from dcf.rpc.frames import DATA, ERROR, LAST, OPEN, OPEN_PREFIX, REFUSED, REPLY, pack
from tests.watcher.harness import eventually, interpreters, run_watcher

VERSIONS = interpreters()

GATED = """
    import os, sys, time
    import threading

    def log(text):
        print(text, flush=True)

    class Handler:
        def __call__(self, req):
            word = req.text
            log("begun " + word)
            if word.startswith("wait"):
                while not os.path.exists(word):
                    time.sleep(0.005)
            elif word.startswith("until cancelled"):
                while not req.cancelled:
                    time.sleep(0.005)
                log("saw it")
            elif word == "stuck":
                while True:
                    time.sleep(0.01)
            elif word == "crash":
                os._exit(9)
            elif word == "segfault":
                os.kill(os.getpid(), 11)
            elif word == "deaf":
                os.closerange(3, 64)
                time.sleep(600)
            elif word == "fork and crash":
                if os.fork():
                    os._exit(9)
                time.sleep(20)
                os._exit(0)
            return word
"""


@pytest.mark.parametrize("version", ["3.6", "3.13"])
async def test_cancelled_sync_handler_sees_it_and_its_slot_is_free_when_it_returns(
    tmp_path: Path, version: str
) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")

    async with run_watcher(tmp_path, GATED, python=VERSIONS[version]) as replica, replica.attach() as gateway:
        first = await gateway.open(b"until cancelled")
        await replica.until_logged("begun until cancelled")
        waiting = await gateway.open(b"hello")
        await gateway.cancel(first)

        assert (await gateway.answer(first)).body == b"until cancelled"
        assert (await gateway.answer(waiting)).body == b"hello"
        await replica.until_logged("saw it")


async def test_call_cancelled_in_the_watchers_queue_never_starts(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        running = await gateway.open(b"wait")
        queued = await gateway.open(b"never")
        await gateway.cancel(queued)

        answer = await gateway.answer(queued)
        (tmp_path / "src" / "wait").touch()
        await gateway.answer(running)
        lines = await replica.lines()

    assert (answer.kind, answer.code) == (ERROR, "client_gone")
    assert not any("never" in line.text for line in lines)


async def test_call_cancelled_while_its_input_is_sent_is_given_up(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        gateway.pack_call(500, b"")
        await gateway.write(pack(500, OPEN, OPEN_PREFIX.pack(0, 0, 0) + b"par"))
        await gateway.write(pack(500, DATA, b"tial"))
        await gateway.cancel(500)
        answer = await gateway.answer(500)
        await gateway.write(pack(500, DATA, b"too late", LAST))

        assert answer.code == "client_gone"
        assert (await gateway.call(b"next")).body == b"next"


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
async def test_cancelled_async_handler_gets_cancelled_error(tmp_path: Path, version: str) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")
    handler = """
        import asyncio

        async def Handler(req):
            print("begun", flush=True)
            try:
                await asyncio.sleep(float(req.text))
            except asyncio.CancelledError:
                print("cancelled indeed", flush=True)
                raise
            return req.text
    """

    async with run_watcher(tmp_path, handler, python=VERSIONS[version]) as replica, replica.attach() as gateway:
        call_id = await gateway.open(b"600")
        await replica.until_logged("begun")
        neighbour = await gateway.open(b"0.05")
        await gateway.cancel(call_id)

        assert (await gateway.answer(call_id)).code == "client_gone"
        assert (await gateway.answer(neighbour)).body == b"0.05"
        lines = await replica.until_logged("cancelled indeed")
        assert not any("Traceback" in line.text for line in lines)


@pytest.mark.parametrize("kind", ["sync", "threads", "async"])
async def test_answer_that_nobody_reads_is_given_up_when_its_call_is_cancelled(tmp_path: Path, kind: str) -> None:
    word = "async " if kind == "async" else ""
    handler = f"""
        {word}def Handler(req):
            return b"x" * int(req.text)
    """

    async with (
        run_watcher(tmp_path, handler, concurrency=2 if kind == "threads" else None) as replica,
        replica.attach() as gateway,
    ):
        gateway.credit_answers = False
        call_id = await gateway.open(b"5000000")
        await eventually(lambda: len(gateway._answers[call_id].pieces) == 4, "a full window")
        await gateway.cancel(call_id)

        assert (await gateway.answer(call_id)).code == "client_gone"
        assert len((await gateway.call(b"5")).body) == 5


async def test_overdue_handler_costs_its_worker_its_life_but_not_its_neighbours(tmp_path: Path) -> None:
    async with (
        run_watcher(tmp_path, GATED, concurrency=2, kill_after_s=0.2) as replica,
        replica.attach() as gateway,
    ):
        neighbour = await gateway.open(b"wait")
        stuck = await gateway.open(b"stuck", deadline_ms=50)
        await replica.until_logged("begun stuck")
        await eventually(lambda: gateway.states[-1]["capacity"] == 0, "the condemnation")
        refused = await gateway.call(b"more")
        assert not gateway.has_answer(neighbour)
        (tmp_path / "src" / "wait").touch()

        assert (await gateway.answer(neighbour)).body == b"wait"
        assert (await gateway.answer(stuck)).code == "deadline_exceeded"
        await eventually(lambda: gateway.states[-1]["capacity"] > 0, "another worker")
        assert (await gateway.call(b"again")).body == b"again"
        lines = await replica.lines()

    assert refused.kind == REFUSED
    assert any("0.2 s (kill_after) past the deadline" in line.text for line in lines)


async def test_slow_handler_within_its_grace_is_left_alone(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED, kill_after_s=600.0) as replica, replica.attach() as gateway:
        late = await gateway.open(b"until cancelled", deadline_ms=50)
        assert (await gateway.answer(late)).body == b"until cancelled"
        report = await replica.until_state("ready")

    assert report.worker_restarts == 0


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        (b"crash", "exited with status 9"),
        (b"segfault", "was ended by SIGSEGV"),
        (b"deaf", "closed its connection to the watcher"),
        (b"fork and crash", "exited with status 9"),
    ],
)
async def test_dead_worker_fails_only_what_was_in_it_and_is_replaced(tmp_path: Path, word: bytes, cause: str) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        started = await gateway.open(word)
        waiting = await gateway.open(b"not yet")

        lost, refused = await gateway.answer(started), await gateway.answer(waiting)
        await eventually(lambda: gateway.states[-1]["capacity"] > 0, "another worker")
        again = await gateway.call(b"again")
        await replica.until_logged(cause)

    assert (lost.kind, lost.code) == (ERROR, "replica_lost")
    assert cause in lost.message
    assert refused.kind == REFUSED
    assert again.body == b"again"


async def test_one_dead_worker_of_two_leaves_the_others_calls_alone(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED, workers=2) as replica, replica.attach() as gateway:
        await eventually(lambda: gateway.states[-1]["concurrency"] == 2, "both workers")
        running = await gateway.open(b"wait")
        await replica.until_logged("begun wait")
        assert (await gateway.call(b"crash")).code == "replica_lost"
        (tmp_path / "src" / "wait").touch()

        assert (await gateway.answer(running)).body == b"wait"


async def test_sigterm_while_a_worker_is_replaced_ends_in_order(tmp_path: Path) -> None:
    for _ in range(3):
        async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
            await gateway.call(b"crash")
            replica.process.terminate()
            assert await replica.exit_status() == 0


async def test_worker_that_dies_again_and_again_is_restarted_with_back_off(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        for _ in range(2):
            await eventually(lambda: gateway.states[-1]["capacity"] > 0)
            await gateway.call(b"crash")
            gateway.states.append({"capacity": 0})
        lines = await replica.until_logged("another worker starts in 1 s")

    assert any("another worker starts in 0 s" in line.text for line in lines)


async def test_handler_that_cannot_be_loaded_again_ends_the_replica(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        (tmp_path / "src" / "handler.py").write_text("raise ValueError('gone bad')")
        await gateway.call(b"crash")

        assert await replica.exit_status() == 1

    assert replica.log_file()[-1] == ("dcf", "dcf: ValueError: gone bad while the handler was loaded")


@pytest.mark.parametrize("signals", [1, 2])
async def test_drain_finishes_what_runs_and_gives_back_what_waits(tmp_path: Path, signals: int) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway, replica.attach() as other:
        running = await gateway.open(b"wait")
        await replica.until_logged("begun wait")
        waiting = await other.open(b"not yet")
        for _ in range(signals):  # a new scheduler may ask again: no call is lost by that
            replica.process.send_signal(signal.SIGTERM)
            await eventually(lambda: gateway.states[-1]["state"] == "draining", "the drain")
        new = await gateway.call(b"new")
        assert replica.process.poll() is None
        (tmp_path / "src" / "wait").touch()

        assert (await gateway.answer(running)).body == b"wait"
        assert (await other.answer(waiting)).kind == new.kind == REFUSED

    assert await replica.exit_status() == 0


async def test_orderly_end_runs_the_handlers_atexit_functions(tmp_path: Path) -> None:
    handler = """
        import atexit
        atexit.register(lambda: open("left", "w").close())

        def Handler(req):
            return b""
    """

    async with run_watcher(tmp_path, handler) as replica:
        await replica.until_state("ready")
        replica.process.terminate()
        assert await replica.exit_status() == 0

    assert (tmp_path / "src" / "left").exists()


async def test_workers_end_with_a_killed_watcher(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED, workers=2) as replica, replica.attach() as gateway:
        await eventually(lambda: gateway.states[-1]["concurrency"] == 2, "both workers")
        await gateway.open(b"stuck")
        pids = replica.worker_pids()
        replica.process.kill()

        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the workers")
        assert len(pids) == 2


async def test_gateway_that_dies_has_its_calls_cancelled_and_hurts_nobody(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED, concurrency=2) as replica, replica.attach() as stays:
        async with replica.attach() as leaves:
            await leaves.open(b"until cancelled")
            await replica.until_logged("begun until cancelled")
        await replica.until_logged("saw it")

        assert (await stays.call(b"hello")).body == b"hello"
        assert replica.process.poll() is None


async def test_gateways_that_die_in_the_middle_of_answers_do_no_harm(tmp_path: Path) -> None:
    handler = """
        def Handler(req):
            return req.input * 1000
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as stays:
        for _ in range(15):
            async with replica.attach() as leaves:
                for _ in range(30):
                    await leaves.open(b"x" * 900)
        answer = await stays.call(b"y")
        await eventually(lambda: stays.states[-1]["in_flight"] == 0)

    assert (answer.kind, len(answer.body)) == (REPLY, 1000)
    assert replica.process.returncode == 0


async def test_replica_never_takes_more_than_it_has_announced_and_never_refuses_for_ever(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        ids = [await gateway.open(b"wait") for _ in range(20)]
        refused = 18
        await eventually(lambda: sum(map(gateway.has_answer, ids)) >= refused, "the refusals")
        (tmp_path / "src" / "wait").touch()
        kinds = [(await gateway.answer(call_id)).kind for call_id in ids]
        for _ in range(200):  # its capacity grows as it is found to be fast
            assert (await gateway.call(b"quick")).kind == REPLY
        await eventually(lambda: gateway.states[-1]["capacity"] > 1, "more capacity")

    assert kinds.count(REFUSED) == refused
    assert kinds.count(REPLY) == 2


async def test_call_that_nobody_waits_for_any_more_is_not_run(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, GATED) as replica, replica.attach() as gateway:
        running = await gateway.open(b"wait")
        late = await gateway.open(b"too late", deadline_ms=1)
        await replica.until_logged("begun wait")
        await asyncio.sleep(0.01)
        (tmp_path / "src" / "wait").touch()

        await gateway.answer(running)
        assert (await gateway.answer(late)).code == "deadline_exceeded"
        assert not any("too late" in line.text for line in await replica.lines())


async def test_handler_may_use_multiprocessing(tmp_path: Path) -> None:
    handler = """
        import multiprocessing

        def double(number):
            return 2 * number

        class Handler:
            def __init__(self):
                self.pool = multiprocessing.Pool(2)

            def __call__(self, req):
                return self.pool.map(double, req.json())
    """
    python = VERSIONS.get("3.8", sys.executable)

    async with run_watcher(tmp_path, handler, python=python) as replica, replica.attach() as gateway:
        answer = await gateway.call(b"[1, 2]")

    assert answer.body == b"[2, 4]"
    assert replica.process.returncode == 0
