"""Key pairs: public keys that users keep here for their servers.

Rules: a key pair belongs to a user, not to a project; an administrator may name another user since 2.10. Up to 2.91 the
service can make a pair (RSA of 2048 bits, or an X.509 certificate for type x509, which came with 2.2); the private
half is in that one answer and nowhere else. A public key that cannot be read is 400. Fingerprints are the MD5 of an
SSH key and the SHA-1 of a certificate, colon-separated, as clients print and compare them.
"""
from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.paging import PAGED, known_args, page_of, with_links
from virga.api.compute.server_views import iso_micro
from virga.api.http import Call, reply
from virga.domain.compute import Keypair
from virga.domain.errors import Problem
from virga.store.db import Exists, Tx
from virga.store.quota import project_limits

RSA_BITS = 2048
CERTIFICATE_DAYS = 3650
PUBLIC_KEY_CHARS_MAX = 16384
_NAME = re.compile(r"[a-zA-Z0-9 _-]+")
_NAME_292 = re.compile(r"[a-zA-Z0-9 _@.-]+")


def _colons(digest: str) -> str:
    return ":".join(digest[index:index + 2] for index in range(0, len(digest), 2))


def ssh_fingerprint(public_key: str) -> str:
    """MD5 of the key's bytes. Raises ValueError for what is no SSH public key."""
    parts = public_key.split()
    if len(parts) < 2:
        raise ValueError("it has no type and data")
    blob = base64.b64decode(parts[1], validate=True)
    serialization.load_ssh_public_key(f"{parts[0]} {parts[1]}".encode())
    return _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest())


def certificate_fingerprint(pem: str) -> str:
    """SHA-1 of a certificate's DER form. Raises ValueError for what is no certificate."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    der = certificate.public_bytes(serialization.Encoding.DER)
    return _colons(hashlib.sha1(der, usedforsecurity=False).hexdigest())


def fingerprint_of(kind: str, public_key: str) -> str:
    """Raises Problem 400 with the reason."""
    try:
        return ssh_fingerprint(public_key) if kind == "ssh" else certificate_fingerprint(public_key)
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        what = "an SSH public key" if kind == "ssh" else "an X.509 certificate in PEM"
        raise Problem(400, f"Keypair data is invalid: public_key is not {what} ({error}).") from None


def make_pair(kind: str, user_name: str, now: float) -> tuple[str, str]:
    """A fresh (private, public) pair, both as text; slow, so callers run it off the loop."""
    key = rsa.generate_private_key(65537, RSA_BITS)
    style = serialization.PrivateFormat.TraditionalOpenSSL if kind == "ssh" else serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption()).decode()
    if kind == "ssh":
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return private, f"{public.decode()} Generated-by-Virga"
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, user_name[:64] or "user")])
    start = datetime.fromtimestamp(now, UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(start - timedelta(days=1))
        .not_valid_after(start + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256()))
    return private, certificate.public_bytes(serialization.Encoding.PEM).decode()


def _view(call: Call, pair: Keypair) -> dict[str, Any]:
    view: dict[str, Any] = {"name": pair.name, "public_key": pair.public_key, "fingerprint": pair.fingerprint}
    if call.version >= (2, 2):
        view["type"] = pair.kind
    return view


def _user(call: Call, wanted: Any) -> str:
    """Whose key pairs are meant: one's own, or since 2.10 those of the user an administrator names."""
    if wanted is None or call.version < (2, 10):
        return call.caller.user_id
    if wanted != call.caller.user_id and not call.caller.is_admin:
        raise Problem(403, "Policy doesn't allow os_compute_api:os-keypairs to be performed on another user's keys.")
    return str(wanted)


