"""Check the token that management calls carry.

In:   a file with the token; the `authorization` of a request.
Out:  nothing, or UnauthenticatedError that says what to send.
"""

from __future__ import annotations

import hmac
import logging
import stat
from pathlib import Path

from dcf.errors import ConfigError, UnauthenticatedError

log = logging.getLogger(__name__)

MAX_TOKEN_BYTES = 4096
"""A header of more is refused by many a proxy; a longer file is some other file."""

HOW = (
    "HTTP header `Authorization: Bearer <token>`, gRPC metadata `authorization` with the same value; "
    "the CLI reads it from the file named by --token-file or DCF_TOKEN_FILE"
)


class ManagementToken:
    """Who may deploy, delete, scale and read logs; everybody where there is no token."""

    def __init__(self, token: str | None = None) -> None:
        self._token = token.encode() if token else None

    def allows(self, authorization: str | bytes | None) -> bool:
        """Whether a request with this `authorization` may manage."""
        if self._token is None:
            return True
        if not authorization:
            return False
        given = authorization if isinstance(authorization, bytes) else authorization.encode("utf-8", "surrogateescape")
        scheme, _, token = given.strip().partition(b" ")
        # Compared in constant time: how long a refusal takes says nothing about the token.
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    def check(self, authorization: str | bytes | None) -> None:
        """Raise UnauthenticatedError unless the request may manage."""
        if not self.allows(authorization):
            wrong = "was sent with another token" if authorization else "came without the cluster's token"
            raise UnauthenticatedError(f"this management call {wrong}; expected {HOW}")

    @classmethod
    def from_file(cls, path: str | None) -> ManagementToken:
        """The token in the file `path`; None: no token is asked for. Raises ConfigError."""
        if path is None:
            return cls()
        expected = "a file with the token in its only line, such as `openssl rand -hex 32` makes"
        try:
            with Path(path).expanduser().open("rb") as file:
                mode = Path(path).expanduser().stat().st_mode
                data = file.read(MAX_TOKEN_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"DCF_TOKEN_FILE={path!r} cannot be read ({error.strerror}): expected {expected}"
            ) from error
        text = data.decode("ascii", "replace").strip()
        if not text:
            raise ConfigError(f"DCF_TOKEN_FILE={path!r} is empty: expected {expected}")
        # The text itself is never shown: a message ends up in logs.
        if len(data) > MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in text):
            raise ConfigError(f"DCF_TOKEN_FILE={path!r} holds blanks or more than printable ASCII: expected {expected}")
        # A secret that Docker mounts is 0444 and only there for this container.
        if mode & (stat.S_IROTH | stat.S_IWOTH) and not path.startswith("/run/secrets/"):
            log.warning(
                "the token file is open to every user of this machine", extra={"path": path, "advice": "chmod 600"}
            )
        return cls(text)
