"""Each example builds, and its handler answers in the Python that the build made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dcf.build.bundle import build_function
from dcf.build.project import load_project

EXAMPLES = Path(__file__).parents[2] / "examples"
# What a worker does, as far as these handlers see it.
CALL = """
import json, sys
sys.path.insert(0, ".")
import handler

class Request:
    def __init__(self, data):
        self.input = data
    @property
    def text(self):
        return self.input.decode()

made = handler.Handler()
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        try:
            print(json.dumps(made(Request(file.read()))))
        except ValueError as error:
            print(json.dumps("ValueError: %s" % error))
"""


def answers(example: str, bundles: Path, *inputs: Path) -> list[object]:
    config = load_project(EXAMPLES / example).function(example)
    result = build_function(config, bundles, on_output=print)
    assert result.manifest is not None
    assert result.folder is not None
    said = subprocess.run(
        [*result.manifest.command, "-c", CALL, *(str(path) for path in inputs)],
        cwd=result.folder / "src", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.slow
def test_hello_greets(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("World\n")
    (tmp_path / "nobody").write_text("")

    assert answers("hello", tmp_path / "bundles", tmp_path / "name", tmp_path / "nobody") == [
        "Hello World\n",
        "Hello DCF\n",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digits_reads_every_sample_and_refuses_what_is_none(tmp_path: Path) -> None:
    samples = sorted((EXAMPLES / "digits/samples").glob("*.png"))
    (tmp_path / "text").write_text("no picture")

    *read, refused = answers("digits", tmp_path / "bundles", *samples, tmp_path / "text")

    assert len(read) == 11
    for sample, answer in zip(samples, read, strict=True):
        assert isinstance(answer, dict)
        assert answer["digit"] == int(sample.name[0]), sample
        assert len(answer["probabilities"]) == 10
        assert sum(answer["probabilities"]) == pytest.approx(1.0, abs=0.01)
    assert str(refused).startswith("ValueError: the input is not a picture")
