"""The echo that a user would write by hand, with FastAPI.

Run as `uvicorn fastapi_echo:app`.
"""

from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.post("/echo")
async def echo(request: Request) -> Response:
    """Answer with the body as it came."""
    return Response(await request.body(), media_type="application/octet-stream")
