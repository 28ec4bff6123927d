"""Trains the network on shapes that scenes.py draws, and writes src/weights.npz.

python train.py
"""

import os
import sys
import time

import scenes

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "src"))

import numpy as np  # noqa: E402 - scenes.py says what to install where it is missing
from detector import NOTHING, Detector, cut, overlap, propose  # noqa: E402
from network import Network, find_device, fresh_weights  # noqa: E402

CLASSES = (*scenes.CLASSES, NOTHING)
FIRST = 1_000  # scenes before this one are never trained on
SCENES = 400
EPOCHS, BATCH = 6, 32
RATE = 2e-3  # of Adam at the start; it falls to nothing
SAME = 0.6  # overlap of a region with an object from which on it shows the object


def patches_of(number):
    """(patches, answers) of one scene: each region that is proposed, and what is really there."""
    picture, objects = scenes.draw(number)
    patches, answers = [], []
    for box in propose(picture):
        there = [name for name, *truth in objects if overlap(box, truth) >= SAME]
        patches.append(cut(picture, box))
        answers.append(CLASSES.index(there[0] if there else NOTHING))
    return patches, answers


def train(patches, answers, xp, say):
    """Weights that tell the patches apart."""
    random = np.random.default_rng(0)
    network = Network(fresh_weights(len(CLASSES)), xp)
    means = {name: [xp.zeros_like(w), xp.zeros_like(w)] for name, w in network.weights.items()}
    steps, step = EPOCHS * (len(patches) // BATCH), 0
    for epoch in range(EPOCHS):
        order, losses = random.permutation(len(patches)), []
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            batch = turned(random, patches[chosen])
            loss, grads = network.gradients(xp.asarray(batch), xp.asarray(answers[chosen]))
            losses.append(loss)
            step += 1
            for name, grad in grads.items():  # Adam
                mean, square = means[name]
                mean += 0.1 * (grad - mean)
                square += 0.001 * (grad * grad - square)
                size = RATE * (1 - step / steps) * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
                network.weights[name] -= size * mean / (square**0.5 + 1e-8)
        say(f"epoch {epoch + 1} of {EPOCHS}: loss {np.mean(losses):.3f}")
    return {name: getattr(xp, "asnumpy", np.asarray)(w) for name, w in network.weights.items()}


def turned(random, patches):
    """The patches in another light and seen from another side: the same things."""
    patches = np.rot90(patches, random.integers(4), axes=(1, 2))
    patches = patches[:, :, ::-1] if random.integers(2) else patches
    return np.ascontiguousarray(patches[:, :, :, random.permutation(3)])


def main():
    """Draw, train, look at scenes that were never trained on, write."""
    begun = time.monotonic()
    xp, device, _ = find_device()
    drawn = [patches_of(FIRST + number) for number in range(SCENES)]
    patches = np.array([patch for some, _ in drawn for patch in some])
    answers = np.array([answer for _, some in drawn for answer in some])
    print(f"training on {len(patches)} patches of {SCENES} scenes, on {device}", flush=True)
    weights = train(patches, answers, xp, lambda line: print(line, flush=True))
    detector = Detector(weights, CLASSES, xp)
    found = wanted = right = 0
    for number in range(40):
        picture, objects = scenes.draw(number)
        answer = detector(picture)
        found, wanted = found + len(answer), wanted + len(objects)
        right += sum(any(name == n and overlap(box, b) > 0.5 for name, _, box in answer) for n, *b in objects)
    half = {name: values.astype(np.float16) for name, values in weights.items()}
    np.savez_compressed(os.path.join(HERE, "src", "weights.npz"), classes=np.array(CLASSES), **half)
    print(f"{right} of {wanted} new objects found, {found - right} false ones; {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    main()
