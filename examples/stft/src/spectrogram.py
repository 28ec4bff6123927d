"""The picture of a sound: time from left to right, frequency from the bottom up, brightness for loudness.

Every sound gives a picture of the same size: column x is the moment x / WIDTH of its length, and row y from the
bottom is the frequency y / HEIGHT of half its sample rate.
"""

import io

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 800, 512
WINDOW = 2 * HEIGHT  # samples: 23 ms of a CD
RANGE_DB = 80  # so far below the loudest is black
# From silent to loud; each is brighter than the one before, also for who sees no colours.
COLOURS = [(0, 0, 4), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)]


def draw(samples):
    """The PNG of `samples`, shape (n,), n > 0."""
    power = stft(samples)
    loudest = power.max() or 1.0
    level_db = 10 * np.log10(np.maximum(power / loudest, 10 ** (-RANGE_DB / 10)))
    shades = np.rint((level_db / RANGE_DB + 1) * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shades.T[::-1]))
    picture.putpalette(palette())
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()


def stft(samples):
    """Mean power, shape (WIDTH, HEIGHT), by moment and frequency.

    A column of a long sound is the mean of all windows that begin in it; a short sound's windows overlap more.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, HEIGHT), WINDOW)
    hann = np.hanning(WINDOW).astype(np.float32)
    edges = np.linspace(0, len(windows) - 1, WIDTH + 1).astype(int)
    power = np.empty((WIDTH, HEIGHT))
    for column in range(WIDTH):
        begin, end = edges[column], edges[column + 1]
        starts = np.arange(begin, max(end, begin + 1), WINDOW // 4)
        spectra = np.fft.rfft(windows[starts] * hann, axis=1)[:, :HEIGHT]
        power[column] = np.mean(np.abs(spectra) ** 2, axis=0)
    return power


def palette():
    """256 colours as Pillow takes them: red, green, blue, red, ..."""
    at = np.linspace(0, 255, len(COLOURS))
    bands = [np.interp(np.arange(256), at, band) for band in np.transpose(COLOURS)]
    return np.rint(np.transpose(bands)).astype(np.uint8).tobytes()
