"""The client for programs with an asyncio event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from dcf.client import calls
from dcf.client.facts import Chunk, ClusterInfo, Function, LogLine, Node, Reply
from dcf.client.failures import CALL_CANCELLED, error_from
from dcf.client.inputs import TaskInputs, async_iterator_of
from dcf.errors import ClientGoneError
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.services import Stub

R = TypeVar("R")


class AsyncClient:
    """`Client` with the same methods to await. Belongs to the event loop that made it.

    >>> async with AsyncClient("127.0.0.1:32222") as dcf:
    ...     print((await dcf.invoke("echo", "Hello")).text)
    """

    def __init__(self, gateway: str = calls.DEFAULT_GATEWAY, *, token: str | None = None) -> None:
        """As `Client`."""
        self.address = calls.check_address(gateway)
        self._metadata = calls.call_metadata(token)
        self._channel = grpc.aio.insecure_channel(self.address, options=calls.CHANNEL_OPTIONS)
        self._stub = Stub(self._channel, v1.DESCRIPTOR.services_by_name["Gateway"])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connection back; calls under way end with an error."""
        await self._channel.close()

    async def invoke(
        self,
        name: str,
        data: Any = b"",
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Reply:
        """As `Client.invoke`; cancelling it cancels the call."""
        return await self._send(
            calls.invoke(name, data, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        )

    def stream(
        self,
        name: str,
        data: Any = b"",
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """As `Client.stream`. `break` cancels the call a moment later, `contextlib.aclosing` before it goes on."""
        call = calls.stream(name, data, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        return self._receive(call)

    def converse(
        self,
        name: str,
        inputs: AsyncIterable[Any] | Iterable[Any],
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """As `Client.converse`.

        An async iterable is read by a task of the call, which is cancelled when the call ends. One that is not
        async is read in the event loop: it must not wait.
        """
        call = calls.converse(name, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        return self._converse(call, async_iterator_of(inputs))

    async def list(self) -> list[Function]:
        """As `Client.list`."""
        return await self._send(calls.list_functions())

    async def describe(self, name: str) -> Function:
        """As `Client.describe`."""
        return await self._send(calls.describe(name))

    async def deploy(self, request: Mapping[str, Any] | None = None, /, **fields: Any) -> Function:
        """As `Client.deploy`."""
        return await self._send(calls.deploy(request, fields))

    async def delete(self, name: str) -> None:
        """As `Client.delete`."""
        await self._send(calls.delete(name))

    async def scale(self, name: str, replicas: int | None) -> Function:
        """As `Client.scale`."""
        return await self._send(calls.scale(name, replicas))

    async def scale_range(self, name: str, *, min: int | None = None, max: int | None = None) -> Function:
        """As `Client.scale_range`."""
        return await self._send(calls.scale_range(name, min, max))

    def log(
        self, name: str, *, since_at: float = 0.0, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        """As `Client.log`."""
        return self._receive(calls.log(name, since_at=since_at, tail=tail, follow=follow))

    async def nodes(self, *, timeout_s: float = calls.MANAGEMENT_TIMEOUT_S) -> Sequence[Node]:
        """As `Client.nodes`."""
        return await self._send(calls.nodes(timeout_s))

    async def info(self, *, timeout_s: float = calls.MANAGEMENT_TIMEOUT_S) -> ClusterInfo:
        """As `Client.info`."""
        return await self._send(calls.info(timeout_s))

    async def _send(self, call: calls.Call[R]) -> R:
        try:
            answer = await getattr(self._stub, call.method)(
                call.request, timeout=call.timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as failure:
            raise error_from(failure, self.address) from failure
        return call.read(answer)

    async def _receive(self, call: calls.Call[R]) -> AsyncGenerator[R, None]:
        stream = getattr(self._stub, call.method)(call.request, timeout=call.timeout_s, metadata=self._metadata)
        try:
            async for message in stream:
                yield call.read(message)
        except grpc.aio.AioRpcError as failure:
            raise error_from(failure, self.address) from failure
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            raise ClientGoneError(CALL_CANCELLED) from None
        finally:
            stream.cancel()

    async def _converse(
        self, call: calls.Call[R], inputs: AsyncIterator[Any] | Iterator[Any]
    ) -> AsyncGenerator[R, None]:
        stream = getattr(self._stub, call.method)(timeout=call.timeout_s, metadata=self._metadata)
        sent = TaskInputs(stream, call.request, inputs)
        try:
            async for message in stream:
                yield call.read(message)
        except grpc.aio.AioRpcError as failure:
            if sent.error is None:
                raise error_from(failure, self.address) from failure
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            if sent.error is None:
                raise ClientGoneError(CALL_CANCELLED) from None
        finally:
            stream.cancel()
            await sent.close()
        if sent.error is not None:
            raise sent.error


def _is_being_cancelled() -> bool:
    """Whether a CancelledError is the task's: grpc.aio raises one too where only the call was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
