"""What a handler may be, may see and may return."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from dcf.rpc import frames
from dcf.rpc.frames import ERROR, REPLY
from tests.watcher.harness import Answer, interpreters, run_watcher

VERSIONS = interpreters()

RESULTS = """
    import sys
    from dcf import InvalidInputError, Reply

    class Handler:
        def __init__(self):
            print("loaded")

        def __call__(self, req):
            return getattr(self, req.text.split()[0])(req)

        def bytes(self, req): return b"\\x00\\xff"
        def bytearray(self, req): return bytearray(b"ab")
        def view(self, req): return memoryview(b"ab")
        def text(self, req): return "gr\\u00fc\\u00dfe"
        def dict(self, req): return {"a": [1, 2.5, None, True]}
        def list(self, req): return [1, "two"]
        def number(self, req): return 3
        def nothing(self, req): return None
        def empty(self, req): return b""
        def nan(self, req): return float("nan")
        def thing(self, req): return object()
        def deep(self, req):
            value = []
            for _ in range(100000):
                value = [value]
            return value
        def half(self, req): return "\\ud800"
        def reply(self, req): return Reply(b"<p>", content_type="text/html", metadata={"x-more": 1})
        def reply_json(self, req): return Reply({"a": 1})
        def refuse(self, req): raise InvalidInputError("no picture in it")
        def boom(self, req): raise ValueError("bad thing")
        def rude(self, req):
            class Rude(Exception):
                def __str__(self): raise RuntimeError("no text")
            raise Rude()
        def halves(self, req): raise ValueError("\\ud800")
        def exit(self, req): sys.exit(3)
        def broken_stderr(self, req):
            sys.stderr.close()
            raise ValueError("still said")
        def large(self, req): return b"x" * 3000
        def attributes(self, req):
            return {
                "function": req.info.function, "item": req.info["function"], "replica": req.info.replica,
                "method": req.metadata.get("method"), "id": req.invocation_id, "left": req.remaining_s,
                "cancelled": req.cancelled, "same": req.metadata is req.metadata, "input": req.input.decode(),
            }
