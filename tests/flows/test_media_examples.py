"""Sound and video: the examples' own READMEs, and what is then on the pictures.

pytest's interpreter has neither OpenCV nor Pillow. Pixels are looked at with the
environments that the READMEs' commands make: the function's, and the client's.
"""

from __future__ import annotations

import array
import json
import math
import re
import signal
import struct
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.cluster import Cluster, free_port, until
from tests.flows.user import User, run_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

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
