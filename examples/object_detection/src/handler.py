"""Finds shapes in a picture: boxes, classes and confidences as JSON, and on which device."""

import os

import cv2
import numpy as np
from detector import Detector
from network import find_device

import dcf

WEIGHTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights.npz")


class Handler:
    """Made once per replica: the weights are loaded, onto the replica's GPU where it has one."""

    def __init__(self):
        if not os.path.exists(WEIGHTS):
            raise RuntimeError("weights.npz is not there: run `python train.py`, then build the function again")
        xp, self.device, why = find_device()
        print(f"detecting on {self.device}{': ' + why if why else ''}", flush=True)
        with np.load(WEIGHTS) as saved:
            weights = {name: saved[name] for name in saved.files}
        self.detect = Detector(weights, [str(name) for name in weights.pop("classes")], xp)
        self.detect(np.zeros((64, 64, 3), np.uint8))  # what is slow the first time is done before the first call

    def __call__(self, req):
        objects = [
            {"class": name, "confidence": round(confidence, 3), "box": list(box)}
            for name, confidence, box in self.detect(read(req.input))
        ]
        return {"device": self.device, "objects": objects}


def read(data):
    """The picture in `data`: rows, columns, blue-green-red. Raises InvalidInputError."""
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing in it, or more pixels than OpenCV takes
        picture = None
    if picture is None:
        raise dcf.InvalidInputError("the input is not a picture that can be read: expected a PNG or a JPEG")
    return picture
