"""Serve one workload with LitServe: `python server.py echo|stream|sleep|batch PORT`.

LitServe reads annotations as they stand, so that they cannot be postponed.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import litserve as ls
from fastapi import Body, Response

Raw = Annotated[bytes, Body(media_type="application/octet-stream")]
"""A body as it comes: of a Request, LitServe would read JSON."""


class Echo(ls.LitAPI):
    def setup(self, device: str) -> None: ...

    def decode_request(self, request: Raw) -> bytes:
        return request

    def predict(self, x: bytes) -> bytes:
        return x

    def encode_response(self, output: Any) -> Any:
        return Response(output, media_type="application/octet-stream")


class Stream(Echo):
    def predict(self, x: bytes) -> Iterator[str]:
        for _ in range(1000):
            yield "x" * 64

    def encode_response(self, output: Any) -> Any:
        yield from output


class Sleep(Echo):
    async def decode_request(self, request: Raw) -> bytes:
        return request

    async def predict(self, x: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return x

    async def encode_response(self, output: Any) -> Any:
        return Response(output, media_type="application/octet-stream")


class Batch(Echo):
    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        time.sleep(0.005 + 0.0002 * len(x))
        return x

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output


def api(workload: str) -> ls.LitAPI:
    if workload == "batch":
        return Batch(max_batch_size=64)
    if workload == "sleep":
        return Sleep(enable_async=True)
    return Stream(stream=True) if workload == "stream" else Echo()


if __name__ == "__main__":
    # fast_queue (ZeroMQ between the API server and the worker) is what its manual gives for many requests.
    server = ls.LitServer(api(sys.argv[1]), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, access_log=False)
