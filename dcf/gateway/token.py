"""Check the token that management calls carry.

In:   the token, or a file with it; the `authorization` of a request.
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

MAKE = "`openssl rand -hex 32` makes"

HOW = (
    "HTTP header `Authorization: Bearer <token>`, gRPC metadata `authorization` with the same value; "
    "the CLI reads it from DCF_TOKEN, or from the file that DCF_TOKEN_FILE names"
)


class ManagementToken:
    """Who may deploy, delete, scale and read logs; everybody where there is no token.

    Args:
        closed: nobody may, whatever he sends; for peers that an open gateway does not trust.
    """

    def __init__(self, token: str | None = None, *, closed: bool = False) -> None:
        self._token = token.encode() if token else None
        self._closed = closed

    def allows(self, authorization: str | bytes | None) -> bool:
        """Whether a request with this `authorization` may manage."""
        if self._closed:
            return False
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
        if self._closed:
            raise UnauthenticatedError(
                "this management call comes from another container or machine, and this cluster has no token: "
                "from there functions can be called, and nothing else; set DCF_TOKEN for the gateway to allow more"
            )
        if not self.allows(authorization):
            wrong = "was sent with another token" if authorization else "came without the cluster's token"
            raise UnauthenticatedError(f"this management call {wrong}; expected {HOW}")

    @classmethod
    def from_text(cls, text: str) -> ManagementToken:
        """The token that DCF_TOKEN holds; "": no token is asked for. Raises ConfigError."""
        if not text:
            return cls()
        # The text itself is never shown: a message ends up in logs.
        if len(text) > MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in text):
            raise ConfigError("DCF_TOKEN holds blanks or more than printable ASCII: expected a text such as " + MAKE)
        return cls(text)

    @classmethod
    def from_file(cls, path: str | None) -> ManagementToken:
        """The token in the file `path`; None: no token is asked for. Raises ConfigError."""
        if path is None:
            return cls()
        expected = "a file with the token in its only line, such as " + MAKE
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
