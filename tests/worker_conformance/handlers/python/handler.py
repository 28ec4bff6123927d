"""The handler under test in Python, sync: ../../README.md says what it does."""

import json
import os
import time

from dcf import InvalidInputError, Reply, mesh

if os.environ.get("CONFORMANCE_FAIL"):
    raise RuntimeError("CONFORMANCE_FAIL is set")

POLL_S = 0.002


def note(do, what):
    """A line of its own in the file that the test reads."""
    if "log" in do:
        with open(do["log"], "a") as log:
            log.write(what + "\n")


def pattern(size):
    """Bytes that tell where they belong."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def hold(do, request):
    note(do, "started " + do["name"])
    while not os.path.exists(do["until"]) and not request.cancelled:
        time.sleep(POLL_S)
    note(do, "ended " + do["name"])
    return "held " + do["name"]


def about(do, req):
    return {
        "function": req.info.function,
        "replica": req.info.replica,
        "invocation_id": req.invocation_id,
        "header": req.metadata.get("headers", {}).get(do["header"], ""),
        "method": req.metadata.get("method", ""),
        "path": req.metadata.get("path", ""),
        "has_deadline": req.remaining_s is not None,
    }


def mesh_input(do):
    return pattern(do["size"]) if "size" in do else do["text"].encode("utf-8")


def simple(do, req):
    """The commands that never wait."""
    what = do["do"]
    if what == "text":
        return do["text"]
    if what == "json":
        return do["value"]
    if what == "reply":
        return Reply(do["text"], content_type=do["content_type"], metadata=do["metadata"])
    if what == "bytes":
        return pattern(do["size"])
    if what == "fail":
        raise RuntimeError(do["message"])
    if what == "refuse":
        raise InvalidInputError(do["message"])
    if what == "unsendable":
        return object()
    if what == "info":
        return about(do, req)
    if what == "print":
        print(do["text"])
        return "printed"
    raise InvalidInputError("unknown command: " + what)


def stream_of(do):
    """The streams that need nothing of their input."""
    what = do["do"]
    if what == "count":
        for _ in range(do["count"]):
            yield pattern(do["size"])
    elif what == "fail-after":
        for number in range(do["count"]):
            yield str(number).encode()
        raise RuntimeError(do["message"])
    elif what == "kinds":
        yield b"bytes"
        yield "text"
        yield {"json": 1}
    elif what != "nothing":
        raise InvalidInputError("unknown command: " + what)


def waiting(do, req):
    """A stream of one message that then stands still."""
    note(do, "started " + do["name"])
    try:
        yield b"first"
        while not req.cancelled:
            time.sleep(POLL_S)
    finally:
        note(do, "ended " + do["name"])


def batch_of(reqs):
    dos = [json.loads(req.text) for req in reqs]
    for number, do in enumerate(dos):
        if do["do"] == "hold":
            hold(do, reqs[number])
        elif do["do"] == "fail_all":
            raise RuntimeError(do["message"])
    results = [answer_of(do, number, len(reqs)) for number, do in enumerate(dos)]
    return results[:-1] if any(do["do"] == "short" for do in dos) else results


def answer_of(do, number, size):
    """In a batch one call's error is its result."""
    if do["do"] == "fail":
        return RuntimeError(do["message"])
    if do["do"] == "refuse":
        return InvalidInputError(do["message"])
    if do["do"] == "bytes":
        return pattern(do["size"])
    return {"number": number, "size": size}


class Plain:
    """Without streams of input; in batch mode it takes a list."""

    def __call__(self, req):
        if isinstance(req, list):
            return batch_of(req)
        if not req.input.startswith(b"{"):
            return req.input
        do = req.json()
        what = do["do"]
        if what == "hold":
            return hold(do, req)
        if what == "wait":
            while not req.cancelled:
                time.sleep(POLL_S)
            return "cancelled"
        if what == "mesh":
            try:
                return mesh.mesh_call(do["function"], mesh_input(do))
            except mesh.MeshError as error:
                return f"{error.code}: {error}"
        if what == "stream":
            return waiting(do, req) if do["stream"] == "wait" else stream_of(dict(do, do=do["stream"]))
        return simple(do, req)


class StreamOnly:
    def stream(self, requests):
        for req in requests:
            do = req.json() if req.input.startswith(b"{") else {}
            what = do.get("do")
            if what == "echo":
                for message in requests:
                    yield message.input
            elif what == "take":
                for _ in range(do["count"]):
                    next(requests)
                hold(do, requests)
                yield str(sum(1 for _ in requests)).encode()
            elif what == "wait":
                note(do, "started " + do["name"])
                try:
                    yield b"first"
                    for _ in requests:
                        pass
                finally:
                    note(do, "ended " + do["name"])
            elif what is None:
                yield req.input
            else:
                yield from stream_of(do)
            return


class Handler(Plain, StreamOnly):
    pass