async def list_keypairs(call: Call) -> Response:
    known_args(call, ("user_id", *PAGED))
    user_id = _user(call, call.arg("user_id"))
    pairs = await call.cloud.db.read(lambda tx: tx.find(Keypair, user_id=user_id, sort=[("name", False)]))
    more = False
    if call.version >= (2, 35):
        pairs, more = page_of(call, pairs, lambda pair: pair.name)
    views = [{"keypair": _view(call, pair)} for pair in pairs]
    return reply(200, with_links(call, "keypairs", views, more, pairs[-1].name if pairs else ""))


def _name(call: Call) -> inputs.Check:
    form = _NAME_292 if call.version >= (2, 92) else _NAME

    def check(value: Any, place: str) -> str:
        clean: str = inputs.string(1)(value, place)
        if not form.fullmatch(clean) or clean != clean.strip():
            more = ", '@', '.'" if form is _NAME_292 else ""
            raise bad(place, f"a key pair's name holds letters, digits, inner spaces, '-', '_'{more} only.")
        return clean

    return check


async def create_keypair(call: Call) -> Response:
    must_write(call, "os_compute_api:os-keypairs:create")
    fields = Fields(call, await body_of(call, "keypair"), "keypair")
    name = fields.take("name", _name(call), required=True)
    kind = fields.take("type", inputs.choice("ssh", "x509"), "ssh", since=(2, 2))
    user_id = _user(call, fields.take("user_id", inputs.string(1), since=(2, 10)))
    public_key = fields.take("public_key", inputs.string(0, PUBLIC_KEY_CHARS_MAX), required=call.version >= (2, 92))
    fields.done()
    private_key = None
    if public_key is None:
        user_name, now = call.caller.user_name, call.cloud.env.now()
        private_key, public_key = await call.cloud.env.offload(lambda: make_pair(kind, user_name, now))
    fingerprint = fingerprint_of(kind, public_key)

    def work(tx: Tx) -> Keypair:
        limit = project_limits(tx, call.cloud.config, call.caller.project_id or "", user_id)["key_pairs"]
        if 0 <= limit <= tx.count(Keypair, user_id=user_id):
            raise Problem(403, f"Quota exceeded, too many key pairs: at most {limit}.")
        pair = Keypair(user_id, name, tx.next_number("keypairs"), public_key, fingerprint, kind, tx.now)
        try:
            tx.insert(pair)
        except Exists:
            raise Problem(409, f"Key pair '{name}' already exists.") from None
        return pair

    pair = await call.cloud.db.run(work)
    view = {**_view(call, pair), "user_id": pair.user_id}
    if private_key is not None:
        view["private_key"] = private_key
    return reply(200 if call.version < (2, 2) else 201, {"keypair": view})


def _need(tx: Tx, call: Call) -> Keypair:
    pair = tx.get(Keypair, _user(call, call.arg("user_id")), call.params["name"])
    if pair is None:
        raise Problem(404, f"Keypair {call.params['name']} not found for user {_user(call, call.arg('user_id'))}")
    return pair


async def show_keypair(call: Call) -> Response:
    known_args(call, ("user_id",))
    pair = await call.cloud.db.read(lambda tx: _need(tx, call))
    return reply(200, {"keypair": {
        **_view(call, pair), "user_id": pair.user_id, "id": pair.number, "created_at": iso_micro(pair.created_at),
        "updated_at": None, "deleted": False, "deleted_at": None}})


async def delete_keypair(call: Call) -> Response:
    must_write(call, "os_compute_api:os-keypairs:delete")
    known_args(call, ("user_id",))

    def work(tx: Tx) -> None:
        pair = _need(tx, call)
        tx.delete(Keypair, pair.user_id, pair.name)

    await call.cloud.db.run(work)
    return reply(202 if call.version < (2, 2) else 204)


ROUTES = [
    ("GET", "/os-keypairs", list_keypairs),
    ("POST", "/os-keypairs", create_keypair),
    ("GET", "/os-keypairs/{name}", show_keypair),
    ("DELETE", "/os-keypairs/{name}", delete_keypair),
]
