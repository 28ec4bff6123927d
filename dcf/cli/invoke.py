"""`dcf function invoke`: call a deployed function; stdout is its answer, byte for byte."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dcf.cli.gateway import GatewayOption, open_gateway
from dcf.cli.output import say, write_bytes
from dcf.errors import ConfigError, DcfError, FunctionNotFoundError, InvocationError

if TYPE_CHECKING:
    from dcf.client import Chunk, Client

T = TypeVar("T")

DataOption = Annotated[str | None, typer.Option("--data", "-d", metavar="TEXT", help="The input.")]
FileOption = Annotated[Path | None, typer.Option("--file", metavar="PATH", help="A file with the input; - is stdin.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", metavar="K:V", help="A header for the handler (req.metadata); may be repeated."),
]


def invoke(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    data: DataOption = None,
    file: FileOption = None,
    header: HeaderOption = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="At most this long, such as 500ms or 30s.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write the answer's chunks as they come, JSON ones a line each.")
    ] = False,
    gateway: GatewayOption = None,
) -> None:
    """Call a function with stdin, --data or --file; its answer goes to stdout as it is.

    \b
    Example:
      echo Hello | dcf function invoke echo
      dcf function invoke digits --file seven.png
      dcf function invoke story --data "Once" --stream
    """
    from dcf.domain.quantity import parse_duration
    from dcf.rpc.status import status_of

    timeout_s = parse_duration(timeout) if timeout else None
    if timeout_s == 0:
        raise ConfigError(f"--timeout {timeout}: expected more than 0")
    metadata = read_headers(header or [])
    body = read_input(data, file)
    named = next((value for name, value in metadata.items() if name.lower() == "content-type"), None)
    content_type = named or ("text/plain; charset=utf-8" if data is not None else None)
    with open_gateway(gateway, name=name) as client:
        try:
            if stream:
                chunks = client.stream(name, body, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
                with closing(interruptible(client, chunks)) as messages:
                    write_chunks(messages)
                return
            reply = client.invoke(name, body, timeout_s=timeout_s, metadata=metadata, content_type=content_type)
        except FunctionNotFoundError:
            raise
        except InvocationError as error:
            raise DcfError(f"{status_of(error).code}: {describe_failure(error)}") from error
    write_bytes(reply.output)


def interruptible(client: Client, messages: Generator[T, None, None]) -> Generator[T, None, None]:
    """`messages` of one of the client's streams; Ctrl-C closes the client and ends them with KeyboardInterrupt.

    gRPC does not bear an exception that a signal raises anywhere inside it: every hundredth time, with a fast
    stream, a lock is released twice or its own thread dies. So it is told by another thread, which is there before:
    a signal handler may come when threading's own lock is held.
    """
    waiting = interrupted = False
    told: SimpleQueue[bool] = SimpleQueue()

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted or not waiting:
            raise KeyboardInterrupt
        interrupted = True
        told.put(True)

    def close_when_told() -> None:
        if told.get():
            client.close()

    closer = threading.Thread(target=close_when_told, name="closer", daemon=True)
    closer.start()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a shell's background job has no Ctrl-C
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        with closing(messages):
            while True:
                waiting = True
                try:
                    message = next(messages)
                except StopIteration:
                    return
                except Exception:
                    if interrupted:
                        raise KeyboardInterrupt from None
                    raise
                finally:
                    waiting = False
                if interrupted:
                    raise KeyboardInterrupt
                yield message
    finally:
        signal.signal(signal.SIGINT, before)
        told.put(False)
        closer.join()


def write_chunks(chunks: Iterable[Chunk]) -> None:
    """Each chunk as it is, when it comes; a JSON one is a line, and so is all of it where a person sees a prompt."""
    line_ended = True
    try:
        for chunk in chunks:
            data = chunk.output
            if chunk.content_type.partition(";")[0] == "application/json" and not data.endswith(b"\n"):
                data += b"\n"
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            line_ended = data.endswith(b"\n") if data else line_ended
    finally:
        if not line_ended and sys.stdout.isatty():
            sys.stdout.buffer.write(b"\n")
            sys.stdout.buffer.flush()


def describe_failure(error: InvocationError) -> str:
    """Message, where it happened, and the traceback where the function shows it."""
    where = [
        f"{label} {value}"
        for label, value in (("replica", error.replica), ("invocation", error.invocation_id))
        if value and value not in error.message
    ]
    text = error.message + (f" ({', '.join(where)})" if where else "")
    return f"{text}\n{error.traceback.rstrip()}" if error.traceback else text


def read_headers(headers: list[str]) -> dict[str, str]:
    """`K:V` texts as the handler's headers, names as they were typed: so does HTTP. Raises ConfigError."""
    metadata = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"--header {header!r} is not allowed: expected NAME:VALUE")
        metadata[name.strip()] = value.strip()
    return metadata


def read_input(data: str | None, file: Path | None) -> bytes:
    """The call's body: --data, --file, or stdin unless it is a terminal. Raises ConfigError."""
    if data is not None and file is not None:
        raise ConfigError("--data and --file: give one of them")
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    if file is not None and str(file) != "-":
        try:
            return file.read_bytes()
        except OSError as error:
            raise ConfigError(f"--file {file} cannot be read: {error.strerror or error}") from error
    if sys.stdin is None or sys.stdin.closed:
        return b""
    if file is None and sys.stdin.isatty():
        say("no input: calling with an empty body (use --data, --file or a pipe)")
        return b""
    return sys.stdin.buffer.read()


def add_to(group: typer.Typer) -> None:
    """The verbs of this file."""
    group.command("invoke")(invoke)
    group.command(
        "call", hidden=True, help="The older name of invoke.\n\n\b\nExample:\n  dcf function call echo -d hi"
    )(invoke)
