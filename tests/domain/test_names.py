"""What may be called what."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcf.domain.names import bundle_reference, check_function_name, parse_bundle_reference, replica_name
from dcf.errors import InvalidInputError


@pytest.mark.parametrize("name", ["a", "echo", "a1", "object-detection_2", "a" * 63])
def test_good_names(name: str) -> None:
    assert check_function_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a.b", "a/b", "é", "a" * 64, "a\n", " a", "-a", "aB"])
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a lower-case letter"):
        check_function_name(name)


def test_replica_and_bundle_names_are_deterministic() -> None:
    assert replica_name("echo", 3, 0) == "echo-g3-0"
    reference = bundle_reference("echo", "0123456789abcdef")
    assert reference == "bundle:echo@0123456789ab"
    assert parse_bundle_reference(reference) == ("echo", "0123456789ab")


@pytest.mark.parametrize("image", ["", "echo", "bundle:echo", "bundle:echo@short", "bundle:../../etc@0123456789ab"])
def test_other_images_are_no_bundles(image: str) -> None:
    assert parse_bundle_reference(image) is None


@given(st.text(max_size=30))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    parse_bundle_reference(text)
    with contextlib.suppress(InvalidInputError):
        assert check_function_name(text) == text
