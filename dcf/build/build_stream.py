"""What an engine says while it builds, pulls and pushes: read into steps, lines and bytes.

In:   the engine's messages, one mapping each. Out: calls of `on_step` and `on_output`.
Raises BuildError with the failing step and its last lines.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dcf.build.steps import OnOutput
from dcf.errors import BuildError

LAST_LINES = 20
"""Enough for pip's or apt's reason, which stands at its end."""
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The engine's own notes between two steps.
_NOTE = re.compile(
    r" ---> .*|Removing intermediate container .*|Successfully (built|tagged) .*|\[Warning\] One or more build-args .*"
)
_TRANSFERS = {"Downloading": "pull", "Download complete": "pull", "Pull complete": "pull", "Already exists": "pull",
              "Pushing": "push", "Pushed": "push", "Layer already exists": "push"}  # fmt: skip
_DONE = frozenset({"Download complete", "Pull complete", "Already exists", "Pushed", "Layer already exists"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """A line of the Dockerfile begins."""

    number: int
    total: int
    text: str
    """`RUN pip install ...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A layer is on its way from or to a registry."""

    kind: str
    """`pull` or `push`."""
    layer: str
    done_bytes: int
    total_bytes: int
    """0: not known."""
    finished: bool


Progress = BuildStep | Transfer
OnStep = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """What a stream came to."""

    image_id: str
    """"" where it told none."""
    digest: str
    """Of what was pushed; "" where nothing was."""
    notices: tuple[str, ...]
    """Lines that a stage of ours meant for people."""


def read_stream(
    messages: Iterable[Mapping[str, Any]],
    *,
    what: str,
    on_step: OnStep,
    on_output: OnOutput,
    hide: Callable[[str], str] = str,
    arguments: Mapping[str, str] | None = None,
) -> StreamEnd:
    """Follow a build, a pull or a push to its end.

    Args:
        what: is done, for the error: "build hello".
        hide: takes out of every line what must not be shown.
        arguments: by which a `FROM ${BASE_IMAGE}` is shown as what it stands for.

    Raises:
        BuildError: the stream told an error.
    """
    step, image_id, digest = "", "", ""
    last: deque[str] = deque(maxlen=LAST_LINES)
    notices: list[str] = []
    sizes: dict[str, int] = {}
    failure = ""
    for message in messages:
        if error := message.get("error") or (message.get("errorDetail") or {}).get("message"):
            # Read on to the stream's end, which is near: the SDK would leave its connection open otherwise.
            failure = failure or _failure(what, step, hide(str(error)).strip(), list(last))
        aux = message.get("aux") or {}
        if isinstance(aux, Mapping):
            image_id, digest = str(aux.get("ID") or image_id), str(aux.get("Digest") or digest)
        if transfer := _transfer(message, sizes):
            on_step(transfer)
        for line in _lines(message.get("stream")):
            text = hide(line)
            if _STEP.fullmatch(text):
                text = _filled_in(text, arguments or {})
            if begun := _STEP.fullmatch(text):
                step = text
                last.clear()
                on_step(BuildStep(number=int(begun[1]), total=int(begun[2]), text=begun[3]))
            elif not _NOTE.fullmatch(text):
                last.append(text)
            if text.startswith("dcf: notice: "):
                notices.append(text.removeprefix("dcf: notice: "))
            on_output(text)
    if failure:
        raise BuildError(failure)
    return StreamEnd(image_id=image_id, digest=digest, notices=tuple(notices))


def _filled_in(step: str, arguments: Mapping[str, str]) -> str:
    if " : FROM " in step:
        for name, value in arguments.items():
            step = step.replace(f"${{{name}}}", value)
    return step


def _lines(stream: Any) -> Iterable[str]:
    if isinstance(stream, str):
        for line in _COLOUR.sub("", stream).splitlines():
            if line.strip():
                yield line.rstrip()


def _transfer(message: Mapping[str, Any], sizes: dict[str, int]) -> Transfer | None:
    status, layer = str(message.get("status") or ""), str(message.get("id") or "")
    kind = _TRANSFERS.get(status)
    if kind is None or not layer:
        return None
    detail = message.get("progressDetail") or {}
    sizes[layer] = int(detail.get("total") or sizes.get(layer, 0))
    finished = status in _DONE
    return Transfer(
        kind=kind,
        layer=layer,
        done_bytes=sizes[layer] if finished else int(detail.get("current") or 0),
        total_bytes=sizes[layer],
        finished=finished,
    )


def _failure(what: str, step: str, error: str, last: list[str]) -> str:
    reason = next((line for line in reversed(last) if line.startswith("dcf: ")), "").removeprefix("dcf: ")
    head = f"could not {what}: {reason or error}{_advice(error)}"
    lines = [head]
    if step:
        lines.append(f"the failing step: {step}")
    return "\n".join([*lines, *last])


def _advice(error: str) -> str:
    """What to do about an engine's own error."""
    if "exec format error" in error or ("no such file or directory" in error and "/opt/dcf" in error):
        return "; is the base of another architecture than WATCHER_IMAGE?"
    if "nvidia/cuda" in error and ("not found" in error or "manifest unknown" in error):
        return "; NVIDIA deletes old images in time: name a copy of it with BASE_IMAGE, or take a newer CUDA_VERSION"
    if "no such host" in error or "dial tcp" in error or "Client.Timeout" in error:
        return (
            "; the engine has no such image, and reaches no registry to fetch it from: load it (docker load), "
            "or name another one in build_args"
        )
    if "pull access denied" in error or "manifest unknown" in error or "not found: manifest" in error:
        return "; is its name right, and are you logged in (docker login)?"
    return ""
