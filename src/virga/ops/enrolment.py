"""Letting hosts in: join tokens made and used once, certificates put on record, hosts struck off.

Each function is one transaction's work. What is signed is decided here; the signing itself (a key, no rows) is handed in.
"""
from __future__ import annotations

import re
from collections.abc import Callable

from virga.domain.enrolment import JOIN_LIFETIME_S, HostCertificate, JoinToken, digest_of
from virga.domain.placement import Host
from virga.store.db import Tx

HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
CERTIFICATE_LIFETIME_S = 30 * 86400.0


def make_token(tx: Tx, lifetime_s: float = JOIN_LIFETIME_S) -> str:
    """A new secret that lets one host join; only its digest is kept."""
    secret = tx.token_hex(24)
    tx.insert(JoinToken(digest_of(secret), tx.now + lifetime_s, tx.now))
    return secret


def use_token(tx: Tx, secret: str, host: str, sign: Callable[[str, str, float], str]) -> tuple[str, str]:
    """Use a secret for a host name: (certificate, host id). Raises ValueError with the reason; nothing is used then.

    A name that is on record keeps its host id only if its certificate was struck off (host reinstalled after `host delete`); else it is taken.
    """
    token = tx.get(JoinToken, digest_of(secret))
    if token is None:
        raise ValueError("this join token is not of this cloud")
    if token.used_by:
        raise ValueError(f"this join token was already used by {token.used_by}")
    if token.expires_at < tx.now:
        raise ValueError("this join token has expired; make a new one with `virga token`")
    if not HOST_NAME.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name (letters, digits, dots and dashes, at most 63)")
    if tx.one(HostCertificate, host=host) is not None:
        raise ValueError(f"a host called {host} has joined already; delete it first (openstack compute service delete) or choose another --name")
    known = tx.get(Host, host)
    host_id = known.id if known is not None else tx.new_id()
    certificate = sign(host_id, host, tx.now)
    tx.update(JoinToken, token.digest, used_by=host, used_at=tx.now)
    tx.put(HostCertificate(host_id, host, tx.now + CERTIFICATE_LIFETIME_S, tx.now))
    tx.emit("transition", host, "hub", "joined the cloud")
    return certificate, host_id


def why_not(tx: Tx, host_id: str, host: str) -> str:
    """Why a host that shows a valid certificate is not let in; '' if it is."""
    row = tx.get(HostCertificate, host_id)
    if row is None or row.host != host:
        return f"host {host} is not on record any more: it was deleted, or its certificate revoked"
    return ""


def renewed(tx: Tx, host_id: str, host: str) -> None:
    tx.put(HostCertificate(host_id, host, tx.now + CERTIFICATE_LIFETIME_S, tx.now))


def strike_off(tx: Tx, host: str) -> None:
    """Refuse this host from now on; its open link is cut by the hint."""
    tx.delete_where(HostCertificate, host=host)
    tx.hint("struck:" + host)
