"""Answer /system/*: management over HTTP, in the original's and OpenFaaS's form.

In:   aiohttp requests. Out: JSON, or a log as text; errors are raised, http_api answers them.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from dcf.domain.quantity import parse_duration
from dcf.errors import InvalidInputError, PayloadTooLargeError
from dcf.gateway.admin import Admin
from dcf.gateway.function_log import LogLine
from dcf.gateway.token import ManagementToken
from dcf.gateway.trusted_peers import TrustedPeers

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
"""A deploy request is a few kilobytes; Redis and every gateway keep it."""

SINCE_FORM = "unix seconds, a time such as 2026-11-23T10:00:00Z, or an age such as 10m"
_OLDEST_UNIX = 1e8
"""Smaller bare numbers for `since` are ages in seconds: nobody has logs of 1973."""

Answer = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class HttpSystem:
    """Touched only by the event loop of the gateway."""

    def __init__(self, admin: Admin, token: ManagementToken, trusted: TrustedPeers) -> None:
        self._admin = admin
        self._token = token
        self._trusted = trusted
        self._closed = ManagementToken(closed=True)
        self._routes: dict[str, dict[str, Answer]] = {
            "functions": {
                "GET": self._list,
                "POST": self._deploy,
                "PUT": self._update,
                "DELETE": self._delete_named_in_body,
            },
            "function/": {"GET": self._describe, "DELETE": self._delete},
            "function-log/": {"GET": self._log},
            "scale-function": {"PUT": self._scale},
            "info": {"GET": self._info},
            "nodes": {"GET": self._nodes},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request under /system/. Raises InvocationError."""
        path = request.path.removeprefix("/system/")
        first, slash, name = path.partition("/")
        route = self._routes.get(first + slash if name else first)
        if route is None or "/" in name:
            known = ", ".join(f"/system/{one}{'<name>' if one.endswith('/') else ''}" for one in self._routes)
            return _refusal(404, "not_found", f"nothing is at {request.path}; expected one of {known}")
        answer = route.get(request.method)
        if answer is None:
            allowed = ", ".join(route)
            refused = _refusal(405, "method_not_allowed", f"{request.path} takes {allowed}, not {request.method}")
            refused.headers["Allow"] = allowed
            return refused
        return await answer(request, name)

    # readable by everybody

    async def _list(self, request: web.BaseRequest, name: str) -> web.Response:
        return _json(await self._admin.list())

    async def _describe(self, request: web.BaseRequest, name: str) -> web.Response:
        allowed = self._token_for(request).allows(request.headers.get("Authorization"))
        return _json(await self._admin.describe(name, environment=allowed))

    async def _nodes(self, request: web.BaseRequest, name: str) -> web.Response:
        return _json(await self._admin.nodes())

    async def _info(self, request: web.BaseRequest, name: str) -> web.Response:
        return _json(self._admin.info())

    # management

    async def _deploy(self, request: web.BaseRequest, name: str) -> web.Response:
        self._check(request)
        return _json(await self._admin.deploy(await _body(request)), status=202)

    async def _update(self, request: web.BaseRequest, name: str) -> web.Response:
        self._check(request)
        return _json(await self._admin.deploy(await _body(request), must_exist=True), status=202)

    async def _delete(self, request: web.BaseRequest, name: str) -> web.Response:
        self._check(request)
        await self._admin.delete(name)
        return _json({"name": name, "deleted": True}, status=202)

    async def _delete_named_in_body(self, request: web.BaseRequest, name: str) -> web.Response:
        self._check(request)
        body = await _body(request)
        return await self._delete(request, _named(body, "functionName"))

    async def _scale(self, request: web.BaseRequest, name: str) -> web.Response:
        self._check(request)
        body = await _body(request)
        function = _named(body, "serviceName", "service")
        if "min" in body or "max" in body:
            if "replicas" in body:
                raise InvalidInputError("replicas, and min or max: give a number or a range", function=function)
            lowest, highest = (_whole(body, key, function) for key in ("min", "max"))
            return _json(await self._admin.set_range(function, lowest, highest), status=202)
        if "replicas" not in body:
            raise InvalidInputError(
                'replicas: missing; expected a whole number, or "auto"; or min, max or both', function=function
            )
        replicas = body["replicas"]
        if replicas in (None, "auto"):
            replicas = None
        elif isinstance(replicas, bool) or not isinstance(replicas, int):
            raise InvalidInputError(f'replicas: {replicas!r} is neither a whole number nor "auto"', function=function)
        return _json(await self._admin.scale(function, replicas), status=202)

    async def _log(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        self._check(request)
        query = request.query
        since_at = _since(query.get("since", ""), now_s=time.time())
        tail, follow = _tail(query.get("tail", "")), _flag("follow", query)
        form = query.get("format", "text")
        if form not in ("text", "json"):
            raise InvalidInputError(f"format: {form!r} is not allowed: expected text or json")
        show, kind = (_json_line, "application/x-ndjson") if form == "json" else (_text_line, "text/plain")
        lines = await self._admin.log(name, since_at=since_at, tail=tail, follow=follow)
        response = web.StreamResponse(headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-store"})
        async with aclosing(lines):
            await response.prepare(request)
            try:
                async for line in lines:
                    await response.write(show(line).encode("utf-8", "replace"))
                await response.write_eof()
            except ConnectionError:
                log.debug("the reader of a log went away", extra={"function": name})
            except Exception:
                # Its status line is sent: all that can still be said is that the answer is not whole.
                log.exception("a log broke off", extra={"function": name})
                response.force_close()
        return response

    def _check(self, request: web.BaseRequest) -> None:
        self._token_for(request).check(request.headers.get("Authorization"))

    def _token_for(self, request: web.BaseRequest) -> ManagementToken:
        return self._token if self._trusted.include(request.remote) else self._closed


def _json(value: Any, status: int = 200) -> web.Response:
    text = json.dumps(value, ensure_ascii=False)
    return web.Response(text=text + "\n", status=status, content_type="application/json")


def _refusal(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status=status)


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    """The JSON object in the body. Raises InvalidInputError, PayloadTooLargeError."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise PayloadTooLargeError(f"the body has {request.content_length} bytes; at most {MAX_BODY_BYTES} are read")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    data = b""
    async for piece in request.content.iter_any():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise PayloadTooLargeError(f"the body has over {MAX_BODY_BYTES} bytes; no more are read")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInputError(f"the body is a JSON {type(body).__name__}; expected an object")
    return body


def _named(body: dict[str, Any], *keys: str) -> str:
    """The function's name under one of `keys`. Raises InvalidInputError."""
    for key in keys:
        if key in body:
            if isinstance(body[key], str) and body[key]:
                return str(body[key])
            raise InvalidInputError(f"{key}: {body[key]!r} is not a function's name")
    raise InvalidInputError(f"{keys[0]}: missing; expected the function's name")


def _whole(body: dict[str, Any], key: str, function: str) -> int | None:
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidInputError(f"{key}: {value!r} is not a whole number", function=function)
    return value


def _since(text: str, *, now_s: float) -> float:
    if not text:
        return 0.0
    try:
        number = parse_duration(text)
    except InvalidInputError:
        try:
            # A query's "+02:00" arrives with a blank.
            at = datetime.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        except ValueError:
            raise InvalidInputError(f"since: {text!r} is not allowed: expected {SINCE_FORM}") from None
        return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    return number if number > _OLDEST_UNIX else now_s - number


def _tail(text: str) -> int | None:
    if not text or text == "all":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(f"tail: {text!r} is not a number of lines")
    return int(text)


def _flag(name: str, query: Any) -> bool:
    text = str(query.get(name, "false")).lower()
    if text not in ("", "1", "true", "0", "false"):
        raise InvalidInputError(f"{name}: {text!r} is neither true nor false")
    return text in ("", "1", "true")


def _text_line(line: LogLine) -> str:
    at = datetime.datetime.fromtimestamp(line.at, datetime.UTC).isoformat(timespec="milliseconds")
    return f"{at.replace('+00:00', 'Z')} {line.replica or '-'} {line.stream} {line.text}\n"


def _json_line(line: LogLine) -> str:
    return json.dumps(line._asdict(), ensure_ascii=False) + "\n"
