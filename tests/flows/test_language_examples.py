"""Examples in other languages: their READMEs' commands, and what those print."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcf.build.toolchains import find_go
from dcf.client import Client
from tests.flows.cluster import Cluster, until
from tests.flows.user import User

pytestmark = pytest.mark.slow

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def go_echo(shared_cluster: Cluster) -> User:
    user = User(shared_cluster, "go_echo")
    user.follow_readme()
    return user


def test_go_echo_answers_whole_and_as_a_stream(shared_cluster: Cluster, go_echo: User) -> None:
    assert go_echo.said.endswith("Hello\nHELLO")

    with Client(shared_cluster.address) as client:
        chunks = [chunk.output for chunk in client.converse("go_echo", ["one", "two", "three"])]
    assert chunks == [b"one", b"two", b"three"]


def test_the_handler_of_go_echo_is_tested_as_go_programmers_do_it(go_echo: User) -> None:
    go_echo.add_to_path(Path(find_go().path).parent)
    go_echo.type("cd src && GOFLAGS= GOPROXY=off go test ./...")


def test_pipeline_crosses_languages_with_one_trace(shared_cluster: Cluster) -> None:
    user = User(shared_cluster, "pipeline")
    user.follow_readme()
    assert "be 2, to 2, not 1\n" in user.said

    for name in ("report", "words"):
        line = f"{name} {TRACE}"
        until(lambda line=line, name=name: line in shared_cluster.run("function", "log", name).stdout, what=line)
    direct = user.call("words", b"To be, to BE")
    assert direct == (200, "application/json", b'{"be":2,"to":2}')


def test_node_words_says_them_one_by_one_and_sees_who_goes(shared_cluster: Cluster) -> None:
    user = User(shared_cluster, "node_words")
    user.follow_readme()
    assert user.said.endswith("to be or not to be" * 2)

    with Client(shared_cluster.address) as client:
        chunks = client.stream("node_words", "word " * 90)
        assert next(chunks).text == "word "
        chunks.close()
    said = "of 90 words"
    until(lambda: said in shared_cluster.run("function", "log", "node_words").stdout, what=said)
    assert "said 90 of 90" not in shared_cluster.run("function", "log", "node_words").stdout
