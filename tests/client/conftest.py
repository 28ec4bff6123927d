"""A real cluster with the functions that the clients' tests call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Shell, free_port

HANDLERS = {
    "echo": "def Handler(req):\n    print('got', len(req.input), 'bytes')\n    return req.input\n",
    "shape": "def Handler(req):\n    return {'text': req.text, 'headers': req.metadata.get('headers', {})}\n",
    "raiser": "def Handler(req):\n    raise ValueError('bad picture')\n",
    "sleeper": "import time\ndef Handler(req):\n    time.sleep(float(req.text))\n    return 'woke'\n",
    "leaver": "import os\ndef Handler(req):\n    os._exit(3)\n",
}
KEYS = {
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
