"""A host's own certificate: made when it joins, kept in the agent's folder, renewed over the link while it still counts.

Files: host.key (never leaves this machine), host.crt, ca.crt, and joined.json (controller URL, host id, name).
"""
from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from virga.domain.enrolment import unpack
from virga.fabric import pki
from virga.fabric.websocket import enrol
from virga.runtime.env import Env


class Joined(msgspec.Struct, frozen=True):
    """What joining left behind."""

    url: str
    host: str
    host_id: str


class HostIdentity:
    """agent.session.Identity in a folder."""

    def __init__(self, env: Env, folder: Path) -> None:
        self._env, self.folder = env, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._joined_file = folder / "joined.json"
        self._contexts: list[ssl.SSLContext] = []

    def joined(self) -> Joined | None:
        """Where this host belongs, or None before it has joined."""
        return msgspec.json.decode(self._joined_file.read_bytes(), type=Joined) if self._joined_file.exists() else None

    async def join(self, token: str, host: str) -> Joined:
        """Enrol with a join token. Raises ValueError (not a token), fabric.websocket.Refused, OSError (cannot be reached)."""
        invitation = unpack(token)
        key = pki.new_key(self.folder / "host.key")
        certificate, host_id = await enrol(invitation.url, invitation.authority, invitation.secret, host, pki.signing_request(key, host))
        pki.write_private(self.folder / "ca.crt", invitation.authority.encode())
        pki.write_private(self.folder / "host.crt", certificate.encode())
        joined = Joined(invitation.url, host, host_id)
        pki.write_private(self._joined_file, msgspec.json.encode(joined))
        return joined

    def context(self) -> ssl.SSLContext:
        """TLS for dialling the controller."""
        return pki.client_context((self.folder / "ca.crt").read_text(encoding="ascii"), self.folder / "host.crt", self.folder / "host.key")

    def keep_current(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Let a long-lived TLS context show the newest certificate, also after a renewal."""
        context.load_cert_chain(self.folder / "host.crt", self.folder / "host.key")
        self._contexts.append(context)
        return context

    def moved(self, token: str) -> Joined | None:
        """Take a controller's new address from a join token of the same cloud. Raises ValueError for another cloud's."""
        joined = self.joined()
        invitation = unpack(token)
        if joined is None:
            return None
        if invitation.authority != (self.folder / "ca.crt").read_text(encoding="ascii"):
            raise ValueError(f"this host has joined another cloud ({joined.url}) already; remove {self.folder} if it is to leave that one")
        joined = Joined(invitation.url, joined.host, joined.host_id)
        pki.write_private(self._joined_file, msgspec.json.encode(joined))
        return joined

    def request(self) -> str:
        joined = self.joined()
        certificate = self.folder / "host.crt"
        if joined is None or pki.ends_at(certificate.read_text(encoding="ascii")) - self._env.now() > pki.RENEW_BEFORE_S:
            return ""
        return pki.signing_request(pki.new_key(self.folder / "host.key"), joined.host)

    def renewed(self, certificate: str) -> None:
        pki.write_private(self.folder / "host.crt", certificate.encode())
        for context in self._contexts:
            context.load_cert_chain(self.folder / "host.crt", self.folder / "host.key")
