"""STATUS is total, and errors survive the wire."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcf import errors
from dcf.errors import InvocationError
from dcf.rpc.status import STATUS, error_of, from_wire, status_of, to_json, to_wire


def leaves(cls: type[InvocationError]) -> set[type[InvocationError]]:
    below = [leaf for sub in cls.__subclasses__() for leaf in leaves(sub)]
    return set(below) or {cls}


def test_every_invocation_error_has_a_status() -> None:
    assert set(STATUS) == {cls for cls in leaves(InvocationError) if cls.__module__ == "dcf.errors"}
    assert len({status.code for status in STATUS.values()}) == len(STATUS)
    assert all(hasattr(grpc.StatusCode, status.grpc) for status in STATUS.values())


def test_docstring_of_the_tree_says_the_same_statuses() -> None:
    rows = {
        line.split()[2]: line
        for line in (errors.__doc__ or "").splitlines()
        if line.startswith("│   ") and " " in line[8:]
    }

    for cls, status in STATUS.items():
        assert f" {status.http} {status.grpc}" in rows[cls.__name__]


@pytest.mark.parametrize("cls", STATUS)
def test_error_survives_the_wire(cls: type[InvocationError]) -> None:
    back = from_wire(to_wire(cls("grüße", traceback="line 1")))

    assert type(back) is cls
    assert (back.message, back.traceback) == ("grüße", "line 1")
    assert status_of(back) is STATUS[cls]


def test_subclass_has_its_parents_status_and_an_unknown_code_is_ours_to_explain() -> None:
    class Special(errors.DeadlineError):
        pass

    assert status_of(Special("x")).http == 504
    assert isinstance(error_of("no such code", "x"), errors.InternalError)
    assert to_json(error_of("overloaded", "full", function="f"))["error"]["retryable"] is True


@given(st.binary(max_size=100))
def test_error_that_cannot_be_read_is_an_internal_error(payload: bytes) -> None:
    assert isinstance(from_wire(payload), InvocationError)


@pytest.mark.parametrize("payload", [b"[]", b"3", b'"x"', b"{}", b"null", b"[" * 100_000, b'{"code": 3}'])
def test_odd_error_is_an_internal_error(payload: bytes) -> None:
    assert isinstance(from_wire(payload), errors.InternalError)


def test_half_a_surrogate_pair_becomes_text_that_grpc_can_send() -> None:
    error = from_wire(b'{"code": "handler_error", "message": "\\ud800"}')

    assert error.message.encode() == b"\\ud800"
