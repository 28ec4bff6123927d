"""Reads a hand-written digit: a picture in, the digit and its probabilities out.

The model is made when the replica starts, from the 1 797 digits that ship with
scikit-learn; a fifth of them it never sees (the samples of this example are from there).
"""

import io

from classifier import read_picture, train
from PIL import Image, UnidentifiedImageError


class Handler:
    """Made once per replica: the model is trained here. Called once per picture."""

    def __init__(self):
        self.model = train()

    def __call__(self, req):
        try:
            picture = Image.open(io.BytesIO(req.input))
            picture.load()
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"the input is not a picture that can be read: {error}") from error
        probabilities = self.model.predict_proba(read_picture(picture).reshape(1, -1))[0]
        return {
            "digit": int(probabilities.argmax()),
            "probabilities": [round(float(value), 4) for value in probabilities],
        }
