"""Writes samples/: digits that the model never saw, and one drawn with a thick pen.

python examples/digits/make_samples.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "src"))

from classifier import draw, split  # noqa: E402
from PIL import Image, ImageDraw, ImageOps  # noqa: E402


def write(folder):
    """Write every sample to `folder`; a file's name begins with its digit."""
    folder.mkdir(exist_ok=True)
    _, pictures, _, digits = split()
    for digit in range(10):
        picture = draw(next(row for row, label in zip(pictures, digits, strict=True) if label == digit), 64)
        if digit % 2:  # half of them black on white
            picture = ImageOps.invert(picture)
        picture.save(folder / f"{digit}.png")
    drawn().save(folder / "7-pen.png")


def drawn():
    """A seven of 280 pixels, black on white, as somebody would draw it with a mouse."""
    picture = Image.new("L", (280, 280), 255)
    pen = ImageDraw.Draw(picture)
    pen.line([(85, 70), (190, 70), (120, 220)], fill=0, width=24, joint="curve")
    return picture


if __name__ == "__main__":
    write(HERE / "samples")
