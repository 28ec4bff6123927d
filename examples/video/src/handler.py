"""Outlines and names the coloured shapes of a picture: a JPEG in, a JPEG out."""

import cv2
import numpy as np
from shapes import draw, find

import dcf


class Handler:
    """Called once per frame; it keeps nothing from one to the next, so any replica can take any frame."""

    def __call__(self, req):
        frame = read(req.input)
        draw(frame, find(frame))
        _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        return dcf.Reply(jpeg.tobytes(), content_type="image/jpeg")


def read(data):
    """The picture in `data`: rows, columns, blue-green-red. Raises InvalidInputError."""
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing in it, or more pixels than OpenCV takes
        frame = None
    if frame is None:
        raise dcf.InvalidInputError("the input is not a picture that can be read: expected a JPEG")
    return frame
