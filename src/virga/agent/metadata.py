"""The metadata service of one network on one host: HTTP at 169.254.169.254, inside the network's DHCP namespace.

Who asks is told from where: (network, source address) names a port of this host, the port names the server. Anti-spoofing makes the source address
trustworthy. It answers the paths of the OpenStack metadata layout (`/openstack/<version>/...`) and of the older EC2 one (`/latest/meta-data/...`),
from the host view only; a guest of another network or an address nobody has gets 404. Requests are small and read with limits; no body is taken.
"""
from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
from collections.abc import Callable
from typing import Any

from virga.domain.hostview import HostView, InstanceView

ADDRESS, PORT = "169.254.169.254", 80
OPENSTACK_VERSIONS = ("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "latest")
EC2_VERSIONS = ("1.0", "2007-01-19", "2007-03-01", "2008-02-01", "2008-09-01", "2009-04-04", "latest")
REQUEST_MAX_BYTES = 16384
REQUEST_TIMEOUT_S = 10.0


def instance_at(view: HostView, network_id: str, address: str) -> tuple[InstanceView, str] | None:
    """The server that has this address on this network here, and its fixed address."""
    for port in view.ports:
        if port.network_id == network_id and any(fixed.address == address for fixed in port.addresses):
            for instance in view.instances:
                if instance.server_id == port.server_id:
                    return instance, address
    return None


def complete_document(server_id: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """meta_data.json: what the controller gave, and what follows from it (`public_keys` by name from the `keys` list, the uuid)."""
    document: dict[str, Any] = {"uuid": server_id, "name": name, "hostname": name, **given}
    if "public_keys" not in document and document.get("keys"):
        document["public_keys"] = {str(key["name"]): str(key["data"]) for key in document["keys"]}
    return document


def document_of(instance: InstanceView) -> dict[str, Any]:
    return complete_document(instance.server_id, str(instance.document.get("name", "")), instance.document)


def user_data_of(instance: InstanceView) -> bytes | None:
    """The user data as bytes; None when there is none or it is not base64."""
    if not instance.user_data:
        return None
    try:
        return base64.b64decode(instance.user_data, validate=False)
    except (binascii.Error, ValueError):
        return None


def _ec2(instance: InstanceView, address: str, parts: list[str]) -> str | None:
    document = document_of(instance)
    keys = [str(key) for key in dict(document.get("public_keys", {})).values()]
    names = list(dict(document.get("public_keys", {})))
    hostname = str(document.get("hostname", document.get("name", "")))
    values: dict[str, str] = {
        "ami-id": "", "ami-launch-index": str(document.get("launch_index", 0)), "hostname": hostname, "local-hostname": hostname,
        "public-hostname": hostname, "instance-id": instance.server_id, "local-ipv4": address, "public-ipv4": instance.floating.get(address, ""),
        "reservation-id": str(document.get("reservation_id", "")), "security-groups": "",
        "placement/availability-zone": str(document.get("availability_zone", "nova")),
    }
    if not parts or parts == [""]:
        top = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in values} | ({"public-keys/"} if keys else set()))
        return "\n".join(top)
    path = "/".join(part for part in parts if part)
    if path == "public-keys" and keys:
        return "\n".join(f"{number}={name}" for number, name in enumerate(names))
    if path.startswith("public-keys/"):
        pieces = path.split("/")
        number = int(pieces[1]) if pieces[1].isdigit() else len(keys)
        if number >= len(keys):
            return None
        return "openssh-key" if len(pieces) == 2 else (keys[number].rstrip("\n") + "\n" if pieces[2:] == ["openssh-key"] else None)
    if path == "placement":
        return "availability-zone"
    return values.get(path)


def respond(view: HostView, network_id: str, peer: str, method: str, path: str) -> tuple[int, str, bytes]:
    """(status, content type, body) for one request. Pure."""
    if method not in ("GET", "HEAD"):
        return 405, "text/plain", b"only GET\n"
    found = instance_at(view, network_id, peer)
    if found is None:
        return 404, "text/plain", b"no server has this address on this network\n"
    instance, address = found
    parts = path.split("?", 1)[0].split("/")[1:]
    if parts in ([""], []):
        return 200, "text/plain", ("\n".join((*EC2_VERSIONS, "openstack")) + "\n").encode()
    if parts[0] == "openstack":
        return _openstack(instance, [part for part in parts[1:] if part])
    if parts[0] in EC2_VERSIONS:
        rest = parts[1:]
        if rest in ([], [""]):
            return 200, "text/plain", b"meta-data/\n" + (b"user-data\n" if user_data_of(instance) is not None else b"")
        if rest[0] == "user-data":
            data = user_data_of(instance)
            return (404, "text/plain", b"no user data\n") if data is None else (200, "application/octet-stream", data)
        if rest[0] == "meta-data":
            text = _ec2(instance, address, rest[1:])
            if text is not None:
                return 200, "text/plain", text.encode()
    return 404, "text/plain", b"there is no such path\n"


def _openstack(instance: InstanceView, parts: list[str]) -> tuple[int, str, bytes]:
    if not parts:
        return 200, "text/plain", ("\n".join(OPENSTACK_VERSIONS) + "\n").encode()
    if parts[0] not in OPENSTACK_VERSIONS:
        return 404, "text/plain", b"there is no such version\n"
    data = user_data_of(instance)
    if len(parts) == 1:
        names = ["meta_data.json", *(["user_data"] if data is not None else []), "vendor_data.json", "network_data.json", "vendor_data2.json"]
        return 200, "text/plain", ("\n".join(names) + "\n").encode()
    if parts[1:] == ["meta_data.json"]:
        return 200, "application/json", json.dumps(document_of(instance)).encode()
    if parts[1:] == ["user_data"] and data is not None:
        return 200, "application/octet-stream", data
    if parts[1:] in (["vendor_data.json"], ["vendor_data2.json"]):
        return 200, "application/json", b"{}"
    if parts[1:] == ["network_data.json"]:
        return 200, "application/json", json.dumps({"links": [], "networks": [], "services": []}).encode()
    return 404, "text/plain", b"there is no such path\n"


REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class MetadataServer:
    """Serves one network from one listening socket. `view` gives the newest host view."""

    def __init__(self, network_id: str, view: Callable[[], HostView]) -> None:
        self.network_id = network_id
        self._view = view
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=REQUEST_MAX_BYTES)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection, HTTP/1.1 with `Connection: close`."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                words = head.split("\r\n", 1)[0].split(" ")
                peer = str(writer.get_extra_info("peername")[0])
                if len(words) == 3 and words[1].startswith("/"):
                    status, kind, body = respond(self._view(), self.network_id, peer, words[0], words[1])
                else:
                    status, kind, body = 400, "text/plain", b"not an HTTP request\n"
                text = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(text.encode() + (b"" if words[0] == "HEAD" else body))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a guest that talks nonsense or goes away gets no answer
        finally:
            writer.close()
