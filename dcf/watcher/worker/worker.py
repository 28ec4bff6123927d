"""Run the user's Python handler for a watcher: `worker.py DATA_FD CONTROL_FD`.

One file, standard library only, Python 3.6 and later: it runs in the user's
interpreter, beside the user's packages. Protocol: proto/worker.md.

Data socket     calls come in, answers go out; read by the main thread.
Control socket  what must arrive while a handler runs: cancels, credit,
                answers of mesh calls, shutdown; read by a thread.

A sync handler with one slot runs in the main thread; with several, and where
it takes streams or batches, in as many threads; an async handler in an event
loop in the main thread. Never more than `slots` at once, in the order in which
the calls' input was whole.
"""

import asyncio
import atexit
import collections
import concurrent.futures
import importlib.util
import inspect
import json
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types

try:
    import contextvars
except ImportError:  # Python 3.6
    contextvars = None

PROTOCOL = 1
HEADER = struct.Struct("!IIBB")
OPEN_PREFIX = struct.Struct("!IBI")
REPLY_PREFIX = struct.Struct("!IIHBI")
HELLO, STATE, OPEN, DATA, REPLY, ERROR, REFUSED, CANCEL, CREDIT, SHUTDOWN, BATCH = range(1, 12)
LAST, STREAM, END = 1, 2, 4
CONTENT_SHIFT = 3
MESH_BIT = 0x80000000
PIECE_BYTES = 256 * 1024
WINDOW_BYTES = 1024 * 1024
STREAM_PIECE_BYTES = STREAM_WINDOW_BYTES = 64 * 1024
FRAME_COST_BYTES = 64
MAX_FRAME_BYTES = 8 * 1024 * 1024
BYTES, TEXT, JSON = range(3)
READ_BYTES = 64 * 1024  # more, and every read has malloc map and unmap memory: twice the cost of a small call
ASYNC_SLOTS = 100
MAX_PARTS = 512  # of one sendmsg; Linux takes 1024
BIG_ANSWERS = 32  # that wait for their readers; more, and handlers wait before they return
BIG_POLL_S = 0.1
FLUSH_S = 0.002  # an answer waits at most this for the rest of its batch, a chunk for the next one
FLUSH_BYTES = 64 * 1024  # so much is written at once
TURN_S = 0.001  # an async generator that never waits lets the others run this often
POLLRDHUP = 0x2000  # Linux's number, for which Python 3.6 has no name
CLOSED_MS = 1000
LEAVE_S = 1.5  # for the handler's own atexit functions
BUG = 70  # exit status


class InvalidInputError(Exception):
    """Raise it in a handler: the caller sees 400 INVALID_ARGUMENT and this text."""


class ClientGoneError(Exception):
    """Raised inside sync code that waits for input which will never come: nobody waits for the answer any more."""


class MeshError(Exception):
    """A mesh call failed; `code` is the error's code, such as function_not_found."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Reply:
    """An answer with its own content type and metadata (HTTP headers of the answer); the body may be a generator."""

    def __init__(self, body, content_type=None, metadata=None):
        self.body = body
        self.content_type = content_type
        self.metadata = metadata or {}


class Info:
    """What a handler may know of where it runs: `req.info.function`, `req.info["function"]`."""

    def __init__(self, function, replica):
        self.function = self.name = function
        self.replica = replica

    def __getitem__(self, key):
        try:
            return getattr(self, key)
        except AttributeError:
            raise KeyError(key) from None

    def __repr__(self):
        return "Info(function=%r, replica=%r)" % (self.function, self.replica)


class Request:
    """One invocation, as the handler sees it."""

    __slots__ = ("input", "info", "_call")

    def __init__(self, body, info, call):
        self.input = body
        self.info = info
        self._call = call

    @property
    def text(self):
        """The input as UTF-8 text."""
        try:
            return self.input.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError("the input is not UTF-8 text: %s" % error) from None

    def json(self):
        """The input as JSON."""
        try:
            return json.loads(self.text)
        except ValueError as error:
            raise InvalidInputError("the input is not JSON: %s" % error) from None

    @property
    def metadata(self):
        """A dict with method, path, query and headers; empty for a call without them."""
        raw = self._call.metadata
        if isinstance(raw, bytes):
            raw = self._call.metadata = json.loads(raw.decode("utf-8")) if raw else {}
        return raw

    @property
    def invocation_id(self):
        """The call's id, the same in every log."""
        return self._call.invocation_id.decode("ascii", "replace")

    @property
    def cancelled(self):
        """True once nobody waits for the answer any more; a long sync handler asks now and then."""
        call = self._call
        return call.cancelled or (call.deadline is not None and time.monotonic() > call.deadline)

    @property
    def remaining_s(self):
        """Seconds until the caller stops waiting; None if it has no deadline."""
        deadline = self._call.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())


