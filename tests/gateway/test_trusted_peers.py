"""Who may manage a gateway without a token: this host, and nobody else."""

from __future__ import annotations

import pytest

from dcf.errors import ConfigError, UnauthenticatedError
from dcf.gateway.listener import GrpcServers
from dcf.gateway.settings import GatewaySettings
from dcf.gateway.token import ManagementToken
from dcf.gateway.trusted_peers import TrustedPeers
from dcf.lifecycle import TaskSet
from dcf.rpc.grpc_server import GrpcServer
from tests.gateway.running_gateway import Cluster, Gateway

# A container on two networks: 172.19.0.0/16 with a way out, 172.20.0.0/16 without one.
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t010013AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000014AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("172.19.0.1", True),  # the bridge: the host, and whoever comes through its published port
        ("::ffff:172.19.0.1", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("172.19.0.5", False),
        ("172.20.0.5", False),
        ("172.20.0.1", False),
        ("::ffff:172.19.0.5", False),
        ("192.0.2.7", False),  # a machine that routes to the container's own address
        ("2001:db8::7", False),
        ("", False),
        (None, False),
    ],
)
def test_this_host_is_trusted_and_nobody_else(peer: str | None, is_trusted: bool) -> None:
    trusted = TrustedPeers.from_routes(ROUTES)

    assert trusted.include(peer) is is_trusted
    assert TrustedPeers().include(peer)
    ours, theirs = GrpcServer(TaskSet()), GrpcServer(TaskSet())
    servers = GrpcServers(trusted=ours, others=theirs, who=trusted)
    assert servers.of((peer, 5)) is (ours if is_trusted else theirs)
    assert servers.of("") is theirs


def test_the_routes_of_this_machine_can_be_read() -> None:
    assert TrustedPeers.of_this_host().include("127.0.0.1")


def test_what_is_published_counts_not_what_is_listened_to() -> None:
    inside = GatewaySettings(store_url="x", listen="0.0.0.0:1", published="127.0.0.1:1")
    assert inside.trusts_this_host_alone
    assert not GatewaySettings(
        store_url="x", listen="0.0.0.0:1", published="0.0.0.0:1", token="t"
    ).trusts_this_host_alone
    assert not GatewaySettings(store_url="x").trusts_this_host_alone
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
    with pytest.raises(UnauthenticatedError, match="from another container or machine"):
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
