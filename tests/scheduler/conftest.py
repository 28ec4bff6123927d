"""A cluster without gateways, for the scheduler's flow tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcf.store.redis_store import RedisStore
from tests.scheduler.processes import Cluster


@pytest.fixture
def cluster(short_path: Path, store: RedisStore, redis_url: str) -> Iterator[Cluster]:
    cluster = Cluster(short_path, store, redis_url)
    yield cluster
    cluster.close()
