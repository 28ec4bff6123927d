"""Run the user's Python handler for a watcher: `worker.py DATA_FD CONTROL_FD`.

One file, standard library only, Python 3.6 and later: it runs in the user's
interpreter, beside the user's packages. Protocol: proto/worker.md.

Data socket     calls come in, answers go out; read by the main thread.
Control socket  what must arrive while a handler runs: cancels, credit,
                answers of mesh calls, shutdown; read by a thread.

A sync handler with one slot runs in the main thread; with several, in as
many threads; an async handler in an event loop in the main thread. Never more
than `slots` at once, in the order in which the calls' input was whole.
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
REPLY_PREFIX = struct.Struct("!IBI")
HELLO, STATE, OPEN, DATA, REPLY, ERROR, REFUSED, CANCEL, CREDIT, SHUTDOWN = range(1, 11)
LAST = 1
MESH_BIT = 0x80000000
PIECE_BYTES = 256 * 1024
WINDOW_BYTES = 1024 * 1024
MAX_FRAME_BYTES = 8 * 1024 * 1024
BYTES, TEXT, JSON = range(3)
READ_BYTES = 64 * 1024  # more, and every read has malloc map and unmap memory: twice the cost of a small call
ASYNC_SLOTS = 100
FLUSH_S = 0.002  # an answer waits at most this for the rest of its batch
LEAVE_S = 1.5  # for the handler's own atexit functions
BUG = 70  # exit status


class InvalidInputError(Exception):
    """Raise it in a handler: the caller sees 400 INVALID_ARGUMENT and this text."""


class MeshError(Exception):
    """A mesh call failed; `code` is the error's code, such as function_not_found."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Reply:
    """An answer with its own content type and metadata (HTTP headers of the answer)."""

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

    __slots__ = ("id", "invocation_id", "metadata", "deadline", "pieces", "started", "cancelled", "credit", "task")

    def __init__(self, call_id, payload):
        deadline_ms, id_length, metadata_length = OPEN_PREFIX.unpack_from(payload)
        id_end = OPEN_PREFIX.size + id_length
        metadata_end = id_end + metadata_length
        self.id = call_id
        self.invocation_id = payload[OPEN_PREFIX.size : id_end]
        self.metadata = payload[id_end:metadata_end]
        self.deadline = time.monotonic() + deadline_ms / 1000.0 if deadline_ms else None
        self.pieces = [payload[metadata_end:]]
        self.started = False
        self.cancelled = False
        self.credit = WINDOW_BYTES
        self.task = None


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


def pieces_of(body):
    """(piece, flags) for each piece of a body; an empty body is one empty piece."""
    for start in range(0, max(len(body), 1), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES], LAST if start + PIECE_BYTES >= len(body) else 0


class Frames:
    """Cuts what one socket delivers into frames."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def receive(self):
        """(call id, kind, flags, payload) of all frames that one read made whole; None at the end."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            return None
        if self.buffer:
            data = self.buffer + data
        frames, position, end = [], 0, len(data)
        while end - position >= HEADER.size:
            length, call_id, kind, flags = HEADER.unpack_from(data, position)
            if length > MAX_FRAME_BYTES:
                raise ValueError("the watcher sent a frame of %d bytes" % length)
            start = position + HEADER.size
            if start + length > end:
                break
            position = start + length
            frames.append((call_id, kind, flags, data[start:position]))
        self.buffer = data[position:]
        return frames


