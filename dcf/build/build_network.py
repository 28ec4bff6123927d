"""How a build reaches the network: proxies, package indexes, certificates.

In:   the user's environment, and perhaps a file with certificates.
Out:  BuildNetwork. What is in it is used while the image is built, and in no layer of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi

from dcf.errors import BuildError

# Docker knows these names: a stage sees them without ARG, and no history shows them.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY")
# Stages of the Dockerfiles that install or download take them. PIP_FIND_LINKS would be a folder of this machine.
_INDEX = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
    *("GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE"),
)
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildNetwork:
    """Arguments, and the certificates that pip trusts."""

    build_args: Mapping[str, str]
    certificates: bytes | None
    """PEM: the public ones and the user's; None where the public ones are all."""
    secrets: tuple[str, ...]
    """Passwords in the addresses, which must not be shown."""

    def hide(self, text: str) -> str:
        """`text` without the passwords."""
        for secret in self.secrets:
            text = text.replace(secret, "****")
        return text


def read_network(environ: Mapping[str, str], ca: Path | None = None) -> BuildNetwork:
    """What the environment says, and `ca` (`--ca FILE`) before what it says about certificates.

    Raises:
        BuildError: `ca` cannot be read, or holds no certificate.
    """
    args: dict[str, str] = {}
    for name in _PROXIES:
        if value := environ.get(name) or environ.get(name.lower()):
            args[name] = args[name.lower()] = value
    for name in _INDEX:
        if value := environ.get(name):
            args[name] = value
    secrets = {match for value in args.values() for match in _PASSWORD.findall(value)}
    return BuildNetwork(
        build_args=args, certificates=_certificates(environ, ca), secrets=tuple(sorted(secrets, key=len, reverse=True))
    )


def _certificates(environ: Mapping[str, str], ca: Path | None) -> bytes | None:
    if ca is not None:
        try:
            content = ca.read_bytes()
        except OSError as error:
            raise BuildError(
                f"--ca {ca}: {error.strerror or error}: expected a file with certificates (PEM)"
            ) from error
        if b"-----BEGIN CERTIFICATE-----" not in content:
            raise BuildError(f"--ca {ca}: there is no certificate in it: expected PEM, -----BEGIN CERTIFICATE-----")
        return _with_public(content)
    for name in _CERTIFICATES:
        file = Path(environ.get(name) or "/")
        if file.is_file():
            content = file.read_bytes()
            if b"-----BEGIN CERTIFICATE-----" in content:
                return _with_public(content)
    return None


def _with_public(content: bytes) -> bytes:
    # A company's authority stands beside the public ones: an index may be reached with or without the proxy.
    return Path(certifi.where()).read_bytes().rstrip() + b"\n" + content.strip() + b"\n"
