"""Any cutting of a byte stream gives the same frames; garbage gives ProtocolError and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcf.errors import ProtocolError
from dcf.rpc import frames
from dcf.rpc.frames import HEADER, MAX_FRAME_BYTES, Frame, FrameReader, iter_frames, pack

FRAMES = st.lists(
    st.builds(
        Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=200)
    ),
    max_size=20,
)  # fmt: skip


def packed(batch: list[Frame]) -> bytes:
    return b"".join(pack(call_id, kind, payload, flags) for call_id, kind, flags, payload in batch)


@given(batch=FRAMES, data=st.data())
def test_any_cutting_of_a_stream_gives_the_same_frames(batch: list[Frame], data: st.DataObject) -> None:
    stream = packed(batch)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    reader = FrameReader()

    got = [
        frame
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for frame in reader.feed(stream[start:end])
    ]

    assert got == batch
    assert list(iter_frames(stream)) == batch


@given(batch=FRAMES.filter(bool), missing=st.integers(1, 9))
def test_message_that_is_cut_short_is_refused_as_a_whole(batch: list[Frame], missing: int) -> None:
    with pytest.raises(ProtocolError):
        iter_frames(packed(batch)[:-missing])


@given(garbage=st.binary(max_size=400))
def test_garbage_gives_nothing_but_protocol_errors(garbage: bytes) -> None:
    readers = (
        lambda: list(iter_frames(garbage)), lambda: FrameReader().feed(garbage), lambda: frames.unpack_open(garbage),
        lambda: frames.unpack_reply(garbage), lambda: frames.unpack_credit(garbage),
        lambda: frames.unpack_json(garbage),
    )  # fmt: skip
    for read in readers:
        with contextlib.suppress(ProtocolError):
            read()


@given(
    deadline_ms=st.integers(0, 2**32 - 1), invocation_id=st.binary(max_size=255), metadata=st.binary(max_size=300),
    body=st.binary(max_size=300), flags=st.integers(0, 7),
)  # fmt: skip
def test_open_reads_back_what_was_packed(
    deadline_ms: int, invocation_id: bytes, metadata: bytes, body: bytes, flags: int
) -> None:
    data = frames.pack_open(
        7, deadline_ms=deadline_ms, invocation_id=invocation_id, metadata=metadata, body=body, flags=flags
    )

    (frame,) = iter_frames(data)

    assert (frame.call_id, frame.kind, frame.flags) == (7, frames.OPEN, flags)
    assert frames.unpack_open(frame.payload) == (deadline_ms, invocation_id, metadata, body)


def test_frame_over_the_limit_is_refused_before_it_is_collected() -> None:
    head = HEADER.pack(MAX_FRAME_BYTES + 1, 1, frames.DATA, 0)

    for read in (FrameReader().feed, iter_frames):
        with pytest.raises(ProtocolError, match="at most"):
            read(head)


def test_worker_and_dcf_have_the_same_numbers() -> None:
    from dcf.watcher.worker import worker

    for name in (
        "PROTOCOL", "HELLO", "STATE", "OPEN", "DATA", "REPLY", "ERROR", "REFUSED", "CANCEL", "CREDIT", "SHUTDOWN",
        "BATCH", "LAST", "STREAM", "END", "CONTENT_SHIFT", "MESH_BIT", "PIECE_BYTES", "WINDOW_BYTES",
        "STREAM_PIECE_BYTES", "STREAM_WINDOW_BYTES", "FRAME_COST_BYTES", "MAX_FRAME_BYTES", "BYTES", "TEXT", "JSON",
    ):  # fmt: skip
        assert getattr(worker, name) == getattr(frames, name), name
    for name in ("HEADER", "OPEN_PREFIX", "REPLY_PREFIX"):
        assert getattr(worker, name).format == getattr(frames, name).format


def test_protocol_document_has_the_same_numbers() -> None:
    text = (Path(__file__).parents[2] / "proto" / "worker.md").read_text(encoding="utf-8")

    for name in (
        "HELLO",
        "STATE",
        "OPEN",
        "DATA",
        "REPLY",
        "ERROR",
        "REFUSED",
        "CANCEL",
        "CREDIT",
        "SHUTDOWN",
        "BATCH",
    ):
        assert f"| {getattr(frames, name)} | `{name}` |" in text
    for number in (frames.PIECE_BYTES, frames.WINDOW_BYTES, frames.STREAM_WINDOW_BYTES, frames.MAX_FRAME_BYTES):
        assert f"{number:,}".replace(",", " ") in text
