"""Where sockets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcf.errors import ConfigError
from dcf.sockets import leave_sockets, socket_path


def test_a_socket_is_in_the_state_folder_where_its_path_fits(short_path: Path) -> None:
    path = socket_path(short_path, "redis.sock")

    assert path.is_relative_to(short_path)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_deep_state_folder_has_its_sockets_elsewhere_and_always_there(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)

    path = socket_path(deep, "redis.sock")

    assert len(os.fsencode(path)) < 100
    assert path == socket_path(deep, "redis.sock")
    assert path.parent != socket_path(tmp_path / ("d" * 60) / ("f" * 60), "redis.sock").parent
    path.parent.rmdir()
    socket_path(tmp_path / ("d" * 60) / ("f" * 60), "redis.sock").parent.rmdir()


def test_the_longest_name_fits_too(short_path: Path) -> None:
    name = "f" * 63 + "-g1000-999.sock"

    path = socket_path(short_path / ("d" * 30), name)

    assert len(os.fsencode(path)) < 100
    if not path.is_relative_to(short_path):
        path.parent.rmdir()


def test_a_folder_of_somebody_else_is_refused(short_path: Path) -> None:
    (short_path / "elsewhere").mkdir()
    (short_path / "sockets").symlink_to(short_path / "elsewhere")

    with pytest.raises(ConfigError, match="somebody else"):
        socket_path(short_path, "redis.sock")


def test_a_folder_that_cannot_be_made_is_named(short_path: Path) -> None:
    (short_path / "state").write_text("")

    with pytest.raises(ConfigError, match="state"):
        socket_path(short_path / "state", "redis.sock")


def test_what_a_deep_state_folder_had_elsewhere_is_removed_once_it_is_empty(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 30)
    socket = socket_path(state, "redis.sock")
    socket.touch()

    leave_sockets(state)
    assert socket.exists()
    socket.unlink()
    leave_sockets(state)

    assert not socket.parent.exists()
