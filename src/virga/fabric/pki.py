"""The cloud's own certificate authority: one for the controller, a client certificate a host, all EC P-256, made with `cryptography`.

Files in the state folder: ca.key and ca.crt (the authority), server.key and server.crt (the controller's end). A host's certificate carries its host id
as common name and its host name as organisation; it is short-lived and renewed over the link. Whether it still counts is decided by rows (a deleted
host is refused), never by a list of revoked serials. Private keys are made where they are used and never travel. Times are seconds since the epoch.
"""
from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME_S = 10 * 365 * 86400.0
HOST_LIFETIME_S = 30 * 86400.0
RENEW_BEFORE_S = 10 * 86400.0
CLOCK_SLACK_S = 300.0


def _when(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC)


def write_private(path: Path, data: bytes) -> None:
    """Write a file only its owner may read, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    partial.rename(path)


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a private key and keep it in `path` (mode 0600); an existing one is taken."""
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), f"{path} does not hold an EC key"
        return key
    made = ec.generate_private_key(ec.SECP256R1())
    write_private(path, made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made


def _name(common: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organisation:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


class Authority:
    """The certificate authority in a folder; made at first use."""

    def __init__(self, folder: Path, now: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate_file = folder / "ca.crt"
        self._key = new_key(folder / "ca.key")
        if not self.certificate_file.exists():
            subject = _name("Virga certificate authority")
            made = self._builder(subject, subject, self._key.public_key(), now, AUTHORITY_LIFETIME_S).add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True).sign(self._key, hashes.SHA256())
            write_private(self.certificate_file, made.public_bytes(serialization.Encoding.PEM))
        self.certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())

    def _builder(self, subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: float, lifetime_s: float) -> x509.CertificateBuilder:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public).serial_number(x509.random_serial_number())
                .not_valid_before(_when(now - CLOCK_SLACK_S)).not_valid_after(_when(now + lifetime_s))
                .add_extension(identifier, critical=False).add_extension(authority, critical=False))

    def server_files(self, now: float) -> tuple[Path, Path]:
        """Certificate and key of the controller's end, made anew at every start. Hosts check the authority, not the name."""
        key = new_key(self.folder / "server.key")
        made = self._builder(_name("virga-controller"), self.certificate.subject, key.public_key(), now, HOST_LIFETIME_S * 12).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("virga-controller")]), critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False).sign(self._key, hashes.SHA256())
        path = self.folder / "server.crt"
        write_private(path, made.public_bytes(serialization.Encoding.PEM))
        return path, self.folder / "server.key"

    def sign(self, request_pem: str, host_id: str, host: str, now: float) -> str:
        """A host's certificate from its signing request; only the key is taken from the request, never a name. Raises ValueError."""
        request = x509.load_pem_x509_csr(request_pem.encode())
        public = request.public_key()
        if not request.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey):
            raise ValueError("the signing request is not validly signed by an EC key")
        made = self._builder(_name(host_id, host), self.certificate.subject, public, now, HOST_LIFETIME_S).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host_id)]), critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False).sign(
            self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def server_context(self, now: float) -> ssl.SSLContext:
        """TLS for the controller: a client certificate of this authority is checked if shown, and needed for everything but enrolling."""
        certificate, key = self.server_files(now)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(self.certificate_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


def signing_request(key: ec.EllipticCurvePrivateKey, host: str) -> str:
    made = x509.CertificateSigningRequestBuilder().subject_name(_name(host)).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def client_context(authority_pem: str, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS for a host: the controller must be of this authority; our certificate is shown once we have one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the controller may move; who signed it is what counts
    context.load_verify_locations(cadata=authority_pem)
    if certificate is not None and key is not None:
        context.load_cert_chain(certificate, key)
    return context


def ends_at(certificate_pem: str) -> float:
    """When a certificate ends, seconds since the epoch."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc.timestamp()


def peer_of(peer: Mapping[str, object] | None) -> tuple[str, str]:
    """(host id, host name) of a checked peer certificate as ssl's getpeercert() shows it; ('', '') without one."""
    found = {"commonName": "", "organizationName": ""}
    subject = (peer or {}).get("subject", ())
    for part in subject if isinstance(subject, tuple) else ():
        for name, value in part:
            if name in found:
                found[name] = value
    return found["commonName"], found["organizationName"]
