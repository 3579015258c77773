"""The config drive: a small ISO 9660 volume labelled `config-2` with the OpenStack metadata layout, for guests that ask no network.

Made before each start from the spec, so that a changed key or name is there after a reboot. Joliet and Rock Ridge, since both kinds of readers exist.
"""
from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path

import pycdlib

from virga.agent.hypervisor import GuestSpec
from virga.agent.metadata import complete_document

LABEL = "config-2"


def documents(spec: GuestSpec) -> dict[str, bytes]:
    """Path below the volume's root -> content."""
    document = complete_document(spec.server_id, spec.name, spec.metadata)
    files = {"openstack/latest/meta_data.json": json.dumps(document).encode(), "openstack/latest/vendor_data.json": b"{}"}
    files["openstack/latest/network_data.json"] = json.dumps({
        "links": [{"id": nic.tap, "type": "bridge", "ethernet_mac_address": nic.mac, "mtu": nic.mtu} for nic in spec.nics],
        "networks": [{"id": f"network{number}", "type": "ipv4_dhcp", "link": nic.tap, "network_id": nic.network_id}
                     for number, nic in enumerate(spec.nics)],
        "services": []}).encode()
    if spec.user_data:
        try:
            files["openstack/latest/user_data"] = base64.b64decode(spec.user_data, validate=True)
        except (binascii.Error, ValueError):
            files["openstack/latest/user_data"] = spec.user_data.encode()
    return files


def write(spec: GuestSpec, path: Path) -> None:
    """Make the volume; blocking (about 0.1 s), swapped in whole."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    iso.add_directory("/OPENSTACK", joliet_path="/openstack", rr_name="openstack")
    iso.add_directory("/OPENSTACK/LATEST", joliet_path="/openstack/latest", rr_name="latest")
    for number, (name, data) in enumerate(sorted(documents(spec).items())):
        leaf = name.rpartition("/")[2]
        iso.add_fp(io.BytesIO(data), len(data), f"/OPENSTACK/LATEST/FILE{number}.;1", rr_name=leaf, joliet_path="/" + name)
    partial = path.with_suffix(".part")
    iso.write(str(partial))
    iso.close()
    partial.rename(path)
