"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc

from dcf.client import calls
from dcf.client.facts import Chunk, ClusterInfo, Function, LogLine, Node, Reply
from dcf.client.failures import error_from
from dcf.client.inputs import ThreadInputs, iterator_of
from dcf.rpc import v1_gateway_pb2 as v1
from dcf.rpc.services import Stub

R = TypeVar("R")


class Client:
    """Calls and manages the functions behind one gateway. Safe to share between threads.

    >>> with Client("127.0.0.1:32222") as dcf:
    ...     print(dcf.invoke("echo", "Hello").text)

    Every method raises an error of `dcf.errors`; GatewayUnreachableError where no gateway answers.
    """

    def __init__(self, gateway: str = calls.DEFAULT_GATEWAY, *, token: str | None = None) -> None:
        """`gateway` is host:port; `token` is what management calls need where the gateway wants one."""
        self.address = calls.check_address(gateway)
        self._metadata = calls.call_metadata(token)
        self._channel = grpc.insecure_channel(self.address, options=calls.CHANNEL_OPTIONS)
        self._stub = Stub(self._channel, v1.DESCRIPTOR.services_by_name["Gateway"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls under way end with an error."""
        self._channel.close()

    def invoke(
        self,
        name: str,
        data: Any = b"",
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Reply:
        """Call the function `name`.

        Args:
            data: bytes and str as they are, anything else as JSON.
            timeout_s: seconds until DeadlineError; None: the function's own `timeout`.
            metadata: what the handler finds in `req.metadata["headers"]`.
        """
        return self._send(calls.invoke(name, data, timeout_s=timeout_s, metadata=metadata, content_type=content_type))

    def stream(
        self,
        name: str,
        data: Any = b"",
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Generator[Chunk, None, None]:
        """Call the function `name`; its answer comes in chunks, as the handler makes them.

        >>> for chunk in dcf.stream("story", "Once"):
        ...     print(chunk.text, end="", flush=True)

        The call begins when the first chunk is asked for. An error is raised after the chunks that came before it.
        Leaving early (`break`, or `close()` of what is returned) cancels the call, and the handler's generator is
        closed. A handler that makes chunks faster than they are taken waits, some megabytes ahead.

        Args:
            data, metadata: as `invoke` has them.
            timeout_s: seconds until DeadlineError, for the whole of the answer; None: the function's own `timeout`,
                within which the answer begins, and longer than which it does not stand still.
        """
        call = calls.stream(name, data, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        return self._receive(call)

    def converse(
        self,
        name: str,
        inputs: Iterable[Any],
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Generator[Chunk, None, None]:
        """Call the function `name` with many inputs; chunks of its answer come meanwhile.

        >>> questions = queue.Queue()
        >>> for chunk in dcf.converse("chat", iter(questions.get, None)):
        ...     ...  # questions.put("and then?"), at last questions.put(None)

        As `stream`, and: a handler with `stream(self, requests)` gets the inputs as they come; any other is called
        for each of them, in order. `inputs` is read lazily, by a thread of the call: the next one when the one
        before it has been sent. What it raises cancels the call and is raised here, as itself.

        When the call has ended, the thread has too, unless it is inside `inputs`, where nothing can interrupt it:
        an iterable that waits should be told that it is over. What it then still yields is dropped.

        Args:
            inputs: each one bytes, str, or anything that JSON can say.
            content_type: of the inputs, for the handler; None says nothing.
        """
        call = calls.converse(name, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        return self._converse(call, iterator_of(inputs))

    def list(self) -> list[Function]:
        """All functions."""
        return self._send(calls.list_functions())

    def describe(self, name: str) -> Function:
        """One function, with its spec."""
        return self._send(calls.describe(name))

    def deploy(self, request: Mapping[str, Any] | None = None, /, **fields: Any) -> Function:
        """Create or replace a function: `deploy(service="echo", image="...", replicas=2)`, or a dict of these.

        Returns at once; `describe(name).settled` says when the newest spec is what runs.
        """
        return self._send(calls.deploy(request, fields))

    def delete(self, name: str) -> None:
        """Remove a function."""
        self._send(calls.delete(name))

    def scale(self, name: str, replicas: int | None) -> Function:
        """Pin the replica number by hand; None gives it back to the spec."""
        return self._send(calls.scale(name, replicas))

    def scale_range(self, name: str, *, min: int | None = None, max: int | None = None) -> Function:
        """Change the range of an elastic number; a fixed or pinned one becomes elastic."""
        return self._send(calls.scale_range(name, min, max))

    def log(
        self, name: str, *, since_at: float = 0.0, tail: int | None = None, follow: bool = False
    ) -> Generator[LogLine, None, None]:
        """Lines of all replicas, oldest first; `since_at` is unix seconds; with `follow` it goes on for ever."""
        return self._receive(calls.log(name, since_at=since_at, tail=tail, follow=follow))

    def nodes(self, *, timeout_s: float = calls.MANAGEMENT_TIMEOUT_S) -> Sequence[Node]:
        """The machines that replicas run on, by name."""
        return self._send(calls.nodes(timeout_s))

    def info(self, *, timeout_s: float = calls.MANAGEMENT_TIMEOUT_S) -> ClusterInfo:
        """Version and backend of the cluster."""
        return self._send(calls.info(timeout_s))

    def _send(self, call: calls.Call[R]) -> R:
        try:
            answer = getattr(self._stub, call.method)(call.request, timeout=call.timeout_s, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure
        return call.read(answer)

    def _receive(self, call: calls.Call[R]) -> Generator[R, None, None]:
        stream = getattr(self._stub, call.method)(call.request, timeout=call.timeout_s, metadata=self._metadata)
        try:
            for message in stream:
                yield call.read(message)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure
        finally:
            stream.cancel()

    def _converse(self, call: calls.Call[R], inputs: Iterator[Any]) -> Generator[R, None, None]:
        sent = ThreadInputs(call.request, inputs)
        stream = getattr(self._stub, call.method)(sent.messages(), timeout=call.timeout_s, metadata=self._metadata)
        sent.cancel_with(stream.cancel)
        try:
            for message in stream:
                yield call.read(message)
        except grpc.RpcError as failure:
            if sent.error is None:
                raise error_from(failure, self.address) from failure
        finally:
            stream.cancel()
        if sent.error is not None:
            raise sent.error
