"""A real cluster with the functions that the clients' tests call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Shell, free_port

STORY = """
import os, time, dcf

def wait_for(path):
    end = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.01)

def Handler(req):
    tag, *words = req.text.split() or [""]
    if not tag:
        raise dcf.InvalidInputError("expected a tag and words")
    made = 0
    try:
        for word in words:
            kind, _, rest = word.partition(":")
            if kind == "wait":
                wait_for(rest)
            elif kind == "boom":
                raise ValueError("boom of " + tag)
            elif kind == "json":
                yield {"word": rest}
            elif kind == "bytes":
                yield b"\\xff\\x00"
            elif kind == "reply":
                yield dcf.Reply("a,b", content_type="text/csv", metadata={"X-Rows": "1"})
            elif kind == "many":
                for made in range(1, int(rest) + 1):
                    yield "."
            elif kind == "flood":
                for made in range(1, int(rest) + 1):
                    yield b"x" * 65536
                    if made % 16 == 0:
                        print("made", tag, made)
            else:
                yield word
    finally:
        print("closed", tag, made)
"""
TALK = """
class Handler:
    def stream(self, requests):
        heard = 0
        try:
            yield "hello"
            for req in requests:
                heard += 1
                if req.text == "boom":
                    raise ValueError("boom after %d" % heard)
                if req.text == "enough":
                    return
                yield "heard " + req.text
            yield "bye"
        finally:
            print("closed", requests.metadata.get("headers", {}).get("X-Tag"), heard)
"""
HANDLERS = {
    "story": STORY,
    "talk": TALK,
    "echo": "def Handler(req):\n    print('got', len(req.input), 'bytes')\n    return req.input\n",
    "shape": "def Handler(req):\n    return {'text': req.text, 'headers': req.metadata.get('headers', {})}\n",
    "raiser": "def Handler(req):\n    raise ValueError('bad picture')\n",
    "sleeper": "import time\ndef Handler(req):\n    time.sleep(float(req.text))\n    return 'woke'\n",
    "leaver": "import os\ndef Handler(req):\n    os._exit(3)\n",
}
KEYS = {
    "story": "concurrency: 4",
    "talk": "concurrency: 4",
    "raiser": "debug: true",
    "shape": "max_payload: 1Ki",
    "sleeper": "kill_after: 1s",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with HANDLERS deployed."""
    shell = Shell(tmp_path_factory.mktemp("c"))
    address = f"127.0.0.1:{free_port()}"
    config = shell.folder / "config.yaml"
    lines = ["functions:"]
    for name, handler in HANDLERS.items():
        source = shell.folder / name
        source.mkdir()
        (source / "handler.py").write_text(handler)
        lines += [f"  {name}:", "    runtime: python", f"    handler: {{dir: ./{name}}}"]
        lines += [f"    {KEYS[name]}"] if name in KEYS else []
    config.write_text("\n".join(lines) + "\n")
    shell.ok("up", "--detach", "--listen", address)
    try:
        shell.ok("function", "build")
        shell.ok("function", "deploy")
        yield address
    finally:
        shell.ok("down")
