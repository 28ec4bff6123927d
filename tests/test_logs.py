"""One line a record: a fixed sentence, then its fields."""

from __future__ import annotations

import logging
import re

import pytest

from dcf.errors import ConfigError
from dcf.logs import LineFormatter, configure_logs


def line(sentence: str, **fields: object) -> str:
    record = logging.LogRecord("dcf.scheduler.control_loop", logging.INFO, "f", 1, sentence, (), None)
    vars(record).update(fields)
    return LineFormatter().format(record)


def test_record_is_one_line_with_its_fields() -> None:
    text = line("replicas changed", function="echo", to=4, reason="a burst", empty="", cause='say "x"\n=')

    at, rest = text.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert rest == (
        'info scheduler.control_loop: replicas changed function=echo to=4 reason="a burst" cause="say \\"x\\"\\n="'
    )


def test_traceback_follows_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        text = line("it failed", exc_info=(ValueError, error, error.__traceback__))

    assert "it failed\nTraceback" in text
    assert text.endswith("ValueError: why")


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="DCF_LOG_LEVEL='loud' is not allowed: expected one of debug"):
        configure_logs("loud")
