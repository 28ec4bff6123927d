"""What is in a .wav file: its samples as numbers.

Not Python's own `wave`: before 3.12 that refuses the newer header (WAVE_FORMAT_EXTENSIBLE), which most programs
write for 24 bits.
"""

import struct

import numpy as np

PCM, EXTENSIBLE = 1, 0xFFFE
BITS = (8, 16, 24, 32)
FORMATS = {2: "ADPCM", 3: "floating point", 6: "A-law", 7: "mu-law", 17: "ADPCM", 49: "GSM", 80: "MPEG", 85: "MP3"}


class WavError(ValueError):
    """The input is no .wav file that can be read; the text says why."""


def read(data):
    """(samples from -1 to 1, samples a second); the channels are mixed down to one. Raises WavError."""
    if not data:
        raise WavError("the input is empty: expected a .wav file")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise WavError("the input is not a .wav file: it does not begin with RIFF and WAVE")
    chunks = dict(chunks_of(data))
    if b"data" not in chunks or len(chunks.get(b"fmt ", b"")) < 16:
        raise WavError("the .wav file is broken: it has no whole fmt and data chunks")
    header = chunks[b"fmt "]
    form, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", header)
    if form == EXTENSIBLE and len(header) >= 26:
        form = struct.unpack_from("<H", header, 24)[0]
    if form != PCM:
        name = FORMATS.get(form, "unknown")
        raise WavError(f"the .wav file holds format {form} ({name}): expected PCM, which is not compressed")
    if bits not in BITS or not channels or not rate or frame_bytes != channels * bits // 8:
        raise WavError(
            f"the .wav file has {bits} bits, {channels} channels and {rate} samples a second: "
            "expected 8, 16, 24 or 32 bits, and one channel or more"
        )
    frames = len(chunks[b"data"]) // frame_bytes
    if not frames:
        raise WavError("the .wav file has no samples")
    samples = numbers_of(chunks[b"data"][: frames * frame_bytes], bits)
    return samples.reshape(frames, channels).mean(axis=1, dtype=np.float32), rate


def chunks_of(data):
    """(id, content) of each; where a length is wrong (a recording that was cut off), what is there."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def numbers_of(raw, bits):
    """The samples from -1 to 1."""
    if bits == 8:  # the one width without a sign
        return (np.frombuffer(raw, np.uint8) - np.float32(128)) / np.float32(128)
    if bits == 24:  # as 32 bits whose lowest eight are zero
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        raw, bits = wide.tobytes(), 32
    return np.frombuffer(raw, f"<i{bits // 8}").astype(np.float32) / np.float32(2 ** (bits - 1))
