"""`invoke --stream` and what `describe` counts, with the real command on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dcf.cli.describe import show_batch, show_queue_wait
from dcf.cli.invoke import write_chunks
from dcf.client import CallStats, Chunk, Function
from tests.cli.conftest import Shell, make_function
from tests.client.conftest import STORY
from tests.conftest import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def story(cluster: Shell) -> Shell:
    """A cluster with `story` deployed."""
    make_function(cluster, "story", STORY, concurrency="4")
    cluster.ok("function", "deploy", "story")
    return cluster


def start(shell: Shell, words: str) -> subprocess.Popen[bytes]:
    return shell.start("function", "invoke", "story", "--stream", "--data", words)


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    """What comes first on stdout, which stays open."""
    assert process.stdout is not None
    data = b""
    while len(data) < size and (piece := os.read(process.stdout.fileno(), size - len(data))):
        data += piece
    return data


def wait_until_closed(shell: Shell, tag: str) -> None:
    def seen() -> bool:
        return f"closed {tag} " in shell.ok("function", "log", "story")

    wait_until(seen, within_s=30, what=f"the end of {tag}")


def test_chunks_are_written_while_the_handler_still_runs(story: Shell, tmp_path: Path) -> None:
    process = start(story, f"running one wait:{tmp_path}/go two")

    first = read(process, 3)
    (tmp_path / "go").touch()
    rest, error = process.communicate(timeout=60)

    assert (first, rest, error, process.returncode) == (b"one", b"two", b"", 0)


def test_chunks_are_written_as_they_are_and_json_ones_as_lines(story: Shell) -> None:
    done = story.dcf("function", "invoke", "story", "--stream", stdin="kinds é bytes json:1 json:2 a b".encode())

    assert done.returncode == 0
    assert done.stdout == "é".encode() + b'\xff\x00{"word": "1"}\n{"word": "2"}\nab'


def test_without_stream_the_answer_comes_whole(story: Shell) -> None:
    assert story.ok("function", "invoke", "story", "--data", "whole a b json:1") == 'ab{"word": "1"}\n'


def test_error_after_some_chunks_is_one_line_after_them(story: Shell) -> None:
    done = story.dcf("function", "invoke", "story", "--stream", "--data", "late a b c boom d")

    assert (done.returncode, done.stdout) == (1, b"abc")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("dcf: handler_error: ")
    assert "boom of late" in line


def test_refusal_before_the_first_chunk_is_one_line(story: Shell, tmp_path: Path) -> None:
    assert "dcf: invalid_input: expected a tag" in story.fails("function", "invoke", "story", "--stream", "-d", "")
    assert "did you mean 'story'" in story.fails("function", "invoke", "stroy", "--stream", "-d", "x")
    assert "deadline_exceeded" in story.fails(
        "function", "invoke", "story", "--stream", "-d", f"timed wait:{tmp_path}/go", "--timeout", "300ms"
    )
    (tmp_path / "go").touch()


def test_ctrl_c_cancels_the_call(story: Shell) -> None:
    process = start(story, "interrupted one flood:5000")
    assert read(process, 3) == b"one"

    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)

    assert (process.returncode, error) == (130, b"")
    wait_until_closed(story, "interrupted")


def test_reader_that_goes_away_cancels_the_call_quietly(story: Shell) -> None:
    process = start(story, "broken one flood:5000")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert read(process, 3) == b"one"

    process.stdout.close()
    error = process.stderr.read()
    process.wait(60)
    process.stdin.close()
    process.stderr.close()

    assert (process.returncode, error) == (1, b"")
    wait_until_closed(story, "broken")


@pytest.mark.parametrize(("outputs", "shown"), [((b"a", b"b"), b"ab\n"), ((b"a\n", b""), b"a\n"), ((), b"")])
def test_prompt_of_a_terminal_is_on_a_line_of_its_own(
    outputs: tuple[bytes, ...],
    shown: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    write_chunks(Chunk(output=output) for output in outputs)

    assert capsysbinary.readouterr().out == shown


def described(shell: Shell, name: str) -> dict[str, Any]:
    facts = json.loads(shell.ok("function", "describe", name, "--output", "json"))
    assert isinstance(facts, dict)
    return facts


def test_describe_says_how_calls_waited_and_how_they_were_batched(cluster: Shell) -> None:
    handler = "def Handler(requests):\n    return [req.input for req in requests]\n"
    make_function(cluster, "batched", handler, batch="{max_size: 8, max_wait: 5ms}")
    cluster.ok("function", "deploy", "batched")

    fresh = cluster.ok("function", "describe", "batched")
    cluster.ok("function", "invoke", "batched", "--data", "x")
    wait_until(lambda: described(cluster, "batched")["calls"]["batches"], within_s=30, what="the count")
    facts = described(cluster, "batched")
    table = dict(line.split("   ", 1) for line in cluster.ok("function", "describe", "batched").splitlines() if line)

    assert "Queue wait" not in fresh
    assert [line.split(None, 1)[1] for line in fresh.splitlines() if line.startswith("Batch")] == [
        "at most 8, waits 5 ms"
    ]
    assert (facts["calls"]["batches"], facts["calls"]["batchSizeMean"]) == (1, 1)
    assert facts["calls"]["queueWaitP99S"] >= facts["calls"]["queueWaitMeanS"] > 0
    assert table["Batch"].strip() == "at most 8, waits 5 ms; 1 call a batch on average, 1 batch"
    assert table["Queue wait"].strip().startswith("mean ")


def function(calls: CallStats, *, count: int = 1, batch: dict[str, Any] | None = None) -> Function:
    return Function(name="f", image="i", invocation_count=count, calls=calls, spec={"batch": batch} if batch else {})


@pytest.mark.parametrize(
    ("mean_s", "p99_s", "said"),
    [
        (0.0012, 0.005, "mean 1.2 ms, 99 % within 5 ms"),
        (0.00001234, 0.001, "mean 0.0123 ms, 99 % within 1 ms"),
        (0.99999, 60.0, "mean 1 s, 99 % within 60 s"),
        (1234.5, 0.25, "mean 1230 s, 99 % within 250 ms"),
    ],
)
def test_waits_are_said_in_three_digits(mean_s: float, p99_s: float, said: str) -> None:
    calls = CallStats(queue_wait_mean_s=mean_s, queue_wait_p99_s=p99_s)

    assert show_queue_wait(function(calls)) == said
    assert show_queue_wait(function(calls, count=0)) == ""


def test_batches_are_said_where_a_function_is_batched() -> None:
    calls = CallStats(batches=120, batch_size_mean=5.31)

    assert show_batch(function(calls)) == ""
    assert show_batch(function(CallStats(), batch={"maxSize": 8})) == "at most 8"
    assert show_batch(function(calls, batch={"maxSize": 8, "maxWait": "5ms"})) == (
        "at most 8, waits 5 ms; 5.3 calls a batch on average, 120 batches"
    )
