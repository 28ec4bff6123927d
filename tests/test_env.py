"""The environment becomes settings, or stops the process with name, value and what was expected."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dcf.env import read_settings, require, write_settings
from dcf.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: str
    tick_s: float = 1.0
    number: int = 2
    flag: bool = False
    maybe: int | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        require(self.tick_s > 0, "DCF_TICK_S", self.tick_s, "seconds above 0")


def test_settings_read_back_what_was_written() -> None:
    for settings in (
        Settings(name="a"),
        Settings(name="b", tick_s=0.1, number=-3, flag=True, maybe=4, text="x y"),
    ):
        assert read_settings(Settings, write_settings(settings)) == settings


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "DCF_NAME is missing"),
        ({"DCF_NAME": "a", "DCF_TIK_S": "1"}, "DCF_TIK_S='1' is not known: expected one of DCF_NAME, DCF_TICK_S"),
        ({"DCF_NAME": "a", "DCF_TICK_S": "0"}, "expected seconds above 0"),
        ({"DCF_NAME": "a", "DCF_TICK_S": "inf"}, "DCF_TICK_S='inf' is not allowed: expected a finite number"),
        ({"DCF_NAME": "a", "DCF_NUMBER": "1.5"}, "DCF_NUMBER='1.5' is not allowed: expected a whole number"),
        ({"DCF_NAME": "a", "DCF_MAYBE": ""}, "expected a whole number"),
        ({"DCF_NAME": "a", "DCF_FLAG": "maybe"}, "DCF_FLAG='maybe' is not allowed: expected 0 or 1"),
    ],
)
def test_bad_environment_is_refused(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(Settings, environ)

    assert said in str(caught.value)


def test_names_that_the_user_has_in_a_shell_are_not_unknown() -> None:
    environ = {"DCF_NAME": "a", "DCF_GATEWAY": "x", "DCF_STATE": "y", "HOME": "/"}

    assert read_settings(Settings, environ) == Settings(name="a")
