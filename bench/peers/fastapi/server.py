"""What a user would write by hand with FastAPI: `uvicorn server:app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

RAW = "application/octet-stream"
app = FastAPI()


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type=RAW)


@app.post("/stream")
async def stream() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 64

    return StreamingResponse(chunks(), media_type=RAW)


@app.post("/sleep")
async def sleep(request: Request) -> Response:
    body = await request.body()
    await asyncio.sleep(0.01)
    return Response(body, media_type=RAW)
