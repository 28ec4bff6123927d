"""Sound, video, objects: the examples' own READMEs, and what is then on the pictures.

pytest's interpreter has neither OpenCV nor Pillow. Pixels are looked at with the
environments that the READMEs' commands make: the function's, and the client's.
"""

from __future__ import annotations

import array
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dcf.build.bundle import resolve_bundle
from tests.flows.cluster import Cluster, free_port, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples"
IGNORED = shutil.ignore_patterns("__pycache__", "*.avi", "*.wav", "weights.npz", "scene.png")
"""What whoever followed the README in the example's own folder has made."""
INSTALL_S = 300.0
"""For a command of a README: the longest installs OpenCV, 60 MB."""

# Prints a line of JSON a frame: its rows and columns, and blue, green and red at the points that are asked for.
LOOK_AT_VIDEO = """
import json, sys
import cv2
video = cv2.VideoCapture(sys.argv[1])
points = json.loads(sys.argv[2])
while True:
    read, frame = video.read()
    if not read:
        break
    print(json.dumps([frame.shape[:2], [frame[y, x].tolist() for x, y in points]]))
"""
# Prints the brightness of every pixel, row by row from the top.
LOOK_AT_PICTURE = """
import json, sys
from PIL import Image
grey = Image.open(sys.argv[1]).convert("RGB").convert("L")
rows = list(grey.tobytes())
print(json.dumps([rows[at : at + grey.width] for at in range(0, len(rows), grey.width)]))
"""


