"""Draws the spectrogram of a sound: a .wav in, a PNG out."""

from spectrogram import draw
from wav import WavError, read

import dcf


class Handler:
    """Called once per sound."""

    def __call__(self, req):
        try:
            samples, _ = read(req.input)
        except WavError as error:
            raise dcf.InvalidInputError(str(error)) from error
        return dcf.Reply(draw(samples), content_type="image/png")