class Call:
    """One invocation, from its OPEN frame to its last answer frame."""

    __slots__ = (
        "id", "invocation_id", "metadata", "deadline", "pieces", "started", "cancelled", "credit", "task",
        "streaming", "inputs", "ended", "size", "owed", "waiters", "batch", "room", "reply",
    )  # fmt: skip

    def __init__(self, call_id, payload):
        deadline_ms, id_length, metadata_length = OPEN_PREFIX.unpack_from(payload)
        id_end = OPEN_PREFIX.size + id_length
        metadata_end = id_end + metadata_length
        if metadata_end > len(payload):
            raise ValueError("the watcher sent an OPEN that is shorter than its metadata")
        self.id = call_id
        self.invocation_id = payload[OPEN_PREFIX.size : id_end]
        self.metadata = payload[id_end:metadata_end]
        self.deadline = time.monotonic() + deadline_ms / 1000.0 if deadline_ms else None
        self.pieces = [payload[metadata_end:]]
        self.started = False
        self.cancelled = False
        self.credit = WINDOW_BYTES
        self.task = None
        self.streaming = False  # its answer is a stream, which has begun
        self.inputs = None  # of a stream: (message, its credit) that the handler has not taken
        self.ended = False  # no more input comes
        self.size = 0  # of the message that is still coming
        self.owed = 0  # credit for what was taken, not yet given
        self.waiters = ()  # futures of async code that waits for input or credit: its reader and its writer may both
        self.batch = None
        self.reply = None  # Reply whose body is a generator: it has the head of the stream
        self.room = None  # condition that sync code waits on: for a stream's input, or for credit

    def watch(self, loop):
        """A future that `wake` completes."""
        waiter = loop.create_future()
        self.waiters += (waiter,)
        return waiter

    def wake(self):
        """Let async code look again. Called in the event loop, or with call_soon_threadsafe."""
        waiters, self.waiters = self.waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Inputs:
    """What `stream(self, requests)` gets: an iterator of Request, an async one for async code."""

    def __init__(self, worker, call):
        self.info = worker.info
        self._worker = worker
        self._call = call
        self._head = Request(b"", worker.info, call)

    metadata = property(lambda self: self._head.metadata, doc="As `Request.metadata`, of the stream as a whole.")
    invocation_id = property(lambda self: self._head.invocation_id, doc="As `Request.invocation_id`.")
    cancelled = property(lambda self: self._head.cancelled, doc="As `Request.cancelled`.")

    def __iter__(self):
        return self

    def __next__(self):
        worker, call = self._worker, self._call
        with worker.lock:
            while not call.inputs and not call.ended and not call.cancelled:
                worker.flush()
                call.room.wait()
            return self._take(StopIteration)

    def __aiter__(self):
        return self

    async def __anext__(self):
        worker, call = self._worker, self._call
        while not call.inputs and not call.ended and not call.cancelled:
            await call.watch(worker.loop)
        with worker.lock:
            return self._take(StopAsyncIteration)

    def _take(self, stop):
        """The next message; its sender may then send as much more. The lock is held."""
        call = self._call
        if call.cancelled:
            raise ClientGoneError("nobody waits for the answer any more")
        if not call.inputs:
            raise stop
        body, cost = call.inputs.popleft()
        call.owed += cost
        if not call.ended and (not call.inputs or call.owed >= STREAM_WINDOW_BYTES // 4):
            self._worker.give_credit(call)
        return Request(body, self.info, call)


class MeshCall:
    """A call that the handler makes; `done` is called once, when `result` has something to say."""

    __slots__ = ("id", "parent", "pieces", "credit", "error", "done")

    def __init__(self, call_id, parent, done):
        self.id = call_id
        self.parent = parent
        self.pieces = []
        self.credit = WINDOW_BYTES
        self.error = None
        self.done = done

    def result(self):
        if self.error is not None:
            raise self.error
        return b"".join(self.pieces)


def frame(call_id, kind, payload=b"", flags=0):
    return HEADER.pack(len(payload), call_id, kind, flags) + payload


def json_frame(call_id, kind, value, flags=0):
    return frame(call_id, kind, json.dumps(value).encode("utf-8"), flags)


def error_frame(call_id, code, message, text=""):
    body = {"code": code, "message": message}
    if text:
        body["traceback"] = text
    return json_frame(call_id, ERROR, body, LAST)


def send_parts(sock, parts):
    """`sendall` of parts that are not joined."""
    parts = [memoryview(part) for part in parts]
    while parts:
        sent = sock.sendmsg(parts[:MAX_PARTS])
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def pieces_of(body, size=PIECE_BYTES, last=LAST):
    """(piece, flags) for each piece of a body, `last` for the last; an empty body is one empty piece."""
    for start in range(0, max(len(body), 1), size):
        yield body[start : start + size], last if start + size >= len(body) else 0


def outputs_of(call, result):
    """The generator, or other iterator, whose items are the answer; None where the result is the answer itself."""
    if isinstance(result, Reply):
        outputs = outputs_of(call, result.body)
        if outputs is not None:
            call.reply = result
        return outputs
    kind = type(result)
    return result if hasattr(kind, "__next__") or hasattr(kind, "__anext__") else None


class Frames:
    """Cuts what one socket delivers into frames."""

    def __init__(self, sock):
        self.sock = sock
        self.parts = []  # of a frame that is not whole; a large one comes in many, and they are joined once
        self.missing = 0

    def receive(self):
        """(call id, kind, flags, payload) of all frames that one read made whole; None at the end."""
        data = self.sock.recv(min(max(self.missing, READ_BYTES), PIECE_BYTES))
        if not data:
            return None
        if self.parts:
            self.parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return []
            data, self.parts = b"".join(self.parts), []
        self.missing = 0
        frames, position, end = [], 0, len(data)
        while end - position >= HEADER.size:
            length, call_id, kind, flags = HEADER.unpack_from(data, position)
            if length > MAX_FRAME_BYTES:
                raise ValueError("the watcher sent a frame of %d bytes" % length)
            start = position + HEADER.size
            if start + length > end:
                self.missing = start + length - end
                break
            position = start + length
            frames.append((call_id, kind, flags, data[start:position]))
        if position < end:
            self.parts.append(data[position:])
        return frames


def head_of(reply):
    """A Reply's own metadata, as they travel."""
    head = {"metadata": {str(k): str(v) for k, v in dict(reply.metadata).items()}}
    if reply.content_type:
        head["content_type"] = str(reply.content_type)
    return json.dumps(head).encode("utf-8")


def encode_result(result):
    """(content kind, own metadata, body) of what a handler returned. Raises TypeError or ValueError."""
    if isinstance(result, Reply):
        kind, _, body = encode_result(result.body)
        return kind, head_of(result), body
    if isinstance(result, (bytes, bytearray, memoryview)):
        return BYTES, b"", bytes(result)
    if isinstance(result, str):
        return TEXT, b"", result.encode("utf-8")
    try:
        return JSON, b"", json.dumps(result, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            "the handler returned %s, which is not bytes, str or JSON (%s)" % (type(result).__name__, error)
        ) from None


class Worker:
    """Both sockets and the calls on them. `lock` guards everything that two threads touch."""

    def __init__(self, data, control):
        self.data = data
        self.control = control
        self.data_frames = Frames(data)
        self.control_frames = Frames(control)
        self.lock = threading.Lock()
        self.mesh_credited = threading.Condition(self.lock)
        self.out = []
        self.calls = {}
        self.newest = 0  # id of the call that was opened last; ids grow
        self.early_cancels = set()
        self.mesh_calls = {}
        self.mesh_count = 0
        self.out_bytes = 0
        self.out_is_big = False  # `out` has parts of large answers, which are not copied
        self.loop = None
        self.run = lambda call: None  # what to do with a call whose input is whole; a batch waits for its BATCH frame
        self.held = threading.Event()  # something is kept back for a moment
        self.flushed_at = self.turned_at = 0.0
        self.flush_asked = False
        self.big_answers = threading.BoundedSemaphore(BIG_ANSWERS)
        self.senders = concurrent.futures.ThreadPoolExecutor(BIG_ANSWERS)
        self.sending = set()  # an async worker's tasks that send large answers
        self.run_together = None  # the same with a batch of calls
        self.current = contextvars.ContextVar("dcf_call") if contextvars else None
        self.local = threading.local()

    # -- frames in and out -------------------------------------------------

    def receive(self):
        """Frames of the data socket as they come; the process ends with the connection."""
        frames = self.data_frames.receive()
        if frames is None:
            leave(0)
        return frames

    def send(self, data):
        with self.lock:
            self.out.append(data)
            self.flush()

    def flush(self):
        """Write what waits. The lock is held."""
        if self.out:
            out, self.out = self.out, []
            self.out_bytes = 0
            try:
                if self.out_is_big:
                    self.out_is_big = False
                    send_parts(self.data, out)
                else:
                    self.data.sendall(out[0] if len(out) == 1 else b"".join(out))
            except OSError:
                os._exit(0)  # the watcher is gone, and with it everybody who wanted an answer

    def flush_now(self):
        self.flush_asked = False
        with self.lock:
            self.flush()

    def flush_soon(self):
        """At the end of this turn of the event loop, with all that comes in it."""
        if not self.flush_asked:
            self.flush_asked = True
            self.loop.call_soon(self.flush_now)

    # -- a call comes in ---------------------------------------------------

    def on_frame(self, call_id, kind, flags, payload):
        """A frame of the data socket. Runs calls whose input is whole."""
        if kind == OPEN:
            call = Call(call_id, payload)
            with self.lock:
                self.newest = call_id
                self.calls[call_id] = call
                if call_id in self.early_cancels:
                    self.early_cancels.discard(call_id)
                    self.give_up(call)
                    return
            if flags & STREAM:
                self.open_inputs(call)
            elif flags & LAST:
                self.run(call)
        elif kind == BATCH:
            batch = self.begin_batch(payload)
            if batch:
                self.run_together(batch)
        elif kind == DATA:
            call = self.calls.get(call_id)
            if call is None:
                return
            if call.inputs is not None:
                self.on_input(call, flags, payload)
                return
            call.pieces.append(payload)
            if flags & LAST:
                self.run(call)
            else:
                self.send(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))
        else:
            refuse_unknown(kind)

    def open_inputs(self, call):
        """A call whose input is a stream runs at once."""
        if self.stream_handler is None:
            text = "the handler takes one input a call: it has no stream(self, requests)"
            with self.lock:
                self.finish(call, error_frame(call.id, "invalid_input", text))
                self.flush()
            return
        call.inputs, call.pieces, call.owed = collections.deque(), [], STREAM_WINDOW_BYTES
        call.room = threading.Condition(self.lock)
        with self.lock:
            self.give_credit(call)  # the first: it is here now, and will not be sent elsewhere
        self.run(call)

    def on_input(self, call, flags, payload):
        """A piece of a message. What is not the end of one is credited at once: the handler cannot take it yet."""
        cost = len(payload) + FRAME_COST_BYTES
        with self.lock:
            if flags & END or payload:
                call.size += len(payload)
                call.pieces.append(payload)
            if call.size > self.max_payload:
                text = "a message of more than %d bytes (max_payload)" % self.max_payload
                self.finish(call, error_frame(call.id, "payload_too_large", text))
                self.flush()
                call.cancelled = True
            elif flags & END:
                call.inputs.append((b"".join(call.pieces), cost))
                call.pieces, call.size = [], 0
            elif not flags & LAST:
                call.owed += cost
                self.give_credit(call)
            if flags & LAST:
                call.ended = True
            call.room.notify_all()
        call.wake()

    def give_credit(self, call):
        """The lock is held."""
        self.out.append(frame(call.id, CREDIT, call.owed.to_bytes(4, "big")))
        call.owed = 0
        self.flush()

    def give_up(self, call):
        """Answer a call that was cancelled before it started. The lock is held."""
        del self.calls[call.id]
        self.out.append(error_frame(call.id, "client_gone", "cancelled before the handler started"))
        self.flush()

    def begin(self, call):
        """The handler's argument, or None where the call was cancelled meanwhile."""
        with self.lock:
            if call.id not in self.calls:
                return None
            call.started = True
        self.enter(call)
        if call.inputs is not None:
            return Inputs(self, call)
        request = self.request_of(call)
        if self.handler is None:  # it has nothing but stream(): one input is a short stream
            call.inputs, call.ended = collections.deque([(request.input, 0)]), True
            return Inputs(self, call)
        return request

    def enter(self, call):
        """What runs now, runs for this call: its mesh calls name it."""
        self.local.call = call
        if self.current is not None:
            self.current.set(call)

    def request_of(self, call):
        body = call.pieces[0] if len(call.pieces) == 1 else b"".join(call.pieces)
        call.pieces = None
        return Request(body, self.info, call)

    def call_handler(self, call, argument):
        return self.handler(argument) if call.inputs is None else self.stream_handler(argument)

    # -- and its answer goes out -------------------------------------------

    def answer(self, call, result, began):
        """(head of the REPLY frame, body) of what a handler returned. Raises TypeError or ValueError."""
        handler_us = micros(time.perf_counter() - began)
        kind, head, body = encode_result(result)
        self.check_size(body)
        if len(body) > PIECE_BYTES:
            head = json.dumps(dict(json.loads(head.decode("utf-8") or "{}"), length=len(body))).encode("utf-8")
        return REPLY_PREFIX.pack(handler_us, 0, 0, kind, len(head)) + head, body

    def check_size(self, body):
        if len(body) > self.max_payload:
            raise ValueError("the handler returned %d bytes; max_payload allows %d" % (len(body), self.max_payload))

    def failure(self, call, error):
        """The ERROR frame of what a handler raised; its traceback goes to the function's log."""
        if call.cancelled and isinstance(error, (ClientGoneError, GeneratorExit, asyncio.CancelledError)):
            return error_frame(call.id, "client_gone", "cancelled while the handler ran")
        if isinstance(error, InvalidInputError):
            return error_frame(
                call.id, "invalid_input", describe(error, named=False) or "the handler refused the input"
            )
        message = describe(error)
        if isinstance(error, SystemExit):
            message = "the handler called sys.exit(%s)" % ("" if error.code is None else error.code)
        text = user_traceback(error)
        try:
            sys.stderr.write("invocation %s failed\n%s" % (call.invocation_id.decode("ascii", "replace"), text))
            sys.stderr.flush()
        except Exception:  # noqa: S110 - the handler closed or replaced it; the caller still gets the message
            pass
        return error_frame(call.id, "handler_error", message, text if self.debug else "")

    def finish(self, call, data):
        """An answer of one frame ends its call. The lock is held."""
        self.calls.pop(call.id, None)
        self.out.append(data)

    def submit_big(self, call, head, body):
        """Have an answer of several frames sent by a thread of its own: the slot is free."""
        while not self.big_answers.acquire(True, BIG_POLL_S):
            if call.cancelled:
                with self.lock:
                    self.finish(call, error_frame(call.id, "client_gone", "cancelled before the answer was sent"))
                    self.flush()
                return
        self.senders.submit(self.send_big, call, head, body)

    async def start_big(self, call, head, body):
        """The same in an event loop, by a task."""
        try:
            await self.big_gate.acquire()
        except asyncio.CancelledError:
            with self.lock:
                self.finish(call, error_frame(call.id, "client_gone", "cancelled before the answer was sent"))
            self.flush_soon()
            return
        task = self.loop.create_task(self.send_big_async(call, head, body))
        self.sending.add(task)
        task.add_done_callback(self.on_big_sent)

    def on_big_sent(self, task):
        self.sending.discard(task)
        self.big_gate.release()
        if not task.cancelled() and task.exception() is not None:
            ended_by_bugs(task.result)

    async def send_big_async(self, call, head, body):
        kind = REPLY
        for piece, flags in pieces_of(memoryview(body)):
            while len(piece) > call.credit and not call.cancelled:
                self.flush_now()
                waiter = call.watch(self.loop)
                if len(piece) <= call.credit or call.cancelled:
                    break
                await waiter
            if self.put_big(call, kind, head, piece, flags):
                break
            kind, head = DATA, b""
        self.flush_soon()

    def put_big(self, call, kind, head, piece, flags):
        """One piece of a large answer, or its end where nobody waits for it any more. Whether it was the last."""
        with self.lock:
            if call.cancelled:
                self.finish(call, error_frame(call.id, "client_gone", "cancelled while the answer was sent"))
                return True
            call.credit -= len(piece)
            self.out += (HEADER.pack(len(head) + len(piece), call.id, kind, flags) + head, piece)
            self.out_is_big = True
            if flags & LAST:
                self.calls.pop(call.id, None)
            return bool(flags & LAST)

    def send_big(self, call, head, body):
        """Send an answer of several frames as its reader takes them."""
        try:
            ended_by_bugs(lambda: self.send_pieces(call, head, body))
        finally:
            self.big_answers.release()

    def send_pieces(self, call, head, body):
        kind = REPLY
        for piece, flags in pieces_of(memoryview(body)):
            with self.lock:
                call.room = call.room or threading.Condition(self.lock)
                while len(piece) > call.credit and not call.cancelled:
                    self.flush()
                    call.room.wait()
            last = self.put_big(call, kind, head, piece, flags)
            self.flush_now()
            if last:
                return
            kind, head = DATA, b""

    def run_sync(self, call, batched=False):
        """Call a sync handler and send its answer; a small one of a batch leaves with the batch."""
        request = self.begin(call)
        if request is None:
            return
        began = time.perf_counter()
        try:
            result = self.call_handler(call, request)
            outputs = outputs_of(call, result)
            if outputs is not None:
                self.run_stream(call, outputs, began)
                self.local.call = None
                return
            head, body = self.answer(call, result, began)
        except BaseException as error:
            head, body = None, self.failure(call, error)
        self.local.call = None
        if head is not None and len(body) > PIECE_BYTES:
            self.submit_big(call, head, body)
            return
        data = body if head is None else frame(call.id, REPLY, head + body, LAST)
        with self.lock:
            self.finish(call, data)
            if not batched:
                self.flush()

    async def run_async(self, call):
        """The same for an async handler."""
        request = self.begin(call)
        if request is None:
            return
        began = time.perf_counter()
        try:
            result = self.call_handler(call, request)
            if inspect.isawaitable(result):
                result = await result
            outputs = outputs_of(call, result)
            if outputs is not None:
                await self.run_stream_async(call, outputs, began)
                return
            head, body = self.answer(call, result, began)
        except BaseException as error:
            head, body = None, self.failure(call, error)
        if head is not None and len(body) > PIECE_BYTES:
            await self.start_big(call, head, body)
            return
        data = body if head is None else frame(call.id, REPLY, head + body, LAST)
        with self.lock:
            self.finish(call, data)
        self.flush_soon()

    # -- an answer that is a stream ----------------------------------------

    def run_stream(self, call, outputs, began):
        """Send what a generator yields, as fast as its reader takes it; close it where nobody does."""
        error = None
        try:
            if not hasattr(outputs, "__next__"):
                raise TypeError("the handler returned an async generator; make it `async def`")
            for item in outputs:
                if not self.send_message(call, item, began):
                    break
        except BaseException as raised:
            error = raised
        error = close_quietly(outputs) or error
        self.end_stream(call, error)
        self.flush_now()

    async def run_stream_async(self, call, outputs, began):
        """The same for an async handler."""
        error = None
        try:
            if hasattr(outputs, "__anext__"):
                async for item in outputs:
                    await self.send_message_async(call, item, began)
            else:
                for item in outputs:
                    await self.send_message_async(call, item, began)
        except BaseException as raised:
            error = raised
        try:
            if hasattr(outputs, "aclose"):
                await outputs.aclose()
            else:
                error = close_quietly(outputs) or error
        except BaseException as raised:
            error = raised
        self.end_stream(call, error)
        self.flush_soon()

    def send_message(self, call, item, began):
        """One chunk of a stream. False: nobody waits for it."""
        kind, head, body = encode_result(item)
        self.check_size(body)
        for piece, flags in pieces_of(body, STREAM_PIECE_BYTES, END):
            with self.lock:
                while call.credit <= 0 and call.streaming and not call.cancelled:
                    self.flush()
                    call.room.wait()
                if call.cancelled:
                    return False
                self.put_piece(call, kind, head, piece, flags, began)
        return True

    async def send_message_async(self, call, item, began):
        """The same; the loop goes on while it waits for credit."""
        kind, head, body = encode_result(item)
        self.check_size(body)
        for piece, flags in pieces_of(body, STREAM_PIECE_BYTES, END):
            while call.credit <= 0 and call.streaming and not call.cancelled:
                self.flush_now()
                waiter = call.watch(self.loop)
                if call.credit > 0 or call.cancelled:  # it came between the two lines, from the control thread
                    break
                await waiter
            if call.cancelled:
                raise ClientGoneError("nobody waits for the answer any more")
            with self.lock:
                self.put_piece(call, kind, head, piece, flags, began)
        now = time.perf_counter()
        if now - self.turned_at > TURN_S:  # a generator that never waits shall not stop the others
            self.turned_at = now
            await asyncio.sleep(0)

    def put_piece(self, call, kind, head, piece, flags, began):
        """A slow generator's chunks leave at once, a fast one's together. The lock is held."""
        now = time.perf_counter()
        if not call.streaming:
            call.streaming = True
            call.room = call.room or threading.Condition(self.lock)
            call.credit -= WINDOW_BYTES - STREAM_WINDOW_BYTES
            call.deadline = None  # it was for the first chunk; now the gateway looks that it does not stand still
            if call.reply is not None:
                head = head_of(call.reply)
            prefix = REPLY_PREFIX.pack(micros(now - began), 0, 0, kind, len(head))
            self.out.append(frame(call.id, REPLY, prefix + head, STREAM))
        call.credit -= len(piece) + FRAME_COST_BYTES
        self.out.append(frame(call.id, DATA, piece, flags | kind << CONTENT_SHIFT))
        self.out_bytes += len(piece) + FRAME_COST_BYTES
        if now - self.flushed_at > FLUSH_S or self.out_bytes > FLUSH_BYTES:
            self.flushed_at = now
            self.flush()
        elif not self.held.is_set():
            self.held.set()

    def end_stream(self, call, error):
        """The last frame of a stream."""
        if error is not None:
            data = self.failure(call, error)
        elif call.cancelled:
            data = error_frame(call.id, "client_gone", "cancelled while the answer was sent")
        elif call.streaming:
            data = frame(call.id, DATA, b"", LAST)
        else:
            head = b"" if call.reply is None else head_of(call.reply)
            data = frame(call.id, REPLY, REPLY_PREFIX.pack(0, 0, 0, TEXT, len(head)) + head, STREAM | LAST)
        with self.lock:
            if call.id in self.calls:  # not where a message was too large
                self.finish(call, data)

    # -- batches -----------------------------------------------------------

    def run_batch(self, batch, began, results, error):
        """Answer each call of a batch with its own result. Returns the large answers, which are still to be sent."""
        big, data = [], []
        if error is None and (not isinstance(results, (list, tuple)) or len(results) != len(batch)):
            got = "%d results" % len(results) if isinstance(results, (list, tuple)) else type(results).__name__
            error = TypeError(
                "the handler returned %s for a batch of %d requests; expected a list as long" % (got, len(batch))
            )
        for number, call in enumerate(batch):
            failed = error if error is not None else results[number]
            if isinstance(failed, BaseException):
                data.append((call, self.failure(call, failed)))
                continue
            try:
                head, body = self.answer(call, results[number], began)
            except BaseException as raised:
                data.append((call, self.failure(call, raised)))
                continue
            if len(body) > PIECE_BYTES:
                big.append((call, head, body))
            else:
                data.append((call, frame(call.id, REPLY, head + body, LAST)))
        with self.lock:
            for call, answer in data:
                self.finish(call, answer)
            self.flush()
        return big

    def begin_batch(self, payload):
        """The calls that a BATCH frame names, without those that were cancelled meanwhile; all have started."""
        ids = struct.unpack("!%dI" % (len(payload) // 4), payload)
        with self.lock:
            batch = [self.calls[call_id] for call_id in ids if call_id in self.calls]
            for call in batch:
                call.started = True
                call.batch = batch
        return batch

    def serve_batches(self, slots):
        """As many threads as slots take batches from one line."""
        line = queue.Queue()

        def work():
            while True:
                batch = line.get()
                began = time.perf_counter()
                results = failed = None
                try:
                    self.enter(batch[0])
                    results = self.handler([self.request_of(call) for call in batch])
                except BaseException as error:
                    failed = error
                self.local.call = None
                for item in self.run_batch(batch, began, results, failed):
                    self.submit_big(*item)

        self.start_threads(slots, work)
        self.run_together = line.put
        while True:
            for item in self.receive():
                self.on_frame(*item)

    def serve_batches_async(self, slots):
        """The same in an event loop: a task for each of at most `slots` batches."""
        self.run_together = self.task_line(slots, self.run_batch_async)
        self.serve_loop()

    async def run_batch_async(self, *batch):
        began = time.perf_counter()
        results = failed = None
        try:
            self.enter(batch[0])
            results = await self.handler([self.request_of(call) for call in batch])
        except BaseException as error:
            failed = error
        for item in self.run_batch(batch, began, results, failed):
            await self.start_big(*item)

    # -- three ways to run -------------------------------------------------

    def serve_inline(self):
        """One slot: the main thread runs the handler between two reads."""
        several = [False]
        self.run = lambda call: self.run_sync(call, several[0])
        while True:
            frames = self.receive()
            if len(frames) > 1:
                several[0] = True
                self.held.set()
                for item in frames:
                    self.on_frame(*item)
                    if not self.held.is_set():  # the flusher has cleared it
                        self.held.set()
                several[0] = False
                self.held.clear()
                self.flush_now()
            elif frames:
                self.on_frame(*frames[0])

    def serve_flusher(self):
        """What is kept back for its neighbours waits no longer than FLUSH_S."""
        while True:
            self.held.wait()
            time.sleep(FLUSH_S)
            self.held.clear()
            self.flush_now()

    def start_threads(self, count, work):
        for number in range(count):
            thread = threading.Thread(target=ended_by_bugs, args=(work,), name="handler-%d" % number, daemon=True)
            thread.start()

    def serve_threads(self, slots):
        """Several slots: as many threads take calls from one line."""
        line = queue.Queue()

        def take():
            while True:
                self.run_sync(line.get())

        self.start_threads(slots, take)
        self.run = line.put
        while True:
            for item in self.receive():
                self.on_frame(*item)

    def serve_async(self, slots):
        """An event loop: a task for each of at most `slots` calls."""
        start = self.task_line(slots, self.run_async)
        self.run = lambda call: start([call])
        self.serve_loop()

    def task_line(self, slots, work):
        """What takes a list of calls and has `work(*calls)` run for it in a task, at most `slots` at once, in order."""
        line, running = collections.deque(), set()

        def start_next():
            while line and len(running) < slots:
                calls = line.popleft()
                if calls[0].id in self.calls:  # not cancelled meanwhile; of a batch all have started, and none is
                    task = self.loop.create_task(work(*calls))
                    for call in calls:
                        call.task = task
                    running.add(task)
                    task.add_done_callback(on_done)

        def on_done(task):
            running.discard(task)
            if not task.cancelled() and task.exception() is not None:
                ended_by_bugs(task.result)
            start_next()

        def put(calls):
            line.append(calls)
            start_next()

        return put

    def serve_loop(self):
        """Read the data socket in an event loop."""
        self.loop = loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.big_gate = asyncio.Semaphore(BIG_ANSWERS)

        def on_readable():
            for item in self.receive():
                self.on_frame(*item)

        loop.add_reader(self.data.fileno(), ended_by_bugs, on_readable)
        loop.run_forever()

    # -- control -----------------------------------------------------------

    def serve_control(self):
        """The control thread: what must arrive while a handler runs, and the end of either socket."""
        ready, control = select.poll(), self.control.fileno()
        ready.register(control, select.POLLIN)
        # Its frames are the main thread's, which may be busy for long; its end is looked for here.
        ready.register(self.data.fileno(), POLLRDHUP)
        while True:
            # Not for ever: while it waits, a socket that the handler closes stays open, and the watcher sees no end.
            events = dict(ready.poll(CLOSED_MS))
            for number in [number for number, event in events.items() if event & select.POLLNVAL]:
                ready.unregister(number)
                del events[number]
            if not events:
                continue
            if control not in events:
                leave(0)
            frames = self.control_frames.receive()
            if frames is None:
                leave(0)
            for item in frames:
                self.on_control(*item)

    def on_control(self, call_id, kind, flags, payload):
        if kind == SHUTDOWN:
            leave(0)
        elif call_id & MESH_BIT:
            self.on_mesh_frame(call_id, kind, flags, payload)
        elif kind == CANCEL:
            self.on_cancel(call_id)
        elif kind == CREDIT:
            with self.lock:
                call = self.calls.get(call_id)
                if call is None:
                    return
                call.credit += int.from_bytes(payload, "big")
                if call.room is not None:
                    call.room.notify_all()
            if call.waiters:
                self.loop.call_soon_threadsafe(call.wake)
        else:
            refuse_unknown(kind)

    def on_cancel(self, call_id):
        orphans = []
        with self.lock:
            call = self.calls.get(call_id)
            if call is None:
                # Either answered, and the two crossed, or still unread in the data socket.
                if 0 < (call_id - self.newest) % MESH_BIT < MESH_BIT // 2:
                    self.early_cancels.add(call_id)
                return
            call.cancelled = True
            if not call.started:
                self.give_up(call)
            if call.room is not None:
                call.room.notify_all()
            # A batch goes on for those that still wait.
            ended = [call] if call.batch is None else call.batch if all(one.cancelled for one in call.batch) else []
            task = call.task if ended else None
            if call.task is None:
                # Sync code that waits for a mesh call shall not wait any longer.
                orphans = [mesh for mesh in self.mesh_calls.values() if mesh.parent in ended]
        for mesh in orphans:
            self.end_mesh(mesh, MeshError("client_gone", "the call that this mesh call was made for was cancelled"))
            mesh.done()
        if self.loop is not None:
            self.loop.call_soon_threadsafe(call.wake)
            if task is not None:
                self.loop.call_soon_threadsafe(task.cancel)

    # -- mesh --------------------------------------------------------------

    def on_mesh_frame(self, call_id, kind, flags, payload):
        with self.lock:
            mesh = self.mesh_calls.get(call_id)
            if mesh is None:
                return
            if kind == CREDIT:
                mesh.credit += int.from_bytes(payload, "big")
                self.mesh_credited.notify_all()
                return
            if kind not in (REPLY, DATA, ERROR):
                refuse_unknown(kind)
                return
            if kind == ERROR:
                body = json.loads(payload.decode("utf-8"))
                mesh.error = MeshError(body.get("code", "internal"), body.get("message", ""))
            else:
                if kind == REPLY:
                    start = REPLY_PREFIX.size + REPLY_PREFIX.unpack_from(payload)[-1]
                    if start > len(payload):
                        raise ValueError("the watcher sent a REPLY that is shorter than its metadata")
                    payload = payload[start:]
                mesh.pieces.append(payload)
                if not flags & LAST:
                    self.out.append(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))
                    self.flush()
                    return
            del self.mesh_calls[call_id]
            self.mesh_credited.notify_all()
        mesh.done()

    def end_mesh(self, mesh, error=None):
        """Nobody waits for it any more."""
        with self.lock:
            mesh.error = error
            if self.mesh_calls.pop(mesh.id, None) is not None:
                self.out.append(frame(mesh.id, CANCEL))
                self.flush()
            self.mesh_credited.notify_all()

    def in_loop(self):
        return self.loop is not None and threading.current_thread() is threading.main_thread()

    def current_call(self):
        """The call on whose behalf this code runs; None where that cannot be told."""
        call = self.current.get(None) if self.current is not None else getattr(self.local, "call", None)
        if self.current is None and self.in_loop():  # Python 3.6 has no context, but it has the task
            task = asyncio.Task.current_task()
            call = next((one for one in list(self.calls.values()) if one.task is task), None)
        if call is None:
            # A thread of the handler's own: if one call runs, it is the one.
            with self.lock:
                running = [one for one in self.calls.values() if one.started]
            call = running[0] if len(running) == 1 else None
        return call

    def begin_mesh(self, done):
        parent = self.current_call()
        with self.lock:
            # With the lock: a cancel either comes before, or finds the mesh call and ends it.
            if parent is not None and parent.cancelled and parent.batch is None:
                raise MeshError("client_gone", "the call that this mesh call is made for was cancelled")
            self.mesh_count = (self.mesh_count + 1) & 0x7FFFFFFF
            mesh = MeshCall(MESH_BIT | self.mesh_count, parent, done)
            self.mesh_calls[mesh.id] = mesh
        return mesh

    def send_mesh(self, mesh, name, data):
        """Send the input as credit allows; ends early where the call has ended."""
        metadata = json.dumps({"function": name, "parent": mesh.parent.id if mesh.parent else 0}).encode("utf-8")
        kind, head = OPEN, OPEN_PREFIX.pack(0, 0, len(metadata)) + metadata
        for piece, flags in pieces_of(data):
            with self.lock:
                while mesh.credit < len(piece) and mesh.id in self.mesh_calls:
                    self.mesh_credited.wait()
                if mesh.id not in self.mesh_calls:
                    return
                mesh.credit -= len(piece)
                self.out.append(frame(mesh.id, kind, head + piece, flags))
                self.flush()
            kind, head = DATA, b""

    def mesh_call(self, name, data=b""):
        """Call another function; its answer as bytes. Raises MeshError."""
        if self.in_loop():
            raise RuntimeError("mesh_call would block the event loop: use `await mesh.mesh_call_async(name, data)`")
        data = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        done = threading.Event()
        mesh = self.begin_mesh(done.set)
        self.send_mesh(mesh, name, data)
        done.wait()
        return mesh.result()

    async def mesh_call_async(self, name, data=b""):
        """The same for an async handler. Cancelling it cancels the call."""
        data = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        loop = asyncio.get_event_loop()
        done = asyncio.Event()

        def notify():
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # a loop of the handler's own, which it has closed
                pass

        mesh = self.begin_mesh(notify)
        try:
            if len(data) > WINDOW_BYTES:  # it waits for credit, which must not block the loop
                await loop.run_in_executor(None, self.send_mesh, mesh, name, data)
            else:
                self.send_mesh(mesh, name, data)
            await done.wait()
        except asyncio.CancelledError:
            self.end_mesh(mesh)
            raise
        return mesh.result()

    # -- start -------------------------------------------------------------

    def install_modules(self):
        """`import mesh` and `from dcf import Reply`; a package of the user's of that name stays theirs."""
        mesh = types.ModuleType("mesh", "Call other functions of the cluster from a handler.")
        mesh.mesh_call, mesh.mesh_call_async, mesh.MeshError = self.mesh_call, self.mesh_call_async, MeshError
        if importlib.util.find_spec("mesh") is None:
            sys.modules["mesh"] = mesh
        dcf = types.ModuleType("dcf", "What a handler may use of DCF.")
        if importlib.util.find_spec("dcf") is not None:
            try:
                dcf = importlib.import_module("dcf")  # DCF itself, for its client: ours goes on top
            except Exception:  # noqa: S110 - a DCF that does not run in this Python is none
                pass
        dcf.Reply, dcf.Request, dcf.InvalidInputError, dcf.mesh = Reply, Request, InvalidInputError, mesh
        dcf.ClientGoneError = ClientGoneError
        sys.modules["dcf"] = dcf

    def start(self):
        """Shake hands, load the handler, then serve until the watcher goes."""
        version = "%d.%d.%d" % sys.version_info[:3]
        hello = {"protocol": PROTOCOL, "runtime": "python", "version": version, "pid": os.getpid()}
        self.send(json_frame(0, HELLO, hello))
        pending = []
        while not pending:
            pending = self.receive()
        settings = json.loads(pending[0][3].decode("utf-8"))
        self.debug, self.max_payload = settings["debug"], settings["max_payload_bytes"]
        self.info = Info(settings["function"], settings["replica"])
        # From now on: a cancelled start must end the process even while the constructor runs.
        threading.Thread(target=ended_by_bugs, args=(self.serve_control,), name="dcf-control", daemon=True).start()
        try:
            os.chdir(settings["source"])
            if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
                del sys.path[0]  # this file's own folder is nobody's business
            sys.path.insert(0, settings["source"])
            self.install_modules()
            loaded = load_handler(settings["source"], settings["handler_file"], settings["handler_name"])
            batch = settings.get("batch_max_size") or 0
            if batch:
                loaded.check_batch()
        except BaseException as error:
            cause, text = explain_load(error)
            self.send(json_frame(0, STATE, {"state": "failed", "cause": cause, "traceback": text}))
            leave(1)
        self.handler, self.stream_handler = loaded.call, loaded.stream
        slots = settings["slots"] or (ASYNC_SLOTS if loaded.is_async and not batch else 1)
        state = {"state": "ready", "async": loaded.is_async, "slots": slots, "batch": batch or 1}
        state["streams"], state["bidirectional"] = loaded.streams, loaded.stream is not None
        threading.Thread(target=self.serve_flusher, name="dcf-flusher", daemon=True).start()
        self.send(json_frame(0, STATE, state))
        if batch:
            (self.serve_batches_async if loaded.is_async else self.serve_batches)(slots)
        elif loaded.is_async:
            self.serve_async(slots)
        elif slots > 1 or loaded.stream is not None:
            self.serve_threads(slots)
        else:
            self.serve_inline()


def refuse_unknown(kind):
    """A known kind that has no sense here is ignored; nobody knows what another one would ask for."""
    if not HELLO <= kind <= BATCH:
        raise ValueError("the watcher sent a frame of kind %d, which protocol %d has not" % (kind, PROTOCOL))


def micros(seconds):
    """As it travels."""
    return max(0, min(int(seconds * 1e6), 0xFFFFFFFF))


def close_quietly(outputs):
    """Close a generator, so that its `finally` runs; what it raised then."""
    try:
        if hasattr(outputs, "close"):
            outputs.close()
    except BaseException as error:
        return error
    return None


def leave(status):
    """End the process, running handlers or not, after the atexit functions of the user's packages."""
    timer = threading.Timer(LEAVE_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
    for step in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            step()
        except BaseException:  # noqa: S110 - nobody is left to be told
            pass
    os._exit(status)


def ended_by_bugs(work):
    """Run `work`; a bug in it ends the process, which the watcher replaces, rather than leave it deaf."""
    try:
        work()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(BUG)


def describe(error, named=True):
    """One text of an exception: its type and message, safe to send."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    if named:
        text = "%s: %s" % (type(error).__name__, text) if text else type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def user_traceback(error):
    """The traceback from the user's first line on: ours above it help nobody."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename == __file__:
        step = step.tb_next
    try:
        if step is None:  # ours alone, such as a result that cannot be sent: the message says it all
            lines = traceback.format_exception_only(type(error), error)
        else:
            lines = traceback.format_exception(type(error), error, step)
    except Exception:
        lines = [describe(error) + "\n"]
    return "".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


class HandlerMissing(Exception):
    """The file is there, the handler is not."""


def load_handler(source, file_name, name):
    """(callable, whether it is async) from `file_name` in `source`."""
    path = os.path.join(source, file_name)
    if not os.path.isfile(path):
        raise HandlerMissing("the handler file %s is not there" % file_name)
    module_name = os.path.splitext(os.path.basename(file_name))[0]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None:
        raise HandlerMissing("the handler file %s is not a Python file (.py)" % file_name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise HandlerMissing("%s has no %s; it has: %s" % (file_name, name, ", ".join(sorted(there)) or "nothing"))
    handler, stream = getattr(module, name), None
    if inspect.isclass(handler):
        # Of the class, for an object may keep anything under that name: a CUDA stream, say.
        stream = getattr(handler, "stream", None)
        handler = handler()
        stream = handler.stream if callable(stream) and takes_one(handler.stream) else None
        if not callable(handler) and stream is None:
            raise HandlerMissing(
                "class %s in %s has neither __call__(self, req) nor stream(self, requests)" % (name, file_name)
            )
    elif not callable(handler):
        raise HandlerMissing("%s in %s is neither a class nor a function" % (name, file_name))
    return Loaded(handler if callable(handler) else None, stream)


def takes_one(function):
    """Whether it can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it does not say
        pass
    return True


class Loaded:
    """The user's handler and what kind of one it is."""

    def __init__(self, call, stream):
        self.call = call
        self.stream = stream
        targets = [one if inspect.isroutine(one) else type(one).__call__ for one in (call, stream) if one is not None]
        kinds = {inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in targets}
        if len(kinds) > 1:
            raise HandlerMissing("__call__ and stream must both be async, or neither")
        self.is_async = kinds.pop()
        self.streams = stream is not None or any(
            inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in targets
        )

    def check_batch(self):
        """Raise HandlerMissing where it cannot take batches."""
        if self.call is None or self.streams:
            raise HandlerMissing("a handler that streams cannot be batched: take `batch` out of its config.yaml")


def explain_load(error):
    """(one line for people, the traceback) of what went wrong while the handler was loaded."""
    if isinstance(error, HandlerMissing):
        return str(error), ""
    if isinstance(error, SystemExit):
        what = "sys.exit(%s) was called" % ("" if error.code is None else error.code)
    elif isinstance(error, SyntaxError):
        what = "SyntaxError: %s (%s, line %s)" % (error.msg, os.path.basename(error.filename or "?"), error.lineno)
    else:
        what = describe(error)
    return "%s while the handler was loaded" % " ".join(what.split()), user_traceback(error)


if __name__ == "__main__":
    # Ctrl-C is the watcher's: it drains, then ends us. A function, for SIG_IGN would be inherited by
    # the programs that a handler starts.
    signal.signal(signal.SIGINT, lambda number, step: None)
    sockets = [socket.socket(fileno=int(number)) for number in sys.argv[-2:]]
    for one in sockets:
        one.set_inheritable(False)
    ended_by_bugs(Worker(*sockets).start)
