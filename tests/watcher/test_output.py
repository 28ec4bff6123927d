"""What a handler prints is kept, bounded, and never holds up a call."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dcf.watcher.function_log import MAX_FILE_BYTES, MAX_KEPT_BYTES, MAX_LINE_BYTES, FunctionLog
from tests.watcher.harness import run_watcher


async def test_both_streams_are_captured_at_once(tmp_path: Path) -> None:
    handler = """
        import sys

        def Handler(req):
            print("to stdout \\u00fc")
            print("to stderr", file=sys.stderr)
            print("no newline", end="", flush=True)
            return "x"
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        await gateway.call()
        await replica.until_logged("to stderr")
        lines = [(line.stream, line.text) for line in await replica.until_logged("to stdout")]

    assert ("stdout", "to stdout ü") in lines
    assert ("stderr", "to stderr") in lines
    assert ("stdout", "no newline") in replica.log_file()


async def test_flood_and_endless_line_are_bounded_and_calls_go_on(tmp_path: Path) -> None:
    handler = """
        import threading, sys

        def flood():
            for number in range(100000):
                print("x" * 100)
            sys.stdout.write("y" * 3000000)
            print("flood is over")

        def Handler(req):
            if req.input == b"flood":
                threading.Thread(target=flood).start()
            return req.input
    """

    async with run_watcher(tmp_path, handler) as replica, replica.attach() as gateway:
        await gateway.call(b"flood")
        answers = [await gateway.call(b"hi") for _ in range(20)]
        lines = await replica.until_logged("flood is over")
        report = await replica.until_state("ready", "busy")

    assert all(answer.body == b"hi" for answer in answers)
    assert sum(len(line.text) for line in lines) <= MAX_KEPT_BYTES
    assert max(len(line.text) for line in lines) <= MAX_LINE_BYTES
    assert report.memory_bytes < 400_000_000
    sizes = [file.stat().st_size for file in tmp_path.glob("log*")]
    assert len(sizes) == 2
    assert all(size <= MAX_FILE_BYTES + 200_000 for size in sizes)


async def test_log_follows_tails_and_starts_at_a_time(tmp_path: Path) -> None:
    log = FunctionLog(str(tmp_path / "log"))
    for number in range(5):
        log.write("stdout", f"line {number}")
    log.write("dcf", "two\nlines \ud800")
    seen: list[str] = []

    async def follow() -> None:
        async for line in log.read(since_at=0, tail=3, follow=True):
            seen.append(line.text)

    follower = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    log.write("stdout", "news")
    while len(seen) < 4:
        await asyncio.sleep(0)
    follower.cancel()

    assert seen == ["line 4", "two", "lines \\ud800", "news"]
    assert [line async for line in log.read(since_at=2e10, tail=None, follow=False)] == []
    assert [line async for line in log.read(since_at=0, tail=0, follow=False)] == []
    log.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 8