def encode_result(result):
    """(content kind, own metadata, body) of what a handler returned. Raises TypeError or ValueError."""
    if isinstance(result, Reply):
        kind, _, body = encode_result(result.body)
        head = {"metadata": {str(k): str(v) for k, v in dict(result.metadata).items()}}
        if result.content_type:
            head["content_type"] = str(result.content_type)
        return kind, json.dumps(head).encode("utf-8"), body
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
        self.data_frames = Frames(data)
        self.control_frames = Frames(control)
        self.lock = threading.Lock()
        self.credited = threading.Condition(self.lock)
        self.out = []
        self.calls = {}
        self.newest = 0  # id of the call that was opened last; ids grow
        self.early_cancels = set()
        self.mesh_calls = {}
        self.mesh_count = 0
        self.loop = None
        self.run = None  # what to do with a call whose input is whole
        self.batching = threading.Event()
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
            data = self.out[0] if len(self.out) == 1 else b"".join(self.out)
            del self.out[:]
            try:
                self.data.sendall(data)
            except OSError:
                os._exit(0)  # the watcher is gone, and with it everybody who wanted an answer

    def flush_now(self):
        with self.lock:
            self.flush()

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
            if flags & LAST:
                self.run(call)
        elif kind == DATA:
            call = self.calls.get(call_id)
            if call is None:
                return
            call.pieces.append(payload)
            if flags & LAST:
                self.run(call)
            else:
                self.send(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))

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
        body = call.pieces[0] if len(call.pieces) == 1 else b"".join(call.pieces)
        call.pieces = None
        self.local.call = call
        if self.current is not None:
            self.current.set(call)
        return Request(body, self.info, call)

    # -- and its answer goes out -------------------------------------------

    def answer(self, call, result, began):
        """(head of the REPLY frame, body) of what a handler returned. Raises TypeError or ValueError."""
        handler_us = min(int((time.perf_counter() - began) * 1e6), 0xFFFFFFFF)
        kind, head, body = encode_result(result)
        if len(body) > self.max_payload:
            raise ValueError("the handler returned %d bytes; max_payload allows %d" % (len(body), self.max_payload))
        return REPLY_PREFIX.pack(handler_us, kind, len(head)) + head, body

    def failure(self, call, error):
        """The ERROR frame of what a handler raised; its traceback goes to the function's log."""
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

    def send_big(self, call, head, body):
        """Send an answer of several frames as its reader takes them; waits for credit."""
        kind = REPLY
        for piece, flags in pieces_of(body):
            with self.lock:
                while len(piece) > call.credit and not call.cancelled:
                    self.flush()
                    self.credited.wait()
                if call.cancelled:
                    self.finish(call, error_frame(call.id, "client_gone", "cancelled while the answer was sent"))
                    self.flush()
                    return
                call.credit -= len(piece)
                self.out.append(frame(call.id, kind, head + piece, flags))
                if flags & LAST:
                    self.calls.pop(call.id, None)
                self.flush()
            kind, head = DATA, b""

    def run_sync(self, call, batched=False):
        """Call a sync handler and send its answer; a small one of a batch leaves with the batch."""
        request = self.begin(call)
        if request is None:
            return
        began = time.perf_counter()
        try:
            head, body = self.answer(call, self.handler(request), began)
        except BaseException as error:
            head, body = None, self.failure(call, error)
        self.local.call = None
        if head is not None and len(body) > PIECE_BYTES:
            self.send_big(call, head, body)
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
            head, body = self.answer(call, await self.handler(request), began)
        except BaseException as error:
            head = None
            if call.cancelled and isinstance(error, asyncio.CancelledError):
                body = error_frame(call.id, "client_gone", "cancelled while the handler ran")
            else:
                body = self.failure(call, error)
        if head is not None and len(body) > PIECE_BYTES:
            # A thread waits for the credit. It must run even where we are cancelled: it says so to the caller.
            await asyncio.shield(self.loop.run_in_executor(self.senders, self.send_big, call, head, body))
            return
        data = body if head is None else frame(call.id, REPLY, head + body, LAST)
        with self.lock:
            self.finish(call, data)
            if len(self.out) == 1:
                self.loop.call_soon(self.flush_now)

    # -- three ways to run -------------------------------------------------

    def serve_inline(self):
        """One slot: the main thread runs the handler between two reads."""
        threading.Thread(target=self.serve_flusher, name="dcf-flusher", daemon=True).start()
        batching = self.batching
        self.run = lambda call: self.run_sync(call, batching.is_set())
        while True:
            frames = self.receive()
            if len(frames) > 1:
                batching.set()
                for item in frames:
                    self.on_frame(*item)
                batching.clear()
                self.flush_now()
            elif frames:
                self.on_frame(*frames[0])

    def serve_flusher(self):
        """An answer must not wait for a slow neighbour that came in the same read."""
        while True:
            self.batching.wait()
            time.sleep(FLUSH_S)
            self.flush_now()

    def serve_threads(self, slots):
        """Several slots: as many threads take calls from one line."""
        line = queue.Queue()

        def take():
            while True:
                self.run_sync(line.get())

        for number in range(slots):
            thread = threading.Thread(target=ended_by_bugs, args=(take,), name="handler-%d" % number, daemon=True)
            thread.start()
        self.run = line.put
        while True:
            for item in self.receive():
                self.on_frame(*item)

    def serve_async(self, slots):
        """An event loop: a task for each of at most `slots` calls."""
        self.loop = loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.senders = concurrent.futures.ThreadPoolExecutor(slots)
        line, running = collections.deque(), set()

        def start_next():
            while line and len(running) < slots:
                call = line.popleft()
                if call.id in self.calls:
                    task = loop.create_task(self.run_async(call))
                    running.add(task)
                    call.task = task
                    task.add_done_callback(on_done)

        def on_done(task):
            running.discard(task)
            if not task.cancelled() and task.exception() is not None:
                ended_by_bugs(task.result)
            start_next()

        def run(call):
            line.append(call)
            start_next()

        def on_readable():
            for item in self.receive():
                self.on_frame(*item)

        self.run = run
        loop.add_reader(self.data.fileno(), ended_by_bugs, on_readable)
        loop.run_forever()

    # -- control -----------------------------------------------------------

    def serve_control(self):
        """The control thread: what must arrive while a handler runs."""
        while True:
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
                if call is not None:
                    call.credit += int.from_bytes(payload, "big")
                    self.credited.notify_all()

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
            self.credited.notify_all()
            if call.task is None:
                # Sync code that waits for a mesh call shall not wait any longer.
                orphans = [mesh for mesh in self.mesh_calls.values() if mesh.parent is call]
        for mesh in orphans:
            self.end_mesh(mesh, MeshError("client_gone", "the call that this mesh call was made for was cancelled"))
            mesh.done()
        if call.task is not None:
            self.loop.call_soon_threadsafe(call.task.cancel)

    # -- mesh --------------------------------------------------------------

    def on_mesh_frame(self, call_id, kind, flags, payload):
        with self.lock:
            mesh = self.mesh_calls.get(call_id)
            if mesh is None:
                return
            if kind == CREDIT:
                mesh.credit += int.from_bytes(payload, "big")
                self.credited.notify_all()
                return
            if kind == ERROR:
                body = json.loads(payload.decode("utf-8"))
                mesh.error = MeshError(body.get("code", "internal"), body.get("message", ""))
            else:
                if kind == REPLY:
                    payload = payload[REPLY_PREFIX.size + REPLY_PREFIX.unpack_from(payload)[2] :]
                mesh.pieces.append(payload)
                if not flags & LAST:
                    self.out.append(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))
                    self.flush()
                    return
            del self.mesh_calls[call_id]
            self.credited.notify_all()
        mesh.done()

    def end_mesh(self, mesh, error=None):
        """Nobody waits for it any more."""
        with self.lock:
            mesh.error = error
            if self.mesh_calls.pop(mesh.id, None) is not None:
                self.out.append(frame(mesh.id, CANCEL))
                self.flush()
            self.credited.notify_all()

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
                    self.credited.wait()
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
            self.handler, is_async = load_handler(
                settings["source"], settings["handler_file"], settings["handler_name"]
            )
        except BaseException as error:
            cause, text = explain_load(error)
            self.send(json_frame(0, STATE, {"state": "failed", "cause": cause, "traceback": text}))
            leave(1)
        slots = settings["slots"] or (ASYNC_SLOTS if is_async else 1)
        self.send(json_frame(0, STATE, {"state": "ready", "async": is_async, "slots": slots}))
        if is_async:
            self.serve_async(slots)
        elif slots > 1:
            self.serve_threads(slots)
        else:
            self.serve_inline()


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
    handler = getattr(module, name)
    if inspect.isclass(handler):
        handler = handler()
        if not callable(handler):
            raise HandlerMissing("class %s in %s has no __call__(self, req)" % (name, file_name))
    elif not callable(handler):
        raise HandlerMissing("%s in %s is neither a class nor a function" % (name, file_name))
    target = handler if inspect.isroutine(handler) else type(handler).__call__
    return handler, inspect.iscoroutinefunction(target)


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
