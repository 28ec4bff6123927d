"""Measure how soon code learns that its client has gone: `python bench/cancels.py`.

Every kind of handler is called over HTTP and WebSocket; the client closes its
connection while the code runs, and the code says when it noticed. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from sides import Side, SideFailedError, open_dcf

ASYNC_HANDLER = """
import asyncio, os, time

class Handler:
    async def __call__(self, req):
        path = os.environ["SEEN"] + req.metadata["path"]
        if req.metadata["path"].startswith("/generator"):
            return self.generator(path)
        try:
            tell(path, "begun")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            tell(path, repr(time.time()))
            raise

    async def generator(self, path):
        try:
            tell(path, "begun")
            while True:
                yield "x"
                await asyncio.sleep(0.01)
        finally:
            tell(path, repr(time.time()))
"""
SYNC_HANDLER = """
import os, time

class Handler:
    def __call__(self, req):
        path = os.environ["SEEN"] + req.metadata["path"]
        if req.metadata["path"].startswith("/generator"):
            return self.generator(path)
        tell(path, "begun")
        while not req.cancelled:
            time.sleep(0.001)
        tell(path, repr(time.time()))

    def generator(self, path):
        try:
            tell(path, "begun")
            while True:
                yield "x"
                time.sleep(0.01)
        finally:
            tell(path, repr(time.time()))
"""
TELL = """

def tell(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)
"""
LIMIT_S = 5.0


async def until(path: Path, *, begun: bool) -> str:
    """What the handler has told: "begun", later the time of its end."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        text = path.read_text() if path.exists() else ""
        if text and (text == "begun") is begun:
            return text
        await asyncio.sleep(0.001)
    raise SideFailedError(f"{path.name} did not {'begin' if begun else 'end'} within {LIMIT_S:g} s")


async def measure(side: Side, path: Path, way: str) -> float:
    """Seconds from the client's going until the code knew."""
    url = f"{side.url}/{path.name}"
    async with aiohttp.ClientSession() as session:
        if way == "websocket":
            socket = await session.ws_connect(url)
            await socket.send_str("go")
            await until(path, begun=True)
            gone_at = time.time()
            await socket.close()
        else:
            call = asyncio.ensure_future(session.post(url, data=b"go"))
            await until(path, begun=True)
            if call.done():
                (await call).close()  # the head of a stream is there already
            gone_at = time.time()
            call.cancel()
    return float(await until(path, begun=False)) - gone_at


async def run(times: int) -> None:
    """Print the table."""
    for kind, handler in (("async", ASYNC_HANDLER), ("sync", SYNC_HANDLER)):
        with tempfile.TemporaryDirectory(prefix="dcf-bench-") as folder:
            seen = Path(folder) / "seen"
            seen.mkdir()
            config = "    concurrency: 8\n"
            with open_dcf(
                Path(folder), handler=handler.replace('os.environ["SEEN"]', repr(str(seen))) + TELL, config=config
            ) as side:
                for what in ("call", "generator"):
                    for way in ("http", "websocket"):
                        delays = [await measure(side, seen / f"{what}-{way}-{n}", way) for n in range(times)]
                        median, longest = statistics.median(delays) * 1000, max(delays) * 1000
                        print(f"{kind:5} {what:9} over {way:9}: median {median:6.1f} ms, longest {longest:6.1f} ms")


def main() -> int:
    """Status 1 where code was not told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="5 times each instead of 30")
    asyncio.run(run(5 if parser.parse_args().short else 30))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SideFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
