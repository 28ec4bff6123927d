"""What a gateway process is told at start: DCF_* variables."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from dcf.env import require
from dcf.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """One gateway process; several may share one listening socket."""

    store_url: str
    """`unix:///path/redis.sock` or `redis://host:port/0`."""
    gateway_id: str = "gateway-0"
    """Names the slice of counts that this process writes. Never shared by two that run at once."""
    listen: str = "127.0.0.1:32222"
    listen_fd: int | None = None
    """A listening socket that the parent made; no connection is reset when one of the sharers ends."""
    token_file: str | None = None
    insecure: bool = False
    """Allow management calls without a token on more than loopback."""
    backend: str = "process"
    cluster: str = "local"
    bundles: str = ""
    """Shown by /system/info, so that a CLI on this machine builds to where the scheduler reads."""
    drain_s: float = 65.0
    """Longest wait for calls in flight at a stop: the default timeout and a margin."""
    log_level: str = "info"
    ready_fd: int | None = None

    def __post_init__(self) -> None:
        require(self.drain_s >= 0, "DCF_DRAIN_S", self.drain_s, "seconds, 0 or more")
        host, port = self.address()
        if not (self.token_file or self.insecure or is_loopback(host)):
            raise ConfigError(
                f"DCF_LISTEN={host}:{port} is reachable from other machines, and anybody there could deploy code: "
                "expected DCF_TOKEN_FILE (a file with the token for management calls) or DCF_INSECURE=1"
            )

    def address(self) -> tuple[str, int]:
        """Host and port of `listen`. Raises ConfigError."""
        host, _, port = self.listen.rpartition(":")
        require(bool(host) and port.isdigit() and int(port) < 65536, "DCF_LISTEN", self.listen, "HOST:PORT")
        return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
