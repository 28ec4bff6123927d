"""All workloads as methods of one service of BentoML: `bentoml serve server:Bench`."""

import asyncio
import time
from collections.abc import AsyncGenerator

import bentoml


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Bench:
    @bentoml.api
    async def echo(self, body: bytes, /) -> bytes:
        return body

    @bentoml.api
    async def stream(self, body: bytes, /) -> AsyncGenerator[str, None]:
        for _ in range(1000):
            yield "x" * 64

    @bentoml.api
    async def sleep(self, body: bytes, /) -> bytes:
        await asyncio.sleep(0.01)
        return body

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)
    def batch(self, bodies: list[str]) -> list[str]:
        time.sleep(0.005 + 0.0002 * len(bodies))
        return bodies