"""


@pytest.mark.parametrize("version", ["3.6", "3.8", f"{sys.version_info.major}.{sys.version_info.minor}", "3.13"])
async def test_every_kind_of_result_has_its_outcome_on_every_python(tmp_path: Path, version: str) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")

    async with run_watcher(tmp_path, RESULTS, python=VERSIONS[version], max_payload_bytes=2000) as replica:
        async with replica.attach() as gateway:

            async def ask(name: str) -> Answer:
                return await gateway.call(name.encode())

            async def good(name: str) -> tuple[int, bytes]:
                answer = await ask(name)
                assert answer.kind == REPLY, answer
                return answer.content, answer.body

            async def bad(name: str, code: str = "handler_error") -> str:
                answer = await ask(name)
                assert (answer.kind, answer.code) == (ERROR, code), answer
                return answer.message

            assert await good("bytes") == (frames.BYTES, b"\x00\xff")
            assert await good("bytearray") == (frames.BYTES, b"ab")
            assert await good("view") == (frames.BYTES, b"ab")
            assert await good("text") == (frames.TEXT, "grüße".encode())
            assert await good("dict") == (frames.JSON, b'{"a": [1, 2.5, null, true]}')
            assert await good("list") == (frames.JSON, b'[1, "two"]')
            assert await good("number") == (frames.JSON, b"3")
            assert await good("nothing") == (frames.JSON, b"null")
            assert await good("empty") == (frames.BYTES, b"")
            assert (await ask("reply")).head == {"content_type": "text/html", "metadata": {"x-more": "1"}}
            assert await good("reply_json") == (frames.JSON, b'{"a": 1}')

            assert "returned float, which is not bytes, str or JSON" in await bad("nan")
            assert "returned object, which is not bytes, str or JSON" in await bad("thing")
            assert "returned list, which is not bytes, str or JSON" in await bad("deep")
            assert "UnicodeEncodeError" in await bad("half")
            assert await bad("refuse", "invalid_input") == "no picture in it"
            assert "not UTF-8" in (await gateway.call(b"\xff")).message
            assert await bad("boom") == "ValueError: bad thing"
            assert await bad("rude") == "Rude: (its text cannot be made)"
            assert await bad("halves") == "ValueError: \\ud800"
            assert await bad("exit") == "the handler called sys.exit(3)"
            assert "max_payload allows 2000" in await bad("large")

            metadata = json.dumps({"method": "POST"}).encode()
            call_id = await gateway.open(b"attributes", metadata=metadata, deadline_ms=60_000)
            seen = json.loads((await gateway.answer(call_id)).body)
            assert 0 < seen.pop("left") <= 60
            assert seen == {
                "function": "echo", "item": "echo", "replica": "echo-g1-0", "method": "POST",
                "id": f"inv-{call_id}", "cancelled": False, "same": True, "input": "attributes",
            }  # fmt: skip
            assert await bad("broken_stderr") == "ValueError: still said"
            assert (await ask("text")).body == "grüße".encode()

        logged = [(line.stream, line.text) for line in await replica.lines()]
        assert ("stdout", "loaded") in logged
        assert ("stderr", "ValueError: bad thing") in logged
        assert not any("worker.py" in text for stream, text in logged), "our own frames are nobody's business"


async def test_function_handler_and_debug_traceback(tmp_path: Path) -> None:
    handler = """
        def shout(req):
            return req.json()["word"].upper()
    """

    async with (
        run_watcher(tmp_path, handler, name="shout", debug=True, file="loud.py") as replica,
        replica.attach() as gateway,
    ):
        assert (await gateway.call(b'{"word": "hey"}')).body == b"HEY"
        assert "not JSON" in (await gateway.call(b"{")).message
        with pytest.raises(Exception, match=r"(?s)KeyError.*loud.py"):
            await replica.call(b"{}")


async def test_unary_call_carries_metadata_type_and_large_bodies(tmp_path: Path) -> None:
    handler = """
        class Handler:
            def __call__(self, req):
                return req.metadata["headers"] if req.metadata else req.input
    """

    async with run_watcher(tmp_path, handler, max_payload_bytes=8_000_000) as replica:
        await replica.until_state("ready")
        reply = await replica.call(b"", {"x-a": "b"})
        body = bytes(range(256)) * 20_000
        echoed = await replica.call(body)
        with pytest.raises(Exception, match="max_payload allows 8000000"):
            await replica.call(bytes(8_000_001))

    assert (reply.output, reply.content_type) == (b'{"x-a": "b"}', "application/json")
    assert echoed.output == body


ASYNC = """
    import asyncio

    class Handler:
        running = most = 0

        async def __call__(self, req):
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(float(req.text or 0))
            finally:
                self.running -= 1
            if req.text == "0.001":
                raise ValueError("async trouble")
            return self.most
