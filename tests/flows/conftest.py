"""Clusters for the flow tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Not started; whatever runs in its state folder at the end is stopped."""
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.run("down", check=False, timeout_s=120)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of a module that do not break it."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.run("down", check=False, timeout_s=120)
