"""The model of the digits, and how a picture becomes what the model reads."""

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

SIZE = 8  # pixels a side of the data set's pictures, ink from 0 to 16
_LARGEST = 512  # a photo is made smaller first: the model sees 64 numbers in any case
_BLANK = 24  # of 255: less contrast than that between paper and ink is an empty picture


def split():
    """(training pictures, held-out pictures, their digits, the digits held out); the same at every call."""
    pictures, digits = load_digits(return_X_y=True)
    return train_test_split(pictures, digits, test_size=0.2, random_state=0, stratify=digits)


def train():
    """A classifier of rows of 64 numbers from 0 to 16; takes about a second."""
    pictures, _, digits, _ = split()
    # As they are, and each as `read_picture` would see it: so both kinds are known.
    seen = np.array([read_picture(draw(row, 64)) for row in pictures])
    model = make_pipeline(
        Nystroem(gamma=0.0014, n_components=400, random_state=0), LogisticRegression(C=100, max_iter=300)
    )
    return model.fit(np.concatenate([pictures, seen]), np.concatenate([digits, digits]))


def draw(row, side):
    """A row of the data set as a picture, white on black, `side` pixels a side."""
    small = Image.fromarray((row.reshape(SIZE, SIZE) * 255 / 16).astype(np.uint8))
    return small.resize((side, side), Image.BICUBIC)


def read_picture(picture):
    """Any picture of one digit as 64 numbers from 0 (paper) to 16 (ink).

    Raises ValueError where there is nothing on it.
    """
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode[0] in "IF":  # 16 bits a pixel and more: their range is their own
        deep = np.asarray(picture, dtype=float)
        picture = Image.fromarray((deep * 255 / max(deep.max(), 1)).astype(np.uint8))
    picture = picture.convert("L")
    picture.thumbnail((_LARGEST, _LARGEST))
    pixels = np.asarray(picture, dtype=float)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ink = np.abs(pixels - np.median(edge))  # the edge is paper, whether that is white or black
    if ink.max() < _BLANK:
        raise ValueError("the picture is empty: expected one digit on plain paper")
    ink = np.where(ink > 0.15 * ink.max(), ink / ink.max(), 0)  # faint noise is paper
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.4), np.flatnonzero(ink.max(axis=0) > 0.4)
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The data set's digits fill their eight rows; a narrow one stands in the middle.
    side = max(ink.shape)
    canvas = Image.new("L", (side, side))
    canvas.paste(
        Image.fromarray((ink * 255).astype(np.uint8)), ((side - ink.shape[1]) // 2, (side - ink.shape[0]) // 2)
    )
    small = np.asarray(ImageOps.fit(canvas, (SIZE, SIZE), Image.BOX), dtype=float)
    return (small / small.max() * 16).ravel()
