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
    published: str = ""
    """HOST:PORT at which others reach `listen`, where a container's port is published; "": at `listen` itself."""
    token: str = ""
    """What management calls must bring; it counts before `token_file`. "": none."""
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
        self.address()
        name, seen = ("DCF_PUBLISHED", self.published) if self.published else ("DCF_LISTEN", self.listen)
        host, port = _split(name, seen)
        if not (self.has_token or self.insecure or is_loopback(host)):
            raise ConfigError(
                f"{name}={host}:{port} is reachable from other machines, and anybody there could deploy code: "
                "expected DCF_TOKEN or DCF_TOKEN_FILE (the token for management calls), or DCF_INSECURE=1"
            )

    @property
    def has_token(self) -> bool:
        """Whether management calls must bring one."""
        return bool(self.token or self.token_file)

    @property
    def trusts_this_host_alone(self) -> bool:
        """Whether others may not manage: no token is set, and a published address guards only what goes through it."""
        return bool(self.published) and not self.has_token and not self.insecure

    def address(self) -> tuple[str, int]:
        """Host and port of `listen`. Raises ConfigError."""
        return _split("DCF_LISTEN", self.listen)


def _split(name: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    require(bool(host) and port.isdigit() and int(port) < 65536, name, value, "HOST:PORT")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