class User:
    """Types the commands of an example's README, in a copy of its folder, in an environment of their own."""

    def __init__(self, cluster: Cluster, example: str) -> None:
        self.cluster = cluster
        self.folder = cluster.work / example
        shutil.copytree(EXAMPLES / example, self.folder, ignore=IGNORED)
        self.environ = {**cluster.environ, "DCF_GATEWAY": cluster.address, "PATH": os.environ["PATH"]}
        self.add_to_path(Path(sys.executable).parent)  # `dcf`, and a `python` that can import it

    def add_to_path(self, folder: Path) -> None:
        self.environ["PATH"] = f"{folder}{os.pathsep}{self.environ['PATH']}"

    def make_environment(self) -> None:
        """What "the virtual environment where DCF is installed" is for this user: pip installs into it alone."""
        venv = self.folder.parent / "client-venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=INSTALL_S)
        ours = sysconfig.get_path("purelib")
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        link = f"import site; site.addsitedir({ours!r})\n"  # with its .pth files: DCF itself may be one
        (venv / "lib" / python / "site-packages" / "dcf-is-installed.pth").write_text(link)
        self.add_to_path(venv / "bin")

    def follow_readme(self) -> None:
        """Run its first block of commands as they stand there, but for the address; `said` is all they print."""
        block = re.search(r"^```\n(.*?)^```$", (self.folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert block is not None
        self.said = "".join(self.type(line).stdout for line in block[1].splitlines())

    def type(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", "-c", line.replace("127.0.0.1:32222", self.cluster.address)],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=INSTALL_S,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"$ {line}\n{done.stdout}\n{done.stderr}\n{self.cluster.logs()}")
        return done

    def load(self, name: str) -> ModuleType:
        """A script of the example, for the numbers in it. It must not need what pytest does not have."""
        spec = importlib.util.spec_from_file_location(name, self.folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def function_python(self, function: str) -> str:
        """The interpreter that the build made for a function."""
        image = self.cluster.function(function)["image"]
        manifest, _ = resolve_bundle(Path(self.environ["DCF_BUNDLES"]), image)
        return str(manifest.command[0])

    def call(self, function: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of one call over HTTP."""
        request = urllib.request.Request(f"{self.cluster.url}/function/{function}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers["Content-Type"], reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def assert_invalid(self, function: str, body: bytes, text: str) -> None:
        status, _, answer = self.call(function, body)
        error = json.loads(answer)["error"]
        assert (status, error["code"]) == (400, "invalid_input"), error
        assert text in error["message"], error


def run_python(python: str, code: str, *args: str) -> str:
    done = subprocess.run([python, "-c", code, *args], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


# -- video -----------------------------------------------------------------


@pytest.fixture(scope="module")
def video(shared_cluster: Cluster) -> Iterator[User]:
    """Its README was followed."""
    user = User(shared_cluster, "video")
    user.make_environment()
    user.follow_readme()
    yield user
    shared_cluster.run("function", "delete", "video")


def test_every_frame_comes_back_with_its_shapes_outlined(video: User) -> None:
    said = video.said
    assert re.search(r"^outlined\.avi: 120 frames, [\d.]+ frames/s$", said, re.MULTILINE), said
    assert re.search(r"^round trip: median [\d.]+ ms, max [\d.]+ ms, ", said, re.MULTILINE), said

    # In the frame with this number: of a shape whose half is 40 pixels, a corner of the box around it, what is
    # there of the shape itself, and a place of the box's inside that the shape does not fill.
    number, half = 60, 40
    centres = json.loads(
        video.type(f"python -c 'import json, make_video; print(json.dumps(make_video.centres({number})))'").stdout
    )
    x, y = centres["circle"]
    points = [(x - half, y - half), (x + half, y + half), (x, y), (x - half + 6, y - half + 6)]
    sent, came = (look_at_video(video, name, points) for name in ("shapes.avi", "outlined.avi"))

    assert len(sent) == len(came) == 120
    assert all(shape == [360, 640] for shape, _ in came)
    corners, middle, gap = came[number][1][:2], came[number][1][2], came[number][1][3]
    assert all(min(colour) > 180 for colour in corners), came[number]
    assert all(max(colour) < 90 for colour in sent[number][1][:2]), sent[number]
    assert all(abs(a - b) < 30 for a, b in zip(middle, sent[number][1][2], strict=True))
    assert middle[2] > 180 > 90 > middle[0]
    assert max(gap) < 90
    # The circle moves: elsewhere in time there is no box here, and so the order of the frames is right.
    for other in (number - 20, number + 20):
        assert max(came[other][1][0]) < 90, came[other]


def look_at_video(video: User, name: str, points: list[tuple[int, int]]) -> list[Any]:
    printed = run_python(video.function_python("video"), LOOK_AT_VIDEO, str(video.folder / name), json.dumps(points))
    return [json.loads(line) for line in printed.splitlines()]


def test_two_replicas_keep_the_order_of_the_frames(video: User) -> None:
    video.type("dcf function scale video 2")
    until(lambda: video.cluster.function("video")["availableReplicas"] == 2, what="two replicas")
    video.type("python client.py shapes.avi --output again.mp4 --in-flight 32")

    x, y = 20, 30  # where the first frame has the box of the circle
    came = [colours[0] for _, colours in look_at_video(video, "again.mp4", [(x, y)])]
    assert len(came) == 120
    assert min(came[0]) > 150
    assert all(max(colour) < 100 for colour in came[8:])


def test_a_frame_that_is_no_picture_is_refused(video: User) -> None:
    for body in (b"", b"no picture", b"\xff\xd8\xff\xe0 and then no JPEG"):
        video.assert_invalid("video", body, "not a picture")
    status, kind, answer = video.call("video", one_frame(video))
    assert (status, kind, answer[:2]) == (200, "image/jpeg", b"\xff\xd8")


def one_frame(video: User) -> bytes:
    video.type("python -c 'import cv2, make_video; cv2.imwrite(\"frame.png\", make_video.draw(0))'")
    return (video.folder / "frame.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("nowhere.avi", ["nowhere.avi", "not there"]),
        ("README.md", ["README.md", "not a video"]),
        ("--camera 93", ["no camera 93"]),
        ("shapes.avi -o out.gif", ["out.gif", ".avi or .mp4"]),
        ("shapes.avi -o nowhere/out.avi", ["nowhere/out.avi", "folder"]),
        ("shapes.avi -o isfolder.avi", ["isfolder.avi", "cannot write"]),
        ("shapes.avi --function nobody", ["frame 0", "nobody", "NOT_FOUND"]),
        ("shapes.avi --gateway 127.0.0.1:PORT", ["no gateway", "dcf up"]),
    ],
)
def test_the_client_says_what_is_wrong_in_one_line(video: User, options: str, words: list[str]) -> None:
    (video.folder / "isfolder.avi").mkdir(exist_ok=True)
    done = video.type(f"python client.py {options.replace('PORT', str(free_port()))}", check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("client.py: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_ctrl_c_ends_the_video_after_the_frames_in_flight(video: User) -> None:
    """A camera never ends by itself. Test machines have none: this one is drawn."""
    script = (
        "import itertools, cv2, client, make_video\n"
        "class Camera:\n"
        "    numbers = itertools.count()\n"
        "    def __init__(self, *_): pass\n"
        "    def isOpened(self): return True\n"
        "    def get(self, _): return 0.0\n"
        "    def read(self): return True, make_video.draw(next(self.numbers) % 120)\n"
        "cv2.VideoCapture = Camera\n"
        "client.main()\n"
    )
    (video.folder / "endless.py").write_text(script)
    child = subprocess.Popen(
        ["python", "endless.py", "--camera", "0", "-o", "camera.avi"],
        cwd=video.folder, env=video.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: (video.folder / "camera.avi").exists(), what="the first frames")
        child.send_signal(signal.SIGINT)
        said, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()

    assert (child.returncode, errors) == (0, "")
    frames = int(re.search(r"camera\.avi: (\d+) frames", said)[1])  # type: ignore[index]
    assert len(look_at_video(video, "camera.avi", [])) == frames > 0


# -- objects ---------------------------------------------------------------


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


# -- sound -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stft(shared_cluster: Cluster) -> Iterator[User]:
    user = User(shared_cluster, "stft")
    user.follow_readme()
    yield user
    shared_cluster.run("function", "delete", "stft")


def test_the_tone_is_a_level_line_and_the_chirp_rises(stft: User) -> None:
    picture = look_at_picture(stft, stft.folder / "chirp.png")
    made = stft.load("make_wav")
    height, width = len(picture), len(picture[0])

    def row_of(hertz: float) -> int:
        return height - 1 - round(hertz / (made.RATE / 2) * height)

    low, high = made.CHIRP_HZ
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        column = [row[round(part * width)] for row in picture]
        bright = {at for at, light in enumerate(column) if light > 150}
        tone, chirp = row_of(made.TONE_HZ), row_of(low + (high - low) * part)
        assert any(abs(at - tone) <= 1 for at in bright), part
        assert any(abs(at - chirp) <= 2 for at in bright), part
        assert all(abs(at - tone) <= 3 or abs(at - chirp) <= 12 for at in bright), part
        dark = [light for at, light in enumerate(column) if abs(at - tone) > 8 and abs(at - chirp) > 30]
        assert max(dark) < 30, part


def look_at_picture(stft: User, path: Path) -> list[list[int]]:
    return json.loads(run_python(stft.function_python("stft"), LOOK_AT_PICTURE, str(path)))  # type: ignore[no-any-return]


RATE = 8_000


def sine(hertz: float) -> list[float]:
    return [0.8 * math.sin(2 * math.pi * hertz * number / RATE) for number in range(RATE)]


def wav(path: Path, bits: int, *channels: list[float]) -> bytes:
    """Written by Python's own module: integers, those of 8 bits without a sign."""
    most = 2 ** (bits - 1) - 1
    frames = bytearray()
    for values in zip(*channels, strict=True):
        for value in values:
            number = round(value * most)
            frames += bytes([number + 128]) if bits == 8 else number.to_bytes(bits // 8, "little", signed=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(bits // 8)
        file.setframerate(RATE)
        file.writeframes(bytes(frames))
    return path.read_bytes()


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_width_is_read_and_stereo_is_mixed_down(stft: User, tmp_path: Path, bits: int) -> None:
    one, other = sine(1_000), sine(3_000)
    for name, channels, tones in (("mono", (one,), {1_000}), ("stereo", (one, other), {1_000, 3_000})):
        status, kind, answer = stft.call("stft", wav(tmp_path / f"{name}.wav", bits, *channels))
        assert (status, kind) == (200, "image/png")
        (tmp_path / f"{name}.png").write_bytes(answer)
        picture = look_at_picture(stft, tmp_path / f"{name}.png")

        column = [row[400] for row in picture]
        for hertz in (1_000, 2_000, 3_000):
            row = len(picture) - 1 - round(hertz / (RATE / 2) * len(picture))
            light = max(column[row - 1 : row + 2])
            # 8 bits have noise of their own, 50 dB below the tone.
            assert light > 200 if hertz in tones else light < 100, (name, hertz, light)


def header(form: int, bits: int, extra: bytes = b"") -> bytes:
    return struct.pack("<HHIIHH", form, 1, RATE, RATE * bits // 8, bits // 8, bits) + extra


def riff(fmt: bytes, data: bytes, *, said_bytes: int | None = None) -> bytes:
    size = len(data) if said_bytes is None else said_bytes
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"LIST" + struct.pack("<I", 3) + b"odd\0"  # a chunk that nobody asked for, of an odd length
    body += b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_the_newer_header_and_a_recording_that_was_cut_off_are_read(stft: User) -> None:
    data = array.array("h", [round(value * 32_767) for value in sine(1_000)]).tobytes()
    extensible = struct.pack("<HHI", 22, 16, 0) + b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"

    whole = stft.call("stft", riff(header(1, 16), data))
    assert whole[:2] == (200, "image/png")
    assert stft.call("stft", riff(header(0xFFFE, 16, extensible), data)) == whole
    assert stft.call("stft", riff(header(1, 16), data, said_bytes=0xFFFFFFFF)) == whole
    assert stft.call("stft", riff(header(1, 16), data[:2]))[0] == 200  # one sample
    assert stft.call("stft", riff(header(1, 16), bytes(200)))[0] == 200  # silence


def test_what_is_no_sound_is_refused_with_the_reason(stft: User) -> None:
    wrong = {
        "the input is empty": b"",
        "not a .wav file": b"ID3\x03 an MP3 file",
        "no whole fmt and data": riff(header(1, 16), b"")[:20],
        "no samples": riff(header(1, 16), b""),
        "format 85 (MP3)": riff(header(85, 16), b"1234"),
        "format 7 (mu-law)": riff(header(7, 8), b"1234"),
        "format 3 (floating point)": riff(header(3, 32), b"1234"),
        "12 bits": riff(header(1, 12), b"1234"),
    }
    for text, body in wrong.items():
        stft.assert_invalid("stft", body, text)
