"""Where something may be, what it is, and how sure that is.

In the manner of R-CNN: OpenCV proposes regions with an outline, a network
says what is in each, and of boxes over one another the surest stays.
"""

import cv2
import numpy as np
from network import SIDE, Network

NOTHING = "nothing"  # the network's answer for a region that holds none of the classes
THRESHOLDS = ((15, 40), (40, 110))  # of edges: faint ones, strong ones
SMALLEST = 12  # pixels each way; what is smaller is a speck
LARGEST = 0.9  # of the picture; what is larger is its frame
MARGIN = 1.25  # a patch shows this much around its region: a shape is known by its edge
LONGEST = 1280  # pixels; a larger picture is worked on at this size
SURE = 0.6
OVERLAP = 0.4  # of two boxes; above it they are about the same thing


class Detector:
    """Knows the classes that it was trained for."""

    def __init__(self, weights, classes, xp=np):
        self.network = Network(weights, xp)
        self.classes = classes

    def __call__(self, picture):
        """[(class, confidence, (left, top, width, height))], surest first; `picture` is blue-green-red."""
        scale = min(1.0, LONGEST / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        boxes = propose(small)
        if not boxes:
            return []
        probabilities = self.network(np.stack([cut(small, box) for box in boxes]))
        found = []
        for number, box in enumerate(boxes):
            row = probabilities[number]
            best = int(row.argmax())
            if self.classes[best] != NOTHING and row[best] >= SURE:
                found.append((self.classes[best], float(row[best]), tuple(round(n / scale) for n in box)))
        return surest(found)


def propose(picture):
    """Boxes (left, top, width, height) around whatever has a closed outline."""
    smooth = cv2.medianBlur(cv2.GaussianBlur(picture, (5, 5), 0), 3)
    boxes = set()
    for low, high in THRESHOLDS:
        # Colours of one brightness have an edge between them, too: each channel is looked at.
        edges = np.maximum.reduce([cv2.Canny(channel, low, high) for channel in cv2.split(smooth)])
        closed = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        boxes.update(cv2.boundingRect(contour) for contour in contours)
    height, width = picture.shape[:2]
    return sorted(
        box
        for box in boxes
        if min(box[2:]) >= SMALLEST and not (box[2] > LARGEST * width and box[3] > LARGEST * height)
    )


def cut(picture, box):
    """The patch around a box: SIDE x SIDE x 3, as it is, not stretched."""
    left, top, width, height = box
    side = max(width, height) * MARGIN
    scale = SIDE / side
    x, y = left + width / 2 - side / 2, top + height / 2 - side / 2
    move = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    return cv2.warpAffine(picture, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def surest(found):
    """Without those that overlap with a surer one."""
    kept = []
    for one in sorted(found, key=lambda one: -one[1]):
        if all(overlap(one[2], other[2]) < OVERLAP for other in kept):
            kept.append(one)
    return kept


def overlap(one, other):
    """Intersection over union of two boxes, 0 to 1."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, wide) * max(0, high)
    return both / (one[2] * one[3] + other[2] * other[3] - both)
