"""Writes a sound of three seconds: a steady tone, and a chirp that rises above it.

python make_wav.py [chirp.wav]
"""

import array
import math
import sys
import wave

RATE = 16_000  # samples a second
SECONDS = 3
TONE_HZ = 1_000
CHIRP_HZ = (2_000, 7_000)  # at the beginning, at the end


def samples() -> array.array:
    """16 bits each, one channel."""
    low, high = CHIRP_HZ
    sound = array.array("h")
    for number in range(RATE * SECONDS):
        at_s = number / RATE
        tone = math.sin(2 * math.pi * TONE_HZ * at_s)
        chirp = math.sin(2 * math.pi * (low + (high - low) * at_s / SECONDS / 2) * at_s)
        sound.append(round(12_000 * (tone + chirp)))
    if sys.byteorder == "big":
        sound.byteswap()
    return sound


def write(path: str) -> None:
    """Write the sound to `path`."""
    try:
        with wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples().tobytes())
    except OSError as error:
        sys.exit(f"make_wav.py: cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    name = sys.argv[1] if len(sys.argv) > 1 else "chirp.wav"
    write(name)
    print(f"wrote {name}: {SECONDS} s, a tone of {TONE_HZ} Hz and a chirp from {CHIRP_HZ[0]} to {CHIRP_HZ[1]} Hz")
