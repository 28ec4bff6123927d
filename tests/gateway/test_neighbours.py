"""Who may manage a gateway without a token: not the containers beside it."""

from __future__ import annotations

import pytest

from dcf.errors import ConfigError, UnauthenticatedError
from dcf.gateway.listener import GrpcSockets
from dcf.gateway.neighbours import Neighbours
from dcf.gateway.settings import GatewaySettings
from dcf.gateway.token import ManagementToken
from tests.gateway.running_gateway import Cluster, Gateway

# A container on two networks: 172.19.0.0/16 with a way out, 172.20.0.0/16 without one.
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t010013AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000014AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


@pytest.mark.parametrize(
    ("peer", "is_neighbour"),
    [
        ("172.19.0.5", True),
        ("172.20.0.5", True),
        ("::ffff:172.19.0.5", True),
        ("172.19.0.1", False),  # the bridge: the host, and whoever comes through its published port
        ("127.0.0.1", False),
        ("192.0.2.7", False),
        ("::1", False),
        ("", False),
        (None, False),
    ],
)
def test_neighbours_are_on_the_same_networks_and_not_the_way_out(peer: str | None, is_neighbour: bool) -> None:
    neighbours = Neighbours.from_routes(ROUTES)

    assert neighbours.include(peer) is is_neighbour
    assert not Neighbours().include(peer)
    sockets = GrpcSockets(all="all", neighbours="theirs", who=neighbours)
    assert sockets.of((peer, 5)) == ("theirs" if is_neighbour else "all")
    assert sockets.of("") == "all"


def test_the_routes_of_this_machine_can_be_read() -> None:
    assert not Neighbours.of_this_machine().include("127.0.0.1")


def test_what_is_published_counts_not_what_is_listened_to() -> None:
    inside = GatewaySettings(store_url="x", listen="0.0.0.0:1", published="127.0.0.1:1")
    assert inside.refuses_neighbours
    assert not GatewaySettings(store_url="x", listen="0.0.0.0:1", published="0.0.0.0:1", token="t").refuses_neighbours
    assert not GatewaySettings(store_url="x").refuses_neighbours
    with pytest.raises(ConfigError, match=r"DCF_PUBLISHED=0\.0\.0\.0:1 is reachable"):
        GatewaySettings(store_url="x", listen="127.0.0.1:1", published="0.0.0.0:1")
    with pytest.raises(ConfigError, match="HOST:PORT"):
        GatewaySettings(store_url="x", published="everywhere")


def test_a_token_may_be_given_itself() -> None:
    ManagementToken.from_text("open-sesame").check("Bearer open-sesame")
    ManagementToken.from_text("").check(None)
    with pytest.raises(UnauthenticatedError, match="without the cluster's token"):
        ManagementToken.from_text("open-sesame").check(None)
    with pytest.raises(ConfigError, match="DCF_TOKEN holds blanks") as refusal:
        ManagementToken.from_text("open sesame")
    assert "sesame" not in str(refusal.value)


def test_nobody_manages_a_closed_gateway() -> None:
    with pytest.raises(UnauthenticatedError, match="from another container"):
        ManagementToken(closed=True).check("Bearer anything")
    assert not ManagementToken(closed=True).allows("Bearer anything")


@pytest.mark.slow
def test_a_published_gateway_without_a_token_serves_this_host(cluster: Cluster) -> None:
    gateway = Gateway(cluster, "published", DCF_PUBLISHED="127.0.0.1:1")
    try:
        assert gateway.http("DELETE", "/system/function/none", token=None)[0] == 404
        assert gateway.http("GET", "/readyz", token=None)[0] == 200
    finally:
        gateway.stop()
