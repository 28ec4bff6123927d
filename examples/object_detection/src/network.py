"""A small convolutional network: what is on a patch of 24 x 24 pixels?

All its arithmetic goes through one array module: NumPy on the CPU, CuPy on a
GPU. They have the same functions, so this is written once.
"""

import os

import numpy

SIDE = 24  # pixels of a patch, each way
HIDDEN = 64


def find_device():
    """(array module, name of the device, why it is not a GPU)."""
    try:
        import cupy
    except ImportError as error:
        return numpy, "cpu", f"CuPy cannot be imported ({error})"
    try:
        # A product, not only a count: a driver that is too old for CuPy is noticed here, not in the first call.
        ones = cupy.ones((8, 8), numpy.float32)
        cupy.asnumpy(ones @ ones)
    except Exception as error:  # CuPy has a class of its own for each library that may fail
        return numpy, "cpu", f"CuPy cannot use a GPU ({error})"
    # DCF names the GPU that is this replica's own.
    mine = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return cupy, f"cuda:{mine or 0}", ""


def fresh_weights(classes, seed=0):
    """Random weights for `classes` answers, as a dict of arrays."""
    random = numpy.random.default_rng(seed)
    sizes = {
        "conv1": (5 * 5 * 3, 16),  # 24 x 24 pixels to 20 x 20, pooled to 10 x 10
        "conv2": (3 * 3 * 16, 32),  # 10 x 10 to 8 x 8, pooled to 4 x 4
        "full1": (4 * 4 * 32, HIDDEN),
        "full2": (HIDDEN, classes),
    }
    weights = {}
    for name, (fan_in, fan_out) in sizes.items():
        weights[name] = random.normal(0, (2 / fan_in) ** 0.5, (fan_in, fan_out)).astype(numpy.float32)
        weights[name + "_bias"] = numpy.zeros(fan_out, numpy.float32)
    return weights


class Network:
    """Weights on one device."""

    def __init__(self, weights, xp=numpy):
        self.xp = xp
        self.weights = {name: xp.asarray(values, dtype=numpy.float32) for name, values in weights.items()}

    def __call__(self, patches):
        """Probabilities, shape (n, classes); `patches` is uint8, shape (n, SIDE, SIDE, 3), in the computer's memory."""
        probabilities, _ = self.forward(self.xp.asarray(patches))
        return getattr(self.xp, "asnumpy", numpy.asarray)(probabilities)

    def forward(self, patches):
        """Probabilities, and what `gradients` needs of the way there."""
        xp, w = self.xp, self.weights
        x = patches.astype(xp.float32) / 255
        # Each patch by itself: whether a shape is dark on light or light on dark says nothing of what it is.
        x = (x - x.mean(axis=(1, 2), keepdims=True)) / (x.std(axis=(1, 2, 3), keepdims=True) + 0.02)
        columns1 = windows(xp, x, 5)
        pooled1, best1 = pool(xp, columns1 @ w["conv1"] + w["conv1_bias"])
        columns2 = windows(xp, xp.maximum(pooled1, 0), 3)
        pooled2, best2 = pool(xp, columns2 @ w["conv2"] + w["conv2_bias"])
        flat = xp.maximum(pooled2, 0).reshape(len(x), -1)
        hidden = xp.maximum(flat @ w["full1"] + w["full1_bias"], 0)
        scores = hidden @ w["full2"] + w["full2_bias"]
        scores = xp.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = scores / scores.sum(axis=1, keepdims=True)
        return probabilities, (columns1, pooled1, best1, columns2, pooled2, best2, flat, hidden)

    def gradients(self, patches, labels):
        """(mean loss, gradient of each weight) for `labels`, shape (n,), the numbers of the right answers."""
        xp, w = self.xp, self.weights
        probabilities, (columns1, pooled1, best1, columns2, pooled2, best2, flat, hidden) = self.forward(patches)
        rows = xp.arange(len(labels))
        loss = -xp.log(probabilities[rows, labels] + 1e-9).mean()
        by_scores = probabilities.copy()
        by_scores[rows, labels] -= 1
        by_scores /= len(labels)
        grads = {"full2": hidden.T @ by_scores, "full2_bias": by_scores.sum(axis=0)}
        by_hidden = (by_scores @ w["full2"].T) * (hidden > 0)
        grads["full1"], grads["full1_bias"] = flat.T @ by_hidden, by_hidden.sum(axis=0)
        by_pooled2 = (by_hidden @ w["full1"].T).reshape(pooled2.shape) * (pooled2 > 0)
        by_conv2 = unpool(xp, by_pooled2, best2)
        grads["conv2"], grads["conv2_bias"] = product(columns2, by_conv2), by_conv2.sum(axis=(0, 1, 2))
        by_pooled1 = from_windows(xp, by_conv2 @ w["conv2"].T, 3, pooled1.shape) * (pooled1 > 0)
        by_conv1 = unpool(xp, by_pooled1, best1)
        grads["conv1"], grads["conv1_bias"] = product(columns1, by_conv1), by_conv1.sum(axis=(0, 1, 2))
        return float(loss), grads


def windows(xp, x, size):
    """Every window of size x size as a row: (n, h, w, c) to (n, h - size + 1, w - size + 1, size * size * c)."""
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    parts = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return xp.concatenate(parts, axis=3)


def from_windows(xp, rows, size, shape):
    """The sum of what every window says of each pixel: the way back through `windows`."""
    x = xp.zeros(shape, rows.dtype)
    height, width, channels = rows.shape[1], rows.shape[2], shape[3]
    for number in range(size * size):
        i, j = divmod(number, size)
        x[:, i : i + height, j : j + width] += rows[:, :, :, number * channels : (number + 1) * channels]
    return x


def pool(xp, x):
    """The largest of each 2 x 2 pixels, and where it was."""
    n, height, width, channels = x.shape
    fours = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    largest = fours.max(axis=(2, 4))
    return largest, fours == largest[:, :, None, :, None]


def unpool(xp, grad, best):
    """The way back through `pool`."""
    n, height, _, width, _, channels = best.shape
    return (best * grad[:, :, None, :, None]).reshape(n, 2 * height, 2 * width, channels)


def product(rows, grad):
    """The gradient of a matrix that every window was multiplied with."""
    return rows.reshape(-1, rows.shape[3]).T @ grad.reshape(-1, grad.shape[3])
