"""One cluster with one gateway for all tests of a module that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.running_gateway import TOKEN, Cluster, Gateway


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, token_file: Path) -> Gateway:
    """With a token; it ends with its cluster."""
    return Gateway(cluster, DCF_TOKEN_FILE=str(token_file))
