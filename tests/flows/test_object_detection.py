"""The object_detection example: its README, and whether what it finds is what was drawn."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.cluster import Cluster
from tests.flows.user import User

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def detection(shared_cluster: Cluster) -> Iterator[User]:
    user = User(shared_cluster, "object_detection")
    user.make_environment()
    user.follow_readme()
    yield user
    shared_cluster.run("function", "delete", "object_detection")


def overlap(one: list[int], other: list[int]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, wide) * max(0, high)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def pairs(answer: dict[str, Any], truth: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each object that was drawn with the one that was found in its place."""
    return [
        (drawn, found)
        for drawn in truth
        for found in answer["objects"]
        if found["class"] == drawn["class"] and overlap(found["box"], drawn["box"]) > 0.7
    ]


def test_what_was_drawn_is_found_where_it_was_drawn(detection: User) -> None:
    *_, drawn, answered = detection.said.strip().splitlines()
    truth, answer = json.loads(drawn), json.loads(answered)

    assert answer["device"] == "cpu", "this replica was given no GPU"
    assert len(answer["objects"]) == len(truth) == len(pairs(answer, truth)), (truth, answer)
    assert all(0.6 <= found["confidence"] <= 1 for found in answer["objects"])
    trained = re.search(r"^(\d+) of (\d+) new objects found, (\d+) false ones", detection.said, re.MULTILINE)
    assert trained is not None
    right, wanted, wrong = map(int, trained.groups())
    assert right >= 0.95 * wanted
    assert wrong <= 0.05 * wanted


def test_scenes_that_it_never_saw_are_read_as_well(detection: User) -> None:
    drawn = found = matched = 0
    for number in range(100, 110):
        truth = json.loads(detection.type(f"python scenes.py scene.png {number}").stdout)
        status, kind, body = detection.call("object_detection", (detection.folder / "scene.png").read_bytes())
        assert (status, kind) == (200, "application/json")
        answer = json.loads(body)
        drawn, found = drawn + len(truth), found + len(answer["objects"])
        matched += len(pairs(answer, truth))

    assert drawn > 50
    assert matched >= 0.95 * drawn, (matched, drawn)
    assert found - matched <= 0.05 * drawn, (matched, found)


def test_a_picture_with_nothing_on_it_has_no_objects_and_no_picture_is_refused(detection: User) -> None:
    plain = 'import cv2, numpy; cv2.imwrite("plain.png", numpy.full((3000, 200, 3), 90, "uint8"))'
    detection.type(f"python -c '{plain}'")
    _, _, body = detection.call("object_detection", (detection.folder / "plain.png").read_bytes())

    assert json.loads(body)["objects"] == []
    for wrong in (b"", b"no picture"):
        detection.assert_invalid("object_detection", wrong, "not a picture")
    log = detection.type("dcf function log object_detection").stdout
    assert "detecting on cpu: CuPy cannot" in log


# What CuPy has of NumPy is NumPy's: a module of its name shows which device the handler would choose.
STAND_IN = """
import os

from numpy import *
from numpy import asarray as asnumpy

if os.environ.get("CUPY_FAILS"):
    def ones(*_):
        raise RuntimeError("cudaErrorInsufficientDriver")
"""


def test_with_cupy_and_a_gpu_the_arithmetic_is_cupys_and_the_answer_names_the_gpu(detection: User) -> None:
    (detection.folder / "stand-in").mkdir(exist_ok=True)
    (detection.folder / "stand-in" / "cupy.py").write_text(STAND_IN)
    look = "import network; xp, device, why = network.find_device(); print(xp.__name__, device, why)"

    def chosen(**environ: str) -> str:
        python, paths = detection.function_python("object_detection"), ("stand-in", "src")
        search = os.pathsep.join(str(detection.folder / path) for path in paths)
        done = subprocess.run(
            [python, "-c", look], env=environ | {"PYTHONPATH": search}, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert chosen(CUDA_VISIBLE_DEVICES="GPU-aaaa,GPU-bbbb") == "cupy cuda:GPU-aaaa"
    assert chosen() == "cupy cuda:0"
    assert chosen(CUPY_FAILS="1") == "numpy cpu CuPy cannot use a GPU (cudaErrorInsufficientDriver)"
