"""Show a build, a pull or a push of an image as it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcf.cli.output import Progress, say

if TYPE_CHECKING:
    from dcf.build.build_stream import Progress as ImageStep

STEP_CHARACTERS = 60
"""Of a line of the Dockerfile: the whole fits no terminal."""


class ImageProgress:
    """One line for one function: the step, and the bytes that are on their way."""

    def __init__(self, name: str, *, verbose: bool) -> None:
        self._name = name
        self._verbose = verbose
        self._line = Progress()
        self._bytes: dict[str, tuple[int, int]] = {}

    def on_step(self, step: ImageStep) -> None:
        """A line of the Dockerfile, or a layer."""
        from dcf.build.build_stream import BuildStep

        if isinstance(step, BuildStep):
            self._bytes.clear()
            if not self._verbose:
                text = " ".join(step.text.split())
                short = text if len(text) <= STEP_CHARACTERS else f"{text[: STEP_CHARACTERS - 3]}..."
                self._line.show(f"{self._name}: step {step.number} of {step.total}: {short}")
            return
        self._bytes[step.layer] = (step.done_bytes, step.total_bytes)
        done, total = (sum(column) for column in zip(*self._bytes.values(), strict=True))
        verb = {"pull": "pulling", "push": "pushing"}[step.kind]
        self._line.show(f"{self._name}: {verb} {done / 1e6:.1f} of {total / 1e6:.1f} MB")

    def on_output(self, line: str) -> None:
        """A line of the engine's."""
        if self._verbose:
            say(line)

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()
