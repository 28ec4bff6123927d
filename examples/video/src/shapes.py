"""Which coloured shapes are in a picture, and where."""

import cv2

WHITE = (255, 255, 255)
SATURATED = 110  # of 255: skin and wood have less, a coloured ball or a road sign has more
BRIGHT = 70  # of 255: in darker places the colour of a camera's picture is noise
SMALL = 0.001  # of the picture's area; what is smaller is no shape
CORNERS = {3: "triangle", 4: "rectangle"}


def find(frame):
    """(name, left, top, width, height) in pixels of each; `frame` is blue-green-red."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)
    coloured = cv2.inRange(hsv, (0, SATURATED, BRIGHT), (180, 255, 255))
    # Without specks, which the JPEG has at edges and a camera everywhere.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    coloured = cv2.morphologyEx(coloured, cv2.MORPH_OPEN, kernel)
    contours, _ = cv2.findContours(coloured, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    large = [contour for contour in contours if cv2.contourArea(contour) >= SMALL * coloured.size]
    return [(name_of(contour), *cv2.boundingRect(contour)) for contour in large]


def name_of(contour):
    """What the outline is called, from its number of corners."""
    corners = len(cv2.approxPolyDP(contour, 0.03 * cv2.arcLength(contour, True), True))
    return CORNERS.get(corners, "circle" if corners > 6 else "shape")


def draw(frame, found):
    """Put a white box around each, with its name; changes `frame`."""
    for name, left, top, width, height in found:
        cv2.rectangle(frame, (left, top), (left + width - 1, top + height - 1), WHITE, 2)
        cv2.putText(frame, name, (left, max(top - 6, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