"""


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
async def test_async_handler_runs_calls_together(tmp_path: Path, version: str) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")

    async with run_watcher(tmp_path, ASYNC, python=VERSIONS[version]) as replica, replica.attach() as gateway:
        assert gateway.states[-1]["concurrency"] == 100
        together = await asyncio.gather(*(gateway.call(b"0.3") for _ in range(50)))
        failed = await gateway.call(b"0.001")

    assert max(int(answer.body) for answer in together) > 25
    assert failed.message == "ValueError: async trouble"


async def test_async_handler_never_runs_more_than_its_concurrency(tmp_path: Path) -> None:
    async with run_watcher(tmp_path, ASYNC, concurrency=2) as replica, replica.attach() as gateway:
        for _ in range(20):
            await gateway.call(b"0")  # now it is known as fast, and is fed ahead
        ids = [await gateway.open(b"0.05") for _ in range(8)]
        answers = [await gateway.answer(call_id) for call_id in ids]

    assert {int(answer.body) for answer in answers if answer.kind == REPLY} == {2}


async def test_several_slots_are_threads(tmp_path: Path) -> None:
    handler = """
        import threading

        class Handler:
            def __init__(self):
                self.barrier = threading.Barrier(3)

            def __call__(self, req):
                self.barrier.wait(20)
                return "together"
    """

    async with run_watcher(tmp_path, handler, concurrency=3) as replica, replica.attach() as gateway:
        answers = await asyncio.gather(*(gateway.call() for _ in range(3)))

    assert [answer.body for answer in answers] == [b"together"] * 3


async def test_several_workers_are_processes_that_share_the_concurrency(tmp_path: Path) -> None:
    handler = """
        import os, time

        def Handler(req):
            time.sleep(0.1)
            return os.getpid()
    """

    async with run_watcher(tmp_path, handler, workers=2, concurrency=3) as replica, replica.attach() as gateway:
        await replica.until_state("ready")
        while gateway.states[-1]["concurrency"] < 3:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(gateway.call() for _ in range(3)))

    assert len({answer.body for answer in answers}) == 2


@pytest.mark.parametrize(
    ("kind", "size"),
    [("sync", 5_000_000), ("sync", 40_000_000), ("threads", 5_000_000), ("async", 5_000_000), ("async", 40_000_000)],
)
async def test_large_bodies_travel_both_ways(tmp_path: Path, kind: str, size: int) -> None:
    word = "async " if kind == "async" else ""
    handler = f"""
        class Handler:
            {word}def __call__(self, req):
                return req.input
    """
    body = bytes(range(251)) * (size // 251)
    concurrency = {"sync": 1, "threads": 3, "async": 100}[kind]

    async with (
        run_watcher(tmp_path, handler, concurrency=concurrency) as replica,
        replica.attach() as gateway,
    ):
        # Several at once: each waits for credit while the others run.
        answers = await asyncio.gather(*(gateway.call(body) for _ in range(2 if concurrency > 1 else 1)))

    assert all(answer.body == body for answer in answers)


async def test_large_input_waits_behind_a_running_handler_without_harm(tmp_path: Path) -> None:
    handler = """
        import os, time

        def Handler(req):
            if req.input == b"wait":
                while not os.path.exists("go"):
                    time.sleep(0.01)
            return len(req.input)
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        await gateway.call(b"")
        first = await gateway.open(b"wait")
        second = await gateway.open(bytes(3_000_000))
        (tmp_path / "src" / "go").touch()
        assert (await gateway.answer(first)).body == b"4"
        assert (await gateway.answer(second)).body == b"3000000"


async def test_answer_does_not_wait_for_a_slow_neighbour_of_the_same_read(tmp_path: Path) -> None:
    handler = """
        import os, time

        def Handler(req):
            while req.input == b"slow" and not os.path.exists("go"):
                time.sleep(0.01)
            return req.input
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        for _ in range(30):
            await gateway.call(b"warm")
        ids = range(1001, 1004)
        batch = [gateway.pack_call(i, body) for i, body in zip(ids, (b"a", b"b", b"slow"), strict=True)]
        await gateway.write(b"".join(batch))

        # "slow" ends only after this: had the others waited for it, they would never come.
        assert [(await gateway.answer(i)).body for i in (1001, 1002)] == [b"a", b"b"]
        assert not gateway.has_answer(1003)
        (tmp_path / "src" / "go").touch()
        assert (await gateway.answer(1003)).body == b"slow"


async def test_users_own_mesh_module_and_environment_stay_theirs(tmp_path: Path) -> None:
    handler = """
        import os
        import mesh
        from dcf import mesh as dcf_mesh

        def Handler(req):
            ours = sorted(name for name in os.environ if name.startswith(("DCF_", "GRPC_ENABLE_F")))
            return [mesh.NAME, hasattr(dcf_mesh, "mesh_call"), os.environ["COLOUR"], ours]
    """
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mesh.py").write_text("NAME = 'a net of triangles'\n")

    async with (
        run_watcher(tmp_path, handler, environ={"COLOUR": "blue"}) as replica,
        replica.attach() as gateway,
    ):
        answer = await gateway.call()

    assert json.loads(answer.body) == ["a net of triangles", True, "blue", []]
