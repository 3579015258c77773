"""Join tokens and host certificates: who may become a host of this cloud, and who still is.

A join token is used once: the row goes from unused to used in the transaction that signs the certificate. Only its SHA-256 is stored.
"""
from __future__ import annotations

import base64
import hashlib

import msgspec

from virga.domain.row import Row

JOIN_LIFETIME_S = 3600.0


class JoinToken(Row):
    """One leave to join. `used_by` is the host that took it, '' before. Times in seconds since the epoch."""

    __table__ = "join_tokens"
    __key__ = ("digest",)

    digest: str
    expires_at: float
    created_at: float
    used_by: str = ""
    used_at: float | None = None


class HostCertificate(Row):
    """The newest certificate of a host. Without this row its owner is refused, whatever it shows."""

    __table__ = "host_certificates"
    __key__ = ("host_id",)

    host_id: str
    host: str
    expires_at: float
    created_at: float


class Invitation(msgspec.Struct, frozen=True):
    """What a join token's text carries: where the controller is, whose signature to trust, and the secret."""

    url: str
    authority: str
    secret: str


def pack(invitation: Invitation) -> str:
    """The token as one word to paste."""
    return base64.urlsafe_b64encode(msgspec.json.encode(invitation)).decode().rstrip("=")


def unpack(token: str) -> Invitation:
    """Raises ValueError for anything that is not a join token."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=Invitation)
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError("this is not a join token; make one with `virga token`") from error


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
