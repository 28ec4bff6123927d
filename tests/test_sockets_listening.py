"""Whether somebody listens, asked without gRPC."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path

from dcf.sockets import is_listening


async def test_a_socket_is_found_at_whatever_path_and_port(tmp_path: Path, short_path: Path) -> None:
    odd = short_path / "a:b.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", 0)) as tcp:
        server.bind(str(odd))
        assert not await is_listening(f"unix:{odd}"), "bound, and nobody listens"
        server.listen()

        assert await is_listening(f"unix:{odd}")
        assert await is_listening(f"127.0.0.1:{tcp.getsockname()[1]}")
    assert not await is_listening(f"unix:{odd}")
    assert not await is_listening(f"unix:{tmp_path}/none.sock")
    assert not await is_listening(f"127.0.0.1:{tcp_port_of_nobody()}")


def tcp_port_of_nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_a_process_without_descriptors_is_answered_no_and_asks_again(short_path: Path) -> None:
    path = short_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert not await is_listening(f"unix:{path}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await is_listening(f"unix:{path}")
        await asyncio.sleep(0)
