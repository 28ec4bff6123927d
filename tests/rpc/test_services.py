"""Stubs and servers come straight from the descriptors."""

from __future__ import annotations

import grpc
import pytest

from dcf.rpc import v1_watcher_pb2
from dcf.rpc.services import Stub, generic_handler

SERVICE = v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]


def test_stub_has_exactly_the_services_methods() -> None:
    with grpc.insecure_channel("localhost:1") as channel:
        stub = Stub(channel, SERVICE)

        assert {"Attach", "Watch", "Call", "Log"} <= set(vars(stub))
        with pytest.raises(AttributeError, match="no method Nonsense"):
            stub.Nonsense  # noqa: B018


def test_implementation_without_a_method_is_refused() -> None:
    with pytest.raises(AttributeError):
        generic_handler(SERVICE, object())
