"""Draws pictures of shapes, and says what is on them.

python scenes.py [scene.png] [number]
"""

import json
import sys

try:
    import cv2
    import numpy as np
except ImportError:
    sys.exit("scenes.py: OpenCV is missing: pip install opencv-python-headless")

WIDTH, HEIGHT = 640, 480
CLASSES = ("circle", "square", "triangle", "star", "cross")
OBJECTS = (5, 9)  # in one picture, from and to
RADIUS = (18, 46)  # of a shape, in pixels
DISTRACTORS = 5  # lines and letters, which are none of the classes
GAP = 10  # pixels between two things


def draw(number):
    """(picture: rows, columns, blue-green-red; [(class, left, top, width, height)]); the same for the same number."""
    random = np.random.default_rng(number)
    picture = background(random)
    taken = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects = []
    for _ in range(random.integers(*OBJECTS)):
        name = CLASSES[random.integers(len(CLASSES))]
        radius = int(random.integers(*RADIUS))
        centre = free_place(random, taken, radius)
        if centre is None:
            continue
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(mask, [outline(name, centre, radius, random.uniform(0, 2 * np.pi))], 255, cv2.LINE_AA)
        paint(picture, mask, colour_on(random, picture[centre[1], centre[0]]))
        objects.append((name, *cv2.boundingRect((mask > 127).astype(np.uint8))))
    for _ in range(DISTRACTORS):
        distract(random, picture, taken)
    picture += random.uniform(1, 5) * random.standard_normal(picture.shape, np.float32)  # of a camera
    return np.clip(picture, 0, 255).astype(np.uint8), objects


def background(random):
    """Two colours that run into each other."""
    corners = random.uniform(20, 235, (2, 2, 3)) * 0.5 + random.uniform(20, 235, 3) * 0.5
    return cv2.resize(corners.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def free_place(random, taken, radius):
    """A centre where nothing is within reach, which is then taken; None where there is no room."""
    reach = radius + GAP
    for _ in range(30):
        x, y = int(random.integers(reach, WIDTH - reach)), int(random.integers(reach, HEIGHT - reach))
        around = taken[y - reach : y + reach, x - reach : x + reach]
        if not around.any():
            around[:] = 1
            return x, y
    return None


def colour_on(random, below):
    """A colour that can be told from what is below it."""
    while True:
        colour = random.uniform(0, 255, 3)
        if np.abs(colour - below).max() > 70:
            return colour


def outline(name, centre, radius, angle):
    """The corners of a shape, turned by `angle`."""
    if name == "circle":
        reaches = np.ones(40)
    elif name == "square":
        reaches = np.ones(4)
    elif name == "triangle":
        reaches = np.ones(3)
    elif name == "star":
        reaches = np.tile([1.0, 0.42], 5)
    else:  # a cross: four arms, each with two outer corners and an inner one between two arms
        arm = 0.3
        outer = np.hypot(1, arm)
        turn = np.arctan(arm)
        angles = np.concatenate([[k - turn, k + turn, k + np.pi / 4] for k in np.arange(4) * np.pi / 2])
        reaches = np.tile([1.0, 1.0, arm * np.sqrt(2) / outer], 4)
        return corners(centre, radius, reaches, angles + angle)
    return corners(centre, radius, reaches, angle + np.arange(len(reaches)) * 2 * np.pi / len(reaches))


def corners(centre, radius, reaches, angles):
    """(x, y) of each corner, in whole pixels."""
    offsets = radius * reaches[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.round(np.array(centre) + offsets).astype(np.int32)


def paint(picture, mask, colour):
    """Lay a colour over the picture where the mask is; changes `picture`."""
    left, top, width, height = cv2.boundingRect(mask)
    part = picture[top : top + height, left : left + width]
    share = (mask[top : top + height, left : left + width] / np.float32(255))[:, :, None]
    part += (colour.astype(np.float32) - part) * share


def distract(random, picture, taken):
    """Draw a bent line or a letter; changes `picture` and `taken`."""
    radius = int(random.integers(15, 35))
    centre = free_place(random, taken, radius)
    if centre is None:
        return
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if random.integers(2):
        points = np.array(centre) + random.uniform(-radius, radius, (int(random.integers(2, 5)), 2))
        cv2.polylines(mask, [points.astype(np.int32)], False, 255, int(random.integers(2, 5)), cv2.LINE_AA)
    else:
        letter = "KRSNZ2345"[random.integers(9)]
        left, bottom = centre[0] - radius // 2, centre[1] + radius // 2
        cv2.putText(mask, letter, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, radius / 22, 255, 2, cv2.LINE_AA)
    paint(picture, mask, colour_on(random, picture[centre[1], centre[0]]))


if __name__ == "__main__":
    if len(sys.argv) > 3 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    path = sys.argv[1] if len(sys.argv) > 1 else "scene.png"
    picture, objects = draw(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    if not cv2.imwrite(path, picture):
        sys.exit(f"scenes.py: cannot write {path}: expected a name that ends with .png, in a folder that is there")
    print(json.dumps([{"class": name, "box": box} for name, *box in objects]))
