"""Writes a video of three coloured shapes that move: a circle, a rectangle and a triangle.

python make_video.py [shapes.avi]
"""

import os
import sys

try:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what goes wrong is said in one line of ours
    import cv2
    import numpy as np
except ImportError:
    sys.exit("make_video.py: OpenCV is missing: pip install opencv-python-headless")

WIDTH, HEIGHT = 640, 360
FRAMES, FRAMES_PER_S = 120, 30
RADIUS = 40  # of each shape, in pixels
RED, GREEN, BLUE, DARK = (40, 40, 230), (60, 200, 60), (230, 110, 30), (40, 32, 32)


def centres(number: int) -> dict[str, tuple[int, int]]:
    """Where the shapes are in frame `number`: name to (x, y), in pixels from the top left corner."""
    part = number / (FRAMES - 1)
    return {
        "circle": (round(60 + 520 * part), 70),
        "rectangle": (round(580 - 520 * part), 180),
        "triangle": (round(60 + 520 * part), 290),
    }


def draw(number: int) -> np.ndarray:
    """Frame `number`: rows, columns, blue-green-red."""
    frame = np.full((HEIGHT, WIDTH, 3), DARK, np.uint8)
    at = centres(number)
    cv2.circle(frame, at["circle"], RADIUS, RED, cv2.FILLED)
    x, y = at["rectangle"]
    cv2.rectangle(frame, (x - RADIUS, y - RADIUS), (x + RADIUS, y + RADIUS), BLUE, cv2.FILLED)
    x, y = at["triangle"]
    corners = [(x - RADIUS, y + RADIUS), (x, y - RADIUS), (x + RADIUS, y + RADIUS)]
    cv2.fillPoly(frame, [np.array(corners, np.int32)], GREEN)
    return frame


def write(path: str) -> None:
    """Write all frames to `path`; the codec is Motion JPEG, which every build of OpenCV has."""
    video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), FRAMES_PER_S, (WIDTH, HEIGHT))
    if not video.isOpened():
        sys.exit(f"make_video.py: cannot write {path}: expected a name that ends with .avi, in a folder that is there")
    for number in range(FRAMES):
        video.write(draw(number))
    video.release()


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    name = sys.argv[1] if len(sys.argv) > 1 else "shapes.avi"
    write(name)
    print(f"wrote {name}: {FRAMES} frames of {WIDTH} x {HEIGHT}, {FRAMES_PER_S} a second")
