"""The handler under test in Python, async: ../../README.md says what it does."""

import asyncio
import importlib.util
import os

from dcf import mesh

_SPEC = importlib.util.spec_from_file_location(
    "conformance_sync", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python", "handler.py")
)
sync = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sync)
POLL_S = sync.POLL_S


async def hold(do):
    sync.note(do, "started " + do["name"])
    try:
        while not os.path.exists(do["until"]):
            await asyncio.sleep(POLL_S)
    finally:
        sync.note(do, "ended " + do["name"])
    return "held " + do["name"]


async def waiting(do):
    sync.note(do, "started " + do["name"])
    try:
        yield b"first"
        await asyncio.Event().wait()
    finally:
        sync.note(do, "ended " + do["name"])


async def stream_of(do):
    for item in sync.stream_of(do):
        yield item


async def batch_of(reqs):
    dos = [req.json() for req in reqs]
    for do in dos:
        if do["do"] == "hold":
            await hold(do)
        elif do["do"] == "fail_all":
            raise RuntimeError(do["message"])
    results = [sync.answer_of(do, number, len(reqs)) for number, do in enumerate(dos)]
    return results[:-1] if any(do["do"] == "short" for do in dos) else results


class Plain:
    """Without streams of input; in batch mode it takes a list."""

    async def __call__(self, req):
        if isinstance(req, list):
            return await batch_of(req)
        if not req.input.startswith(b"{"):
            return req.input
        do = req.json()
        what = do["do"]
        if what == "hold":
            return await hold(do)
        if what == "wait":
            await asyncio.Event().wait()
        if what == "mesh":
            try:
                return await mesh.mesh_call_async(do["function"], sync.mesh_input(do))
            except mesh.MeshError as error:
                return f"{error.code}: {error}"
        if what == "stream":
            return waiting(do) if do["stream"] == "wait" else stream_of(dict(do, do=do["stream"]))
        return sync.simple(do, req)


class StreamOnly:
    async def stream(self, requests):
        async for req in requests:
            do = req.json() if req.input.startswith(b"{") else {}
            what = do.get("do")
            if what == "echo":
                async for message in requests:
                    yield message.input
            elif what == "take":
                for _ in range(do["count"]):
                    await requests.__anext__()
                await hold(do)
                rest = 0
                async for _ in requests:
                    rest += 1
                yield str(rest).encode()
            elif what == "wait":
                sync.note(do, "started " + do["name"])
                try:
                    yield b"first"
                    async for _ in requests:
                        pass
                finally:
                    sync.note(do, "ended " + do["name"])
            elif what is None:
                yield req.input
            else:
                async for item in stream_of(do):
                    yield item
            return


class Handler(Plain, StreamOnly):
    pass
