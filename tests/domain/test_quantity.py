"""Quantities as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcf.domain.quantity import format_duration, format_memory, parse_cpu, parse_duration, parse_gpu, parse_memory
from dcf.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5", 1.5), (7, 7), (0.25, 0.25), (" 2s ", 2), ("0", 0)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "number"),
    [("512Mi", 512 * 1024**2), ("1G", 10**9), ("1073741824", 2**30), ("1.5Ki", 1536), ("2kb", 2000),
     ("3TiB", 3 * 1024**4)],
)  # fmt: skip
def test_memory(text: str, number: int) -> None:
    assert parse_memory(text) == number


def test_cpus_and_gpus() -> None:
    assert [parse_cpu(text) for text in ("1", 0.5, "500m")] == [1.0, 0.5, 0.5]
    assert [parse_gpu(text) for text in ("2", 0)] == [2, 0]


ODD = ["", "x", "-1", "1e3", "nan", "inf", "٣", "²", "1 s", "5 Gi", True, None, "1" * 400, [], "0x1", "1,5"]


@pytest.mark.parametrize("parse", [parse_duration, parse_memory, parse_cpu, parse_gpu])
def test_anything_else_is_refused_with_the_value_and_an_example(parse: object) -> None:
    for odd in ODD:
        with pytest.raises(InvalidInputError) as caught:
            parse(odd)  # type: ignore[operator]
        assert repr(odd) in caught.value.message
        assert "such as" in caught.value.message


@pytest.mark.parametrize("parse", [parse_memory, parse_cpu])
def test_zero_is_no_limit(parse: object) -> None:
    with pytest.raises(InvalidInputError, match="above 0"):
        parse("0")  # type: ignore[operator]


@given(st.text(max_size=12))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for parse in (parse_duration, parse_memory, parse_cpu, parse_gpu):
        with contextlib.suppress(InvalidInputError):
            assert parse(text) >= 0


@given(st.integers(0, 10**10))
def test_duration_reads_back_as_it_was_formatted(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)


@given(st.integers(1, 2**50))
def test_memory_reads_back_as_it_was_formatted(number: int) -> None:
    assert parse_memory(format_memory(number)) == pytest.approx(number, rel=1e-15)


def test_formats_are_the_shortest() -> None:
    assert [format_duration(s) for s in (0, 0.5, 1, 60, 90, 5400, 7200, 0.0015)] == [
        "0s", "500ms", "1s", "1m", "90s", "90m", "2h", "1.5ms",
    ]  # fmt: skip
    assert [format_memory(n) for n in (1, 1024, 64 * 1024**2, 10**9)] == ["1", "1Ki", "64Mi", "1000000000"]
